"""What a handler knows about the attempt that it runs, and what it can say while running."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import msgspec

from headrace.messages import ResultExtra, Task
from headrace.worker.core import Assignment
from headrace.worker.handlers._errors import HandlerError
from headrace.worker.ports import ArtifactStore
from headrace.worker.steplog import StepLog

_NO_ENV: dict[str, str] = {}


class TurnRunner(Protocol):
    """Runs turns of workflow functions."""

    async def run(
        self, workflow: Any, context: Context, assignment: Assignment, inputs: msgspec.Raw
    ) -> None:
        """Run one turn; raises how it ends."""
        ...


class Services(Protocol):
    """What the executor does for a context."""

    def open_log(self, assignment: Assignment) -> StepLog:
        """Return the attempt's log; once a context."""
        ...

    def open_workspace(self, task: Task) -> tuple[Path, bool]:
        """Return the folder to work in, and whether it is to be deleted after the step."""
        ...

    def traceparent(self, task: Task) -> str:
        """Return the attempt's trace context; empty: none."""
        ...

    @property
    def artifacts(self) -> ArtifactStore | None:
        """Where artifacts are kept, if anywhere."""
        ...

    def beat(self, assignment: Assignment, details: Any) -> None:
        """Note a sign of life; from any thread."""
        ...

    @property
    def turns(self) -> TurnRunner | None:
        """What runs turns of workflow functions, if anything does."""
        ...


class Extra(msgspec.Struct):
    """What a step tells beside its outputs; becomes `ResultExtra`."""

    env: dict[str, str] = {}
    path: list[str] = []
    summary: str = ""
    annotations: list[dict[str, Any]] = []
    exit_code: int | None = None
    evidence: dict[str, Any] = {}

    def result(self, version: str) -> ResultExtra | None:
        """Return it for the result; None when there is nothing to tell."""
        told = self.env or self.path or self.summary or self.annotations or self.evidence
        if not told and not version and self.exit_code is None:
            return None
        return ResultExtra(
            env=self.env,
            path=self.path,
            summary=self.summary,
            annotations=self.annotations,
            exit_code=self.exit_code,
            handler_version=version,
            evidence=self.evidence,
        )


class Context:
    """One attempt of one step. Everything may be used from a sync handler's thread.

    Made for every step that runs, so nothing here costs before it is used.
    """

    __slots__ = (
        "_assignment",
        "_services",
        "_workspace",
        "env",
        "noted",
        "opened_log",
        "temporary_folder",
        "version",
    )

    def __init__(self, assignment: Assignment, services: Services) -> None:
        self._assignment = assignment
        self._services = services
        options = assignment.task.options
        self.env: dict[str, str] = options.env if options is not None else _NO_ENV
        """Environment of the step (workflow, job, step and earlier steps' additions)."""
        self.opened_log: StepLog | None = None
        """The log, if anything asked for it."""
        self.noted: Extra | None = None
        """`extra`, if anything asked for it."""
        self._workspace: Path | None = None
        self.temporary_folder: Path | None = None
        """The folder to delete after the step."""
        self.version = ""
        """Of the handler that runs the attempt; empty: of the worker's release."""

    @property
    def task(self) -> Task:
        """The task as it came from the owner."""
        return self._assignment.task

    @property
    def run(self) -> str:
        """Run key: ``<namespace>/<run id>``."""
        return self._assignment.task.run

    @property
    def path(self) -> str:
        """Stable path of the step in its run."""
        return self._assignment.task.path

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._assignment.task.attempt

    @property
    def token(self) -> int:
        """Fencing token: give it to storage that can refuse lower ones."""
        return self._assignment.token

    @property
    def traceparent(self) -> str:
        """The attempt's trace context (W3C), for what the step's code calls; empty: none."""
        return self._services.traceparent(self.task)

    @property
    def idempotency_key(self) -> str:
        """The same for all attempts of this step; another one once it was compensated."""
        task = self._assignment.task
        again = task.options.round if task.options is not None else 0
        return f"{task.run}/{task.path}" + (f"#{again + 1}" if again else "")

    @property
    def workspace(self) -> Path:
        """Folder to work in: the job's, else a temporary one that goes with the step."""
        if self._workspace is None:
            self._workspace, temporary = self._services.open_workspace(self.task)
            if temporary:
                self.temporary_folder = self._workspace
        return self._workspace

    @property
    def artifacts(self) -> ArtifactStore:
        """Where artifacts of runs are kept. Raises `HandlerError` where there is no such place."""
        found = self._services.artifacts
        if found is None:
            raise HandlerError("not-supported", "artifacts cannot be kept here", False)
        return found

    @property
    def cancelled(self) -> bool:
        """The attempt is being stopped; sync handlers look here and return soon."""
        return self._assignment.stop is not None

    @property
    def extra(self) -> Extra:
        """Environment, summary and annotations for the result."""
        if self.noted is None:
            self.noted = Extra()
        return self.noted

    @property
    def output(self) -> StepLog:
        """The attempt's log; `log` is the short way to it."""
        if self.opened_log is None:
            self.opened_log = self._services.open_log(self._assignment)
        return self.opened_log

    def log(self, line: str, *, stream: str = "stdout") -> None:
        """Write to the step's log; line breaks make several lines."""
        for part in line.splitlines() or [""]:
            self.output.write(stream, part)

    def note_evidence(self, **facts: Any) -> None:
        """Record how the step came to its outputs: `model`, `parameters`, `sources`, … (JSON).

        It stands in the history with the attempt, and in `flowctl evidence`. No secrets.
        """
        self.extra.evidence |= facts

    def heartbeat(self, details: Any = None) -> None:
        """Say that the step is alive, and with *details* how far it is.

        *details* are plain data (as JSON has it) of at most 4 KiB; with the next of the worker's
        heartbeats, each second, they are in the run's view (`flowctl get RUN -o json`) while the
        attempt runs. Raises `HandlerError` (`details-too-large`, `invalid-details`).
        """
        self._services.beat(self._assignment, details)

    async def run_turn(self, workflow: Any, inputs: msgspec.Raw) -> None:
        """Run a turn of a workflow function of `headrace.sdk`; raises how it ends."""
        turns = self._services.turns
        if turns is None:
            raise HandlerError("not-supported", "workflow functions cannot be run here", False)
        await turns.run(workflow, self, self._assignment, inputs)

    # -- for the executor ----------------------------------------------------------------------

    def result_extra(self) -> ResultExtra | None:
        """Return what the result carries beside the outputs."""
        version = self.version
        if self.noted is None:
            return ResultExtra(handler_version=version) if version else None
        return self.noted.result(version)
