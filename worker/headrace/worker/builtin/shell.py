"""`shell`: a script in a shell, as GitHub Actions runs one."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.worker.builtin.commands import (
    ANNOTATIONS_MAX,
    ASSIGNMENTS_MAX,
    DISABLED,
    IGNORED,
    KNOWN,
    Command,
    annotation,
    parse_command,
)
from headrace.worker.builtin.environment import StepFiles, step_environment
from headrace.worker.builtin.process import CAPTURE_WHOLE_BYTES, Finished, run_process
from headrace.worker.handlers import Context, HandlerError, handler
from headrace.worker.scalars import text_of
from headrace.worker.scratch import scratch_folder

_SHELLS: Final = {
    "": "bash -e {0}",
    "bash": "bash --noprofile --norc -eo pipefail {0}",
    "sh": "sh -e {0}",
    "python": f"{shlex.quote(sys.executable)} {{0}}",
    "pwsh": "pwsh -NoLogo -NonInteractive -File {0}",
}
_SUFFIXES: Final = {"python": ".py", "pwsh": ".ps1"}


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
    folder = await asyncio.to_thread(scratch_folder, "step")
    try:
        files = StepFiles(folder)
        variables = step_environment(ctx, workspace) | (env or {}) | files.variables()
        options = ctx.task.options
        lines = OutputLines(ctx)
        finished = await run_process(
            prepare(folder, variables),
            cwd=workspace / working_directory,
            env=variables,
            on_line=lines,
            grace_ms=options.cancel_grace_ms if options is not None else 5_000,
            stdin=stdin,
            stdout_bytes_max=stdout_bytes_max,
        )
        return _outcome(ctx, files, lines, finished)
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
        self.outputs: dict[str, str] = {}
        """Set by `::set-output::`."""
        self.refused = ""
        """Why a command was refused: the step has failed."""

    def __call__(self, stream: str, line: str) -> None:
        """Take one line."""
        command = parse_command(line) if "::" in line else None
        if command is None:
            self._ctx.output.write(stream, line)
        elif self._resume:
            if command.name == self._resume.lower():
                self._resume = ""
            self._ctx.output.write(stream, line)
        elif command.name in KNOWN:
            self._ctx.output.write(stream, self._obey(command, line))
        else:
            self._ctx.output.write(stream, line)

    def _obey(self, command: Command, line: str) -> str:
        """Carry out a command; return the line as it is to be logged."""
        name, message = command.name, command.message
        if name == "add-mask":
            if not self._ctx.output.masker.add(message):
                self._ctx.log("too many masks: a value is not hidden", stream="system")
            return "::add-mask::***"
        if name == "stop-commands":
            if not message or message.lower() in KNOWN:
                self._refuse(f"::stop-commands:: needs a token of its own, not {message!r}")
            self._resume = message
        elif name == "set-output":
            self._set_output(command)
        elif name in DISABLED:
            self._refuse(f"::{name}:: is switched off: write to {DISABLED[name]}")
        elif name in IGNORED:
            self._ctx.log(f"::{name}:: has no meaning here", stream="system")
        else:
            made = annotation(command)
            if made is not None:
                self._note(made)
        return line

    def _set_output(self, command: Command) -> None:
        name = command.properties.get("name", "")
        if not name:
            self._refuse("::set-output:: needs a name: ::set-output name=NAME::VALUE")
        elif len(self.outputs) < ASSIGNMENTS_MAX:
            self.outputs[name] = command.message
            self._ctx.log("::set-output:: is deprecated: write to $GITHUB_OUTPUT", stream="system")

    def _refuse(self, why: str) -> None:
        self.refused = self.refused or why
        self._note({"level": "error", "message": why})
        self._ctx.log(why, stream="system")

    def _note(self, made: dict[str, Any]) -> None:
        annotations = self._ctx.extra.annotations
        if len(annotations) < ANNOTATIONS_MAX:
            annotations.append(made)
        elif len(annotations) == ANNOTATIONS_MAX:
            text = f"over {ANNOTATIONS_MAX} annotations: the rest is in the log alone"
            annotations.append({"level": "notice", "message": text})


def _outcome(
    ctx: Context, files: StepFiles, lines: OutputLines, finished: Finished
) -> dict[str, Any]:
    ctx.extra.exit_code = finished.code
    files.collect(ctx)
    outputs: dict[str, Any] = lines.outputs | files.outputs()
    outputs["exit-code"] = finished.code
    outputs["stdout"] = finished.stdout
    masker = ctx.output.masker
    if finished.truncated:
        outputs["stdout"] = masker.tail(finished.stdout)
        outputs["stdout-truncated"] = True
    if finished.code != 0:
        how = f"exit code {finished.code}" if finished.code > 0 else f"signal {-finished.code}"
        # Masked before it is cut: half a secret would be shown.
        last = masker.text(finished.stderr_last.strip())[:300]
        raise HandlerError("exit-code", f"{how}: {last}" if last else how, output=outputs)
    if lines.refused:
        raise HandlerError("refused-command", lines.refused, False, output=outputs)
    return outputs
