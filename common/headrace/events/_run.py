"""What happens to a run. `step` and `node` are indexes in the run; times are ms since the epoch."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from headrace.events._code import CodeEvent
from headrace.events._orders import StepKeyed, StepsStopped
from headrace.messages import ResultExtra, StepError


class RunCreated(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """A submit was accepted. Unless `held`, the run starts with this event."""

    workflow: str
    plan: str
    input: msgspec.Raw
    request_id: str
    not_after_ms: int
    fingerprint: str
    labels: dict[str, str] | None = None
    priority: int = 0
    explicit: bool = False
    rerun_of: str = ""
    actor: str = ""
    held: bool = False
    """Waits for its concurrency key."""
    key: str = ""
    """The concurrency key that it needs; empty: none."""
    key_limit: int = 1
    key_mode: int = 0
    """Bit 1: cancel in progress; bit 2: keep only the newest waiter."""
    carried: dict[str, bytes] | None = None
    parent: str = ""
    """``<run key>#<instance>.<attempt>`` of the subworkflow that it is; empty: none."""
    parent_shard: int = -1
    """Shard that is to be told of the end; -1: none."""
    title: str = ""
    """`run-name`, evaluated; empty: none."""
    fairness: tuple[str, float] | None = None
    """(key, weight): whose turn its steps take, and how large that is."""
    variables: dict[str, str] | None = None
    """Of its namespace, that it goes by from now on; None: it reads none."""


class RunStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """A held run goes on."""


class StepScheduled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """An attempt was given to a lane."""

    step: int
    attempt: int
    token: int
    lane: str


class StepCompleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """The result of an attempt is recorded; it is never computed again.

    `worker` is ``<id>.<incarnation>``, here and below.
    """

    step: int
    attempt: int
    worker: str
    started_ms: int
    ended_ms: int
    output: msgspec.Raw
    extra: ResultExtra | None = None


class StepFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """An attempt failed; above 0, `retry_ms` is when the next one begins."""

    step: int
    attempt: int
    worker: str
    started_ms: int
    ended_ms: int
    error: StepError
    retry_ms: int = 0
    output: msgspec.Raw = msgspec.Raw(b"\x80")
    extra: ResultExtra | None = None
    tolerated: bool = False
    """Final, and counts as success for those that need it (`continue-on-error`)."""
    skipped: bool = False
    """Final, and counts as SKIPPED; those that need it go on (`on-failure: skip`)."""
    handler: int = -1
    """Above 0: not final yet; this handler is run and decides (`on-failure: run`)."""


class StepLost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """The holder of an attempt is lost, nothing was recorded: the step is ready again."""

    step: int
    attempt: int
    worker: str
    reason: str


class StepReturned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """A worker handed an attempt back before it started."""

    step: int
    attempt: int
    worker: str


class StepClaimed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """An at-most-once attempt may start, on this life of this worker only."""

    step: int
    attempt: int
    worker: str
    start_by_ms: int


