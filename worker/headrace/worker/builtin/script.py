"""`script`: a piece of code with data for it; what it prints is its result."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.worker.builtin.process import CAPTURE_TAIL_BYTES
from headrace.worker.builtin.shell import CommandOutputs, command_line, run_command
from headrace.worker.handlers import Context, HandlerError, handler
from headrace.worker.scalars import text_of

RESULT_BYTES_MAX: Final = 64 * 1024 * 1024
ENV_VALUE_BYTES_MAX: Final = 96 * 1024
"""Linux takes 128 KiB in one variable; larger data is in the file alone."""

# Compiled under the script's own name, so that tracebacks show the user's lines.
_PYTHON: Final = """\
import os, sys
with open(os.environ["HEADRACE_INPUT_FILE"], encoding="utf-8") as file:
    input_data = file.read()
sys.argv = sys.argv[1:]
with open(sys.argv[0], encoding="utf-8") as file:
    code = compile(file.read(), sys.argv[0], "exec")
exec(code, {"__name__": "__main__", "__file__": sys.argv[0], "input_data": input_data})
"""
_NODE: Final = """\
globalThis.input_data = require("fs").readFileSync(process.env.HEADRACE_INPUT_FILE, "utf8");
"""
_SUFFIXES: Final = {"python": ".py", "node": ".js", "sh": ".sh", "bash": ".sh"}
_ALIASES: Final = {"python3": "python", "shell": "sh", "javascript": "node", "js": "node"}


class ScriptInputs(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename={"working_directory": "working-directory"},
):
    """The code and its data."""

    code: str = ""
    file: str = ""
    """A file in the workspace; this or `code`."""
    language: str = "python"
    """`python`, `sh`, `bash` or `node`."""
    args: list[str | int | float | bool] = []
    input: Any = msgspec.UNSET
    """Data for the code: on its standard input, in the file `$HEADRACE_INPUT_FILE`, in
    `$INPUT_DATA` if it is not too long, and for python and node in the variable `input_data`.
    Anything but text is given as JSON."""
    input_data: Any = msgspec.UNSET
    """The same, as the `tasks:` dialect spells it."""
    working_directory: str = ""
    env: dict[str, str | int | float | bool | None] = {}


class ScriptOutputs(CommandOutputs, omit_defaults=True, rename="kebab", kw_only=True):
    """The same as of a command, and what it printed as a value."""

    result: Any


@handler("script", outputs=ScriptOutputs)
async def script(ctx: Context, inputs: ScriptInputs) -> dict[str, Any]:
    """Run the code; output `result` is its stdout, parsed if that is JSON."""
    if bool(inputs.code) == bool(inputs.file):
        raise HandlerError("invalid-input", "script: give either code or file", False)
    data = inputs.input if inputs.input is not msgspec.UNSET else inputs.input_data
    if data is msgspec.UNSET or data is None:
        data = ""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    env = {name: text_of(value) for name, value in inputs.env.items()}

    def prepare(folder: Path, variables: dict[str, str]) -> list[str]:
        data_file = folder / "input-data"
        data_file.write_text(text)
        variables["HEADRACE_INPUT_FILE"] = str(data_file)
        if len(text.encode()) <= ENV_VALUE_BYTES_MAX and "\x00" not in text:
            variables["INPUT_DATA"] = text
        return _command(inputs, folder, ctx.workspace, variables.get("PATH"))

    outputs = await run_command(
        ctx,
        prepare,
        working_directory=inputs.working_directory,
        env=env,
        stdin=text.encode() if text else None,
        stdout_bytes_max=RESULT_BYTES_MAX,
    )
    stdout = outputs["stdout"]
    if outputs.get("stdout-truncated"):
        # A piece of a result is no result.
        text = f"the script printed over {RESULT_BYTES_MAX} bytes"
        raise HandlerError("result-too-large", text, False, output={"stdout": stdout})
    outputs["result"] = parse_result(stdout)
    if len(stdout) > CAPTURE_TAIL_BYTES:
        # It is in the result already.
        outputs["stdout"] = ctx.output.masker.tail(stdout[-CAPTURE_TAIL_BYTES:])
        outputs["stdout-truncated"] = True
    return outputs


def parse_result(stdout: str) -> Any:
    """Return the JSON value that *stdout* is, else its text without the last line break."""
    try:
        return json.loads(stdout)
    except (ValueError, RecursionError):
        return stdout.rstrip("\r\n")


def _command(inputs: ScriptInputs, folder: Path, workspace: Path, path: str | None) -> list[str]:
    language = inputs.language.lower()
    language = _ALIASES.get(language, language)
    if language not in _SUFFIXES:
        text = f"script: language {inputs.language!r} is none of {', '.join(_SUFFIXES)}"
        raise HandlerError("invalid-input", text, False)
    code_file = workspace / inputs.file
    if inputs.code:
        code_file = folder / f"script{_SUFFIXES[language]}"
        code_file.write_text(inputs.code)
    arguments = [text_of(argument) for argument in inputs.args]
    driver = folder / f"driver{_SUFFIXES[language]}"
    if language == "python":
        driver.write_text(_PYTHON)
        return [sys.executable, str(driver), str(code_file), *arguments]
    if language == "node":
        driver.write_text(_NODE)
        return ["node", "--require", str(driver), str(code_file), *arguments]
    return [*command_line(language, code_file, path=path), *arguments]
