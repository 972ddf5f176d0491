"""The environment of a step's processes, and the files through which they answer."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from headrace.messages import subjects
from headrace.worker.builtin.commands import ANNOTATIONS_MAX, BadFile, parse_assignments
from headrace.worker.deferred import runner_context
from headrace.worker.handlers import Context, HandlerError

FILE_BYTES_MAX: Final = 1024 * 1024
"""Of one output or environment file."""
SUMMARY_BYTES_MAX: Final = 64 * 1024
ADDED_ENV_BYTES_MAX: Final = 128 * 1024
"""Of all that a step adds to the environment; it travels inside the result."""

PATH_VARIABLE: Final = "HEADRACE_ADDED_PATH"
"""In a task's env: folders that earlier steps added to PATH, the newest last."""

# The worker's own credentials and configuration are nothing for steps.
_HIDDEN: Final = ("HEADRACE_CFG_", "HEADRACE_SECRET_", "HEADRACE_VAR_", "NATS_")
_PROTECTED: Final = ("HEADRACE_", "GITHUB_", "RUNNER_")
_FORBIDDEN: Final = ("NODE_OPTIONS",)
"""GitHub's own rule: a way to run code in every later step."""
_FILES: Final = ("OUTPUT", "ENV", "PATH", "STEP_SUMMARY")
PATHS_MAX: Final = 100


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
            if name.startswith(_PROTECTED) or name in _FORBIDDEN:
                text = f"$GITHUB_ENV: {name} may not be set by a step"
                raise HandlerError("invalid-output", text, False)
        if sum(len(name) + len(value) for name, value in added.items()) > ADDED_ENV_BYTES_MAX:
            text = f"$GITHUB_ENV: a step may add {ADDED_ENV_BYTES_MAX} bytes to the environment"
            raise HandlerError("invalid-output", text, False)
        folders = [line.strip() for line in self._read("PATH").splitlines() if line.strip()]
        for folder in folders:
            if "\0" in folder or os.pathsep in folder:
                text = f"$GITHUB_PATH: {folder[:200]!r} is not one folder"
                raise HandlerError("invalid-output", text, False)
        if len(folders) > PATHS_MAX:
            text = f"$GITHUB_PATH: a step may add {PATHS_MAX} folders"
            raise HandlerError("invalid-output", text, False)
        summary = self._summary(ctx)
        if added or folders or summary:
            _warn_of_secrets(ctx, added)
            ctx.extra.env.update(added)
            ctx.extra.path.extend(folders)
            ctx.extra.summary = summary

    def _summary(self, ctx: Context) -> str:
        """Return the summary, cut at `SUMMARY_BYTES_MAX`; that never fails a step."""
        with (self._folder / "step_summary").open("rb") as file:
            data = file.read(SUMMARY_BYTES_MAX + 1)
        if len(data) > SUMMARY_BYTES_MAX:
            text = f"$GITHUB_STEP_SUMMARY is over {SUMMARY_BYTES_MAX} bytes: the rest is left out"
            ctx.log(text, stream="system")
        return data[:SUMMARY_BYTES_MAX].decode("utf-8", "ignore")

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


def _warn_of_secrets(ctx: Context, added: Mapping[str, str]) -> None:
    """Say which variables arrive hidden: a secret must not get into the log, so it stays here."""
    masker = ctx.output.masker
    for name, value in added.items():
        if masker and masker.text(value) != value:
            text = f"$GITHUB_ENV: {name} holds a secret, so later steps see ***; give it by 'env:'"
            ctx.log(text, stream="system")
            if len(ctx.extra.annotations) < ANNOTATIONS_MAX:
                ctx.extra.annotations.append({"level": "warning", "message": text})


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
    env |= {f"RUNNER_{name.upper()}": value for name, value in runner_context().items()}
    if task.options is not None and task.options.workflow:
        env["GITHUB_WORKFLOW"] = env["HEADRACE_WORKFLOW"] = task.options.workflow
    if task.options is not None and task.options.workspace:
        env["GITHUB_JOB"] = env["HEADRACE_JOB"] = _job_of(task.options.workspace)
    if trace := ctx.traceparent:
        env["TRACEPARENT"] = trace
    env |= ctx.env
    added = env.pop(PATH_VARIABLE, "")
    if added:
        # As GitHub does it: what was added last is looked at first.
        folders = [*reversed(added.split(os.pathsep)), env.get("PATH", os.defpath)]
        env["PATH"] = os.pathsep.join(folders)
    return env


def _job_of(workspace: str) -> str:
    """Return the id of the job whose workspace has the key ``<run key>/<path>#<restart>``."""
    path = workspace.rpartition("#")[0]
    return re.sub(r"\[[^\]]*\]", "", path).rpartition("/")[2]
