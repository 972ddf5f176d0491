"""Coordinator and worker: tasks, results, claims, heartbeats, orders, log lines."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from headrace.messages import subjects


class TaskOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only some tasks need."""

    env: dict[str, str] = {}
    timeout_ms: int = 0
    """Longest run of this attempt; 0: none."""
    heartbeat_timeout_ms: int = 0
    workspace: str = ""
    """Key of the job's workspace folder, ``<run key>/<job path>#<restart>``; empty: a fresh
    temporary folder for each step."""
    at_most_once: bool = False
    """Ask the owner with `Claim` before the effect; run nothing without its yes."""
    start_by_ms: int = 0
    """Not started by then (worker's clock, ms since the epoch): hand it back. 0: no limit."""
    cancel_grace_ms: int = 5_000
    deferred: dict[str, Any] = {}
    """Contexts for expressions that only the worker can evaluate (`secrets`, `hashFiles`,
    `runner`); inputs and env still hold them then."""
    title: str = ""
    workflow: str = ""
    round: int = 0
    """How often what is around the step was undone and begun anew: part of the idempotency key."""
    traceparent: str = ""
    """The run's trace context, as W3C Trace Context writes it; empty: it has none."""


class Task(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt of one step, to be run by whoever receives it."""

    run: str
    """Run key: ``<namespace>/<run id>``."""
    step: int
    """Index of the step in its run."""
    path: str
    """``build[linux]/test``; with the run key it is the idempotency key."""
    attempt: int
    token: int
    """Fencing token: rises with every dispatch in the shard."""
    uses: str
    inputs: msgspec.Raw
    """A msgpack map."""
    options: TaskOptions | None = None


class TaskBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One message on a lane subject."""

    version: int
    shard: int
    epoch: int
    """The owner's; a worker that knows of a higher one drops the message."""
    namespace: str
    sent_ms: int
    tasks: list[Task]
    round: int = 0
    """Of this epoch, see `EpochNotice`; a worker that knows of a higher one drops the message."""


class ResultStatus:
    """Values of `StepResult.status`."""

    COMPLETED: Final = 0
    FAILED: Final = 1
    CANCELLED: Final = 2
    """The step's process group is dead."""
    RETURNED: Final = 3
    """Never started: handed back, costs no attempt."""
    SKIPPED: Final = 4
    """Never started: its condition, which only the worker can evaluate, does not hold."""


class StepError(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Why an attempt failed."""

    type: str
    """Short and stable (`exit-code`, `timeout`, `ValueError`): retry policies name it."""
    message: str
    retryable: bool = True


class ResultExtra(msgspec.Struct, frozen=True, omit_defaults=True):
    """What only some results carry."""

    env: dict[str, str] = {}
    """Added by `$GITHUB_ENV`; later steps of the job see it."""
    path: list[str] = []
    summary: str = ""
    annotations: list[dict[str, Any]] = []
    exit_code: int | None = None
    handler_version: str = ""
    evidence: dict[str, Any] = {}
    """What the handler says of how it came to its outputs: model, parameters, tools, sources."""


class StepResult(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Outcome of one attempt."""

    run: str
    step: int
    attempt: int
    token: int
    status: int
    output: msgspec.Raw
    """A msgpack map of outputs (``0x80`` when empty)."""
    started_ms: int
    ended_ms: int
    error: StepError | None = None
    extra: ResultExtra | None = None


class ResultBatch(msgspec.Struct, frozen=True, array_like=True, tag="results", gc=False):
    """Results of one worker for one shard; sent again until a `ResultReply` arrives."""

    version: int
    worker: str
    incarnation: str
    results: list[StepResult]


class ResultReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Sent once the batch is in the log (or was there already)."""

    refused: list[int] = []
    """Indexes in the batch that were refused: a stale attempt or token, an ended run. Final."""
    retry_after_ms: int = 0
    """Above 0: nothing was taken; send the batch again then."""


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="claim", gc=False):
    """May this incarnation start this at-most-once attempt? Idempotent."""

    version: int
    worker: str
    incarnation: str
    run: str
    step: int
    attempt: int
    token: int


class ClaimReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The claim is in the log (`granted`), or it must never run."""

    granted: bool
    start_by_ms: int = 0


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A step that a worker has in hands (queued or running)."""

    run: str
    step: int
    attempt: int
    running: bool = True
    details: Any = None
    """Last `heartbeat(details)` of the step's code."""


class WorkerHeartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """Published on `headrace.hb.worker.<ns>.<labels>.<id>` each second, and at once when asked."""

    version: int
    id: str
    incarnation: str
    namespace: str
    capabilities: list[str]
    handlers: dict[str, dict[str, Any]]
    """Names of custom handlers with their input descriptions; built-in ones are implied."""
    slots: int
    free: int
    release: str = ""
    host: str = ""
    pid: int = 0
    started_ms: int = 0
    sent_ms: int = 0
    draining: bool = False
    stopped: bool = False
    """The last heartbeat of this life."""
    lanes: list[str] = []
    """Lanes that it pulls from right now."""
    held: dict[int, list[Held]] = {}
    """By shard. May leave out what it took less than `held_since_ms` ago."""
    held_since_ms: int = 0
    epochs: dict[int, int] = {}
    """Highest epoch seen for each shard; lower ones are dropped from now on."""
    rounds: dict[int, int] = {}
    """Highest round seen of that epoch, where it is not 0; lower ones are dropped, too."""
    problems: list[str] = []
    """What is wrong on the worker and an operator can mend: plug-ins that do not load."""

    @property
    def subject(self) -> str:
        """Where it is published."""
        return subjects.worker_heartbeat(self.namespace, self.id, self.capabilities)

    @property
    def orders(self) -> str:
        """Where this life of the worker hears orders."""
        return subjects.worker_orders(self.namespace, self.id, self.incarnation, self.capabilities)


class LaneOffer(msgspec.Struct, frozen=True, array_like=True, tag="lane"):
    """Pull from this durable consumer of `HEADRACE_TASKS`, if you can serve these capabilities."""

    lane: str
    consumer: str
    capabilities: list[str]


class CancelStep(msgspec.Struct, frozen=True, array_like=True, tag="cancel"):
    """Stop this attempt: signal, grace, kill of the process group; then answer CANCELLED."""

    run: str
    step: int
    attempt: int
    reason: str = ""


class DrainWorker(msgspec.Struct, frozen=True, array_like=True, tag="drain"):
    """Take no more tasks, finish what runs, stop."""

    grace_ms: int = 0


class EpochNotice(msgspec.Struct, frozen=True, array_like=True, tag="epoch"):
    """Drop task messages of lower epochs and rounds, and send a heartbeat at once.

    A new owner has a higher epoch. A new round within it: the owner no longer knows what became of
    the messages of the earlier ones. Who has told what it holds, and this round, starts nothing
    more of them: what nobody has told of is lost for certain.
    """

    shard: int
    epoch: int
    round: int = 0


class LogLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line that a step wrote."""

    time_ms: int
    stream: str
    """`stdout`, `stderr` or `system`."""
    text: str


class LogLines(msgspec.Struct, frozen=True, array_like=True):
    """One message on `headrace.logs.…`: lines of one attempt, in order."""

    version: int
    run: str
    step: int
    path: str
    attempt: int
    first: int
    """Number of the first line within the attempt, so that a reader can drop doubles."""
    lines: list[LogLine]