class StepUnknown(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """A claimed at-most-once attempt lost its worker: it is never run again by itself."""

    step: int
    attempt: int
    worker: str
    tolerated: bool = False
    held: bool = False
    """Not its end yet: a handler or a person finds out what became of it (`on-unknown`)."""
    handler: int = -1
    """The handler that is run; -1: a person is asked."""


class StepSkipped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """The node will not run; `reason` is one of `condition needs rule branch`."""

    step: int
    reason: str
    worker: str = ""
    """Who found that the condition does not hold; empty: the owner did."""


class StepCancelled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """The node was cancelled; a running one is dead by now."""

    step: int
    attempt: int
    worker: str = ""
    reason: str = ""


class StepCarried(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """The result was taken over from an earlier run."""

    step: int
    output: msgspec.Raw


class StepQueued(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=31):
    """The step is ready, and fails unless a worker takes it before `due_ms`."""

    step: int
    due_ms: int


class NodeStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """A container began."""

    node: int
    due_ms: int = 0
    """Its deadline; 0: none."""
    key: str = ""


class NodeEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """A container ended with one of the final states (see `coordinator.core.state`)."""

    node: int
    status: int
    output: msgspec.Raw = msgspec.Raw(b"\x80")
    reason: str = ""
    tolerated: bool = False
    """It failed, and counts as success for those that need it (`continue-on-error`)."""
    detached: bool = False
    """What still runs below goes on (`losers: detach`); else it is cancelled with this event."""


class Expanded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """A loop learned its items; long lists come in several parts, and the iterations of a
    repetition one by one: `total` then grows."""

    node: int
    first: int
    """Index of the first item of this part."""
    items: list[Any]
    total: int
    labels: list[str] | None = None
    """Path labels of the items; None: their indexes."""
    max_parallel: int = 0
    fail_fast: bool = False
    needed: int = -1
    """Successes that settle the loop; -1: all."""
    due_ms: int = 0
    """Its deadline; 0: none."""


class SleepStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """A sleep began."""

    node: int
    due_ms: int


class WaitStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """A wait for a signal began; `due_ms` 0: no deadline."""

    node: int
    signal: str
    due_ms: int = 0


class WaitEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """A wait or sleep is over: `outcome` is `signal`, `timeout`, `default` or `slept`."""

    node: int
    outcome: str
    output: msgspec.Raw = msgspec.Raw(b"\x80")


class SignalReceived(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """A signal arrived; it is kept until a wait takes it."""

    name: str
    payload: msgspec.Raw
    request_id: str
    not_after_ms: int
    actor: str = ""


class CancelRequested(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """Somebody (or a timeout) wants the run to end."""

    reason: str
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""
    failed: bool = False
    """The run ends FAILED instead of CANCELLED (its own deadline passed)."""
    spared: list[int] | None = None
    """Dispatched steps whose condition asks for them even now: they are not stopped."""
    gives_up: bool = False
    """Compensations are stopped, too: it was asked a second time."""
    limits: list[tuple[int, int]] | None = None
    """(job, when what still runs in it is stopped) of jobs with a time for that."""


class RunPaused(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """Nothing more is dispatched."""

    request_id: str
    not_after_ms: int
    reason: str = ""
    actor: str = ""


class RunResumed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """The pause is over."""

    request_id: str
    not_after_ms: int
    actor: str = ""


class RunEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """The run has its final state; from here on it only waits to be archived."""

    state: int
    reason: str = ""
    output: msgspec.Raw = msgspec.Raw(b"\x80")


class JobRestarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=25):
    """The worker with the job's workspace is lost: the job begins anew (`restart-job`)."""

    node: int
    worker: str
    reason: str


class JobMoved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=26):
    """The worker is lost: the job goes on elsewhere, in a new workspace (`continue`)."""

    node: int
    worker: str
    reason: str


class KeyGranted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=27):
    """A node (-1: the run) has what it asked for, or the word that no result is cached."""

    node: int
    key: str
    gate: str = ""
    """`lock`, `rate` or `cache`; empty: a concurrency key."""
    token: int = 0
    """Of a lock: its fencing token, higher than any before; it expires at `until_ms` (0: never)."""
    until_ms: int = 0


class KeyRequested(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=30):
    """A node (-1: the run) asks for what it needs before it begins: see `gate`."""

    node: int
    key: str
    limit: int = 1
    mode: int = 0
    gate: str = ""
    """`lock`, `rate` or `cache`; empty: a concurrency key."""
    ttl_ms: int = 0
    """How long a lock may be held, or a result is kept; 0: no limit."""
    due_ms: int = 0
    """When it gives up waiting; 0: never."""
    per_ms: int = 0
    """Of a rate limit: its period."""


class StepCached(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """The step has the result of an earlier run's step, and does not run."""

    step: int
    output: msgspec.Raw
    run: str
    """Id of the run that the result is of; it was recorded there at `time_ms`."""
    path: str
    time_ms: int
    extra: ResultExtra | None = None


class KeyLost(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """A lock is lost: it has `expired`, or a person took it (`forced`)."""

    node: int
    key: str
    reason: str
    rate: bool = False
    """It had a place within a rate limit, or waited for one, and has not begun: it gives that up,
    and asks for the lock first."""


class SegmentArchived(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=28):
    """Events before number `next_event` are in the archive and leave the state."""

    next_event: int


class RunQuarantined(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=29):
    """An event of this run could not be applied: the run is BLOCKED, the shard goes on."""

    reason: str


class ChildStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """A subworkflow is to run as run `child`; its shard is told through the outbox."""

    node: int
    attempt: int
    child: str
    """Its id, in the same namespace."""
    input: msgspec.Raw
    detached: bool = False
    due_ms: int = 0


class ChildEnded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """The child has ended (a detached one: it is sure to begin), with this state and output."""

    node: int
    status: int
    output: msgspec.Raw = msgspec.Raw(b"\x80")
    reason: str = ""
    tolerated: bool = False


class ChildStopped(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=42):
    """A child that was cancelled, because nobody waits for it any more, has ended."""

    node: int
    attempt: int
    """Of the subworkflow: which child it was."""


class StepResolved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=50):
    """The open end of a step is decided, by its handler or by a person."""

    step: int
    resolution: str
    """`completed`, `failed`, `skipped`, `retry` (it is ready again) or `unknown` (nobody will
    find out)."""
    output: msgspec.Raw = msgspec.Raw(b"\x80")
    tolerated: bool = False
    handler: int = -1
    """Who decided; -1: a person."""
    request_id: str = ""
    not_after_ms: int = 0
    actor: str = ""


class CompensationStarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=51):
    """A group stops: what has completed in it is undone before it ends with `status`."""

    node: int
    status: int
    cause: int = -1
    """The step that failed first; -1: the group itself, or a cancel."""
    reason: str = ""
    """``type: message``."""
    retry: bool = False
    """Then it begins anew."""


class CompensationScheduled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=52):
    """The compensation `node` of a completed step begins."""

    node: int
    step: int


class NodeRestarted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=53):
    """All of a group is undone: it begins anew (`compensate-and-retry`)."""

    node: int
    due_ms: int = 0


