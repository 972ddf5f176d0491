"""The environment of a step's processes, and the files through which they answer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from headrace.messages import subjects
from headrace.worker.builtin.commands import BadFile, parse_assignments
from headrace.worker.handlers import Context, HandlerError

FILE_BYTES_MAX: Final = 1024 * 1024
"""Of one output or environment file."""
SUMMARY_BYTES_MAX: Final = 64 * 1024
ADDED_ENV_BYTES_MAX: Final = 128 * 1024
"""Of all that a step adds to the environment; it travels inside the result."""

PATH_VARIABLE: Final = "HEADRACE_ADDED_PATH"
"""In a task's env: folders that earlier steps added to PATH, the newest last."""

# The worker's own credentials and configuration are nothing for steps.
_HIDDEN: Final = ("HEADRACE_CFG_", "HEADRACE_SECRET_", "NATS_")
_PROTECTED: Final = ("HEADRACE_", "GITHUB_", "RUNNER_")
_FILES: Final = ("OUTPUT", "ENV", "PATH", "STEP_SUMMARY")


class StepFiles:
    """`$GITHUB_OUTPUT` and its like, the same as `$HEADRACE_OUTPUT` …, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in _FILES:
            (folder / name.lower()).touch(mode=0o600)

    def variables(self) -> dict[str, str]:
        """Return the variables that name the files."""
        named = {name: str(self._folder / name.lower()) for name in _FILES}
        return {
            f"{prefix}_{name}": path
            for prefix in ("GITHUB", "HEADRACE")
            for name, path in named.items()
        }

    def outputs(self) -> dict[str, str]:
        """Return the step's outputs. Raises `HandlerError` of type `invalid-output`."""
        return self._assignments("OUTPUT")

    def collect(self, ctx: Context) -> None:
        """Put the additions to environment and path, and the summary, into the result.

        Raises `HandlerError` of type `invalid-output` on a file that cannot be understood.
        """
        added = self._assignments("ENV")
        for name in added:
            if name.startswith(_PROTECTED):
                raise HandlerError("invalid-output", f"{name} may not be set by a step", False)
        if sum(len(name) + len(value) for name, value in added.items()) > ADDED_ENV_BYTES_MAX:
            text = f"a step may add {ADDED_ENV_BYTES_MAX} bytes to the environment"
            raise HandlerError("invalid-output", text, False)
        folders = [line.strip() for line in self._read("PATH").splitlines() if line.strip()]
        summary = self._read("STEP_SUMMARY")[:SUMMARY_BYTES_MAX]
        if added or folders or summary:
            ctx.extra.env.update(added)
            ctx.extra.path.extend(folders[:100])
            ctx.extra.summary = summary

    def _assignments(self, name: str) -> dict[str, str]:
        try:
            return parse_assignments(self._read(name))
        except BadFile as error:
            raise HandlerError("invalid-output", f"$GITHUB_{name}: {error}", False) from error

    def _read(self, name: str) -> str:
        path = self._folder / name.lower()
        try:
            with path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return ""
        if len(data) > FILE_BYTES_MAX:
            text = f"$GITHUB_{name} is over {FILE_BYTES_MAX} bytes"
            raise HandlerError("result-too-large", text, False)
        return data.decode("utf-8", "replace")


def step_environment(
    ctx: Context, workspace: Path, base: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the variables of a step's processes: the worker's, ours, then the step's own."""
    inherited = os.environ if base is None else base
    env = {name: value for name, value in inherited.items() if not name.startswith(_HIDDEN)}
    task = ctx.task
    namespace, run = subjects.split_key(task.run)
    env |= {
        "CI": "true",
        "HEADRACE": "true",
        "HEADRACE_RUN_ID": run,
        "HEADRACE_NAMESPACE": namespace,
        "HEADRACE_STEP": task.path,
        "HEADRACE_ATTEMPT": str(task.attempt),
        "HEADRACE_FENCING_TOKEN": str(ctx.token),
        "HEADRACE_IDEMPOTENCY_KEY": ctx.idempotency_key,
        "HEADRACE_WORKSPACE": str(workspace),
        "GITHUB_ACTIONS": "true",
        "GITHUB_RUN_ID": run,
        "GITHUB_RUN_ATTEMPT": str(task.attempt),
        "GITHUB_WORKSPACE": str(workspace),
    }
    if task.options is not None and task.options.workflow:
        env["GITHUB_WORKFLOW"] = env["HEADRACE_WORKFLOW"] = task.options.workflow
    env |= ctx.env
    added = env.pop(PATH_VARIABLE, "")
    if added:
        # As GitHub does it: what was added last is looked at first.
        folders = [*reversed(added.split(os.pathsep)), env.get("PATH", os.defpath)]
        env["PATH"] = os.pathsep.join(folders)
    return env
