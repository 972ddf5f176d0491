"""`shell`: a script in a shell, as GitHub Actions runs one."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.worker.builtin.commands import ANNOTATIONS_MAX, annotation, parse_command
from headrace.worker.builtin.environment import StepFiles, step_environment
from headrace.worker.builtin.process import CAPTURE_WHOLE_BYTES, Finished, run_process
from headrace.worker.handlers import Context, HandlerError, handler

_SHELLS: Final = {
    "": "bash -e {0}",
    "bash": "bash --noprofile --norc -eo pipefail {0}",
    "sh": "sh -e {0}",
    "python": f"{shlex.quote(sys.executable)} {{0}}",
}
_SUFFIXES: Final = {"python": ".py"}


class ShellInputs(
    msgspec.Struct, forbid_unknown_fields=True, rename={"working_directory": "working-directory"}
):
    """What to run, and where."""

    run: str = ""
    """The script."""
    command: str = ""
    """The same, as the `tasks:` dialect spells it."""
    shell: str = ""
    """`bash`, `sh`, `python`, or a command line with ``{0}`` for the script's file."""
    working_directory: str = ""
    """Relative to the workspace."""
    env: dict[str, str | int | float | bool | None] = {}


class CommandOutputs(msgspec.Struct, omit_defaults=True, rename="kebab"):
    """What every command gives; `$GITHUB_OUTPUT` adds to it."""

    exit_code: int
    stdout: str
    stdout_truncated: bool = False


@handler("shell", outputs=CommandOutputs)
async def shell(ctx: Context, inputs: ShellInputs) -> dict[str, Any]:
    """Run the script; its outputs are those of `$GITHUB_OUTPUT`, `exit-code` and `stdout`."""
    script = inputs.run or inputs.command
    if not script or (inputs.run and inputs.command):
        raise HandlerError("invalid-input", "shell: give `run`", False)
    env = {name: text_of(value) for name, value in inputs.env.items()}
    return await run_script(
        ctx, script, shell=inputs.shell, working_directory=inputs.working_directory, env=env
    )


async def run_script(
    ctx: Context,
    script: str,
    *,
    shell: str,
    working_directory: str = "",
    env: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run *script* with *shell* in the step's workspace; return its outputs.

    Raises `HandlerError` of type `exit-code` when it ends with anything but 0, holding the outputs
    all the same.
    """

    def prepare(folder: Path, variables: dict[str, str]) -> list[str]:
        script_file = folder / f"script{_SUFFIXES.get(shell, '.sh')}"
        script_file.write_text(script)
        return command_line(shell, script_file, path=variables.get("PATH"))

    return await run_command(ctx, prepare, working_directory=working_directory, env=env)


Prepare = Callable[[Path, dict[str, str]], list[str]]
"""Writes what a command needs into the step's private folder; returns the command's words."""


async def run_command(
    ctx: Context,
    prepare: Prepare,
    *,
    working_directory: str = "",
    env: dict[str, str] | None = None,
    stdin: bytes | None = None,
    stdout_bytes_max: int = CAPTURE_WHOLE_BYTES,
) -> dict[str, Any]:
    """Run a command in the step's workspace, with the step's files and variables.

    Output `stdout` is whole up to *stdout_bytes_max*, else its end, with `stdout-truncated`.

    Returns outputs and raises as `run_script` does.
    """
    workspace = ctx.workspace
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="headrace-step-"))
    try:
        files = StepFiles(folder)
        variables = step_environment(ctx, workspace) | (env or {}) | files.variables()
        options = ctx.task.options
        finished = await run_process(
            prepare(folder, variables),
            cwd=workspace / working_directory,
            env=variables,
            on_line=OutputLines(ctx),
            grace_ms=options.cancel_grace_ms if options is not None else 5_000,
            stdin=stdin,
            stdout_bytes_max=stdout_bytes_max,
        )
        return _outcome(ctx, files, finished)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command_line(shell: str, script_file: Path, *, path: str | None = None) -> list[str]:
    """Return the command that runs *script_file*; raises `HandlerError` on a bad template."""
    template = _SHELLS.get(shell, shell)
    if not shell and shutil.which("bash", path=path) is None:
        template = _SHELLS["sh"]
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise HandlerError("invalid-input", f"shell {shell!r}: {error}", False) from error
    if not any("{0}" in word for word in words):
        known = ", ".join(name for name in _SHELLS if name)
        text = f"shell {shell!r} is none of {known}, nor a command with {{0}}"
        raise HandlerError("invalid-input", text, False)
    return [word.replace("{0}", str(script_file)) for word in words]


class OutputLines:
    """Sends output lines to the step's log and carries out the workflow commands among them."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._resume = ""
        """Token that ends a `::stop-commands::`; empty: commands are obeyed."""

    def __call__(self, stream: str, line: str) -> None:
        """Take one line."""
        command = parse_command(line) if "::" in line else None
        if command is None:
            self._ctx.output.write(stream, line)
            return
        if self._resume:
            if command.name == self._resume.lower():
                self._resume = ""
            self._ctx.output.write(stream, line)
            return
        if command.name == "stop-commands" and command.message:
            self._resume = command.message
        elif command.name == "add-mask":
            if not self._ctx.output.masker.add(command.message):
                self._ctx.log("too many masks: a value is not hidden", stream="system")
            line = "::add-mask::***"
        else:
            made = annotation(command)
            if made is not None and len(self._ctx.extra.annotations) < ANNOTATIONS_MAX:
                self._ctx.extra.annotations.append(made)
        self._ctx.output.write(stream, line)


def text_of(value: str | int | float | bool | None) -> str:
    """Return a scalar of YAML as an environment variable holds it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _outcome(ctx: Context, files: StepFiles, finished: Finished) -> dict[str, Any]:
    ctx.extra.exit_code = finished.code
    files.collect(ctx)
    outputs: dict[str, Any] = dict(files.outputs())
    outputs["exit-code"] = finished.code
    outputs["stdout"] = finished.stdout
    if finished.truncated:
        outputs["stdout-truncated"] = True
    if finished.code != 0:
        how = f"exit code {finished.code}" if finished.code > 0 else f"signal {-finished.code}"
        last = finished.stderr_last.strip()[:300]
        raise HandlerError("exit-code", f"{how}: {last}" if last else how, output=outputs)
    return outputs