class PlanPatched(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """The run goes on with another plan: from here on, events name steps by its numbers."""

    plan: str
    previous: str
    """Digests of the plans from here on, and until here."""
    nodes: list[tuple[int, int, int]]
    """``(first, count, new first)``: where nodes of the old plan are in the new one; the rest is
    gone."""
    request_id: str
    not_after_ms: int
    actor: str = ""
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    """Paths of nodes, at most so many as a patch tells."""
    variables: dict[str, str] | None = None
    """Of its namespace, if the plan until here did not read any."""


RunEvent: TypeAlias = (
    RunCreated
    | RunStarted
    | StepScheduled
    | StepCompleted
    | StepFailed
    | StepLost
    | StepReturned
    | StepClaimed
    | StepUnknown
    | StepSkipped
    | StepCancelled
    | StepCarried
    | StepCached
    | StepQueued
    | NodeStarted
    | NodeEnded
    | Expanded
    | SleepStarted
    | WaitStarted
    | WaitEnded
    | SignalReceived
    | StepKeyed
    | StepsStopped
    | CancelRequested
    | RunPaused
    | RunResumed
    | RunEnded
    | JobRestarted
    | JobMoved
    | KeyGranted
    | KeyRequested
    | KeyLost
    | SegmentArchived
    | RunQuarantined
    | ChildStarted
    | ChildEnded
    | ChildStopped
    | StepResolved
    | CompensationStarted
    | CompensationScheduled
    | NodeRestarted
    | PlanPatched
    | CodeEvent
)
