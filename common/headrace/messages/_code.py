"""Code-first runs: what a workflow function tells its owner, and what it is told.

A workflow function runs in *turns*. A turn is a dispatch of the run's one task (`plan.Task.code`):
a worker with the app's version runs the function, fed with the run's *journal*, until it ends or
waits for something that is not in the journal yet. While it runs it reports what it does
(`TurnReport`), and goes on when the report is in the log. A turn that only waits ends
(`TurnEnd.WAITING`) and holds no slot; what it waits for makes the next one.

The journal is a map of *entries* by stable key. An entry is made by the function (its worker
reports it) and ends once, by the function or by the owner: a time, a signal, a child's end. The
owner numbers all that happens to entries (`Entry.number`), so a replay sees it in the same order.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from headrace.messages._steps import (
    CancelStep,
    Claim,
    DrainWorker,
    EpochNotice,
    LaneOffer,
    ResultBatch,
    StepError,
)

NOTHING: Final = msgspec.Raw(b"\xc0")
"""msgpack of nil."""


class EntryState:
    """Values of `Entry.state`."""

    PENDING: Final = 0
    """Begun: it waits for a time, a signal, a child, its next attempt, or the function works on
    it (`CLAIMED` before an at-most-once effect)."""
    COMPLETED: Final = 1
    FAILED: Final = 2
    CANCELLED: Final = 3
    """The function does not want it any more, or the run of a child was cancelled."""
    CLAIMED: Final = 4
    """An at-most-once step may have begun; a later turn that finds it so treats it as UNKNOWN."""


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One thing that a workflow function did or asked for, as the journal has it."""

    key: str
    """Stable: explicit, or ``name#ordinal``; unique in a journal."""
    kind: str
    """`step`, `value`, `sleep`, `signal`, `child`, `update` or `cancel`."""
    name: str
    """For people: the step's, the signal's, the child workflow's name."""
    digest: str
    """Of the inputs, 16 hex digits; empty: not compared."""
    state: int = EntryState.PENDING
    value: msgspec.Raw = NOTHING
    """Result of a completed one, any msgpack value (or a reference to a blob)."""
    error: StepError | None = None
    """Of a failed one; of a step between attempts, of the last attempt."""
    attempts: int = 0
    """Attempts of a step that have failed."""
    due_ms: int = 0
    """PENDING: when the owner ends it (a sleep, the timeout of a signal), or when the next attempt
    of a step may begin; ms since the epoch, 0: never."""
    started_ms: int = 0
    ended_ms: int = 0
    number: int = 0
    """Of the last change, from 1, without gaps in a run; given by the owner."""
    details: msgspec.Raw = NOTHING
    """Last `heartbeat(details)` of a failed or lost attempt, for the next one. Of an update its
    argument, also when it is answered: a replay runs its handler again."""


# --- what the function does: changes in a report ---------------------------------------------


class StepRan(msgspec.Struct, frozen=True, array_like=True, tag="ran", gc=False):
    """A step was run inside the turn and has a result; it is never run again."""

    key: str
    name: str
    digest: str
    started_ms: int
    ended_ms: int
    value: msgspec.Raw


class StepTried(msgspec.Struct, frozen=True, array_like=True, tag="tried", gc=False):
    """An attempt of a step inside the turn has failed. The worker has asked the step's policy.

    With `retry_ms` above 0 the entry is PENDING and due then, else it is FAILED for good.
    """

    key: str
    name: str
    digest: str
    started_ms: int
    ended_ms: int
    error: StepError
    retry_ms: int = 0
    details: msgspec.Raw = NOTHING


class StepClaim(msgspec.Struct, frozen=True, array_like=True, tag="claim-step", gc=False):
    """An at-most-once step is about to begin; it begins after the reply. -> CLAIMED."""

    key: str
    name: str
    digest: str


class StepBeat(msgspec.Struct, frozen=True, array_like=True, tag="beat", gc=False):
    """An attempt of a step inside the turn is alive, and says how far it is. -> PENDING, or stays
    CLAIMED; the `number` of an entry that is there already does not change."""

    key: str
    name: str
    digest: str
    started_ms: int
    """Of the attempt."""
    details: msgspec.Raw


class ValueNoted(msgspec.Struct, frozen=True, array_like=True, tag="noted", gc=False):
    """A value that the function must see again: now, random, uuid, memo, patched. -> COMPLETED."""

    key: str
    name: str
    value: msgspec.Raw


class SleepBegun(msgspec.Struct, frozen=True, array_like=True, tag="slept", gc=False):
    """The owner completes it (value: nil) at `due_ms`, or after it."""

    key: str
    due_ms: int
    digest: str = ""


class SignalAwaited(msgspec.Struct, frozen=True, array_like=True, tag="awaited", gc=False):
    """The owner completes it with the next signal of that name, kept ones included.

    Value: ``{"payload", "actor", "received_ms", "timed_out": false}``; at `due_ms` (0: never)
    ``{"payload": nil, "timed_out": true}``.
    """

    key: str
    signal: str
    due_ms: int = 0
    correlation_key: str = ""


class ChildBegun(msgspec.Struct, frozen=True, array_like=True, tag="child", gc=False):
    """Another run is begun: a workflow, a handler on another capability (a plan of one task), or a
    plan that was made just now. Its end completes or fails the entry; a detached one completes
    once it is sure to begin. Value: the child's output.
    """

    key: str
    name: str
    digest: str
    plan: bytes
    """Encoded and stored by the owner with the event that names it."""
    input: msgspec.Raw
    """A msgpack map: the child's run input."""
    id: str = ""
    """Run id; empty: made from the run's id and the key."""
    detached: bool = False


class EntryDropped(msgspec.Struct, frozen=True, array_like=True, tag="dropped", gc=False):
    """The function does not wait for it any more (a join is settled): a wait is forgotten, a
    child is cancelled. -> CANCELLED at once; what comes later changes nothing."""

    key: str


class UpdateAnswered(msgspec.Struct, frozen=True, array_like=True, tag="updated", gc=False):
    """What an update handler returned, or why it refused. -> COMPLETED or FAILED.

    The entry keeps the `number` of its arrival: then the function saw it, and a replay must, too.
    """

    key: str
    value: msgspec.Raw = NOTHING
    error: StepError | None = None


class LabelsSet(msgspec.Struct, frozen=True, array_like=True, tag="labels", gc=False):
    """Labels of the run from now on, beside those it has. No entry."""

    labels: dict[str, str]


class DigestAccepted(msgspec.Struct, frozen=True, array_like=True, tag="accepted", gc=False):
    """The entry's inputs differ, and `flowctl unblock --skip` said to take its result anyway."""

    key: str
    digest: str


Change: TypeAlias = (
    StepRan
    | StepTried
    | StepClaim
    | ValueNoted
    | SleepBegun
    | SignalAwaited
    | ChildBegun
    | EntryDropped
    | UpdateAnswered
    | LabelsSet
    | DigestAccepted
    | StepBeat
)


# --- turns -----------------------------------------------------------------------------------


class Query(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A client asks a live workflow something; it is in no log. Lost with its owner."""

    id: str
    name: str
    argument: msgspec.Raw


class QueryAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer, or why there is none."""

    id: str
    value: msgspec.Raw = NOTHING
    error: StepError | None = None


class Turn(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Inputs of the task that is a turn (`Task.inputs`, instead of a handler's inputs)."""

    input: msgspec.Raw
    """The run's input, a msgpack map; of a run that was continued as new, the new one."""
    entries: list[Entry]
    """Those with a `number` above `since`, in the order of their numbers."""
    since: int = 0
    """What a worker that has the function in its cache knows already; 0: everything is here. A
    worker that does not know that much asks with an empty report of `seen` 0."""
    number: int = 0
    """Of the newest change in the journal."""
    generation: int = 0
    """How often the run was continued as new."""
    skip: list[str] = []
    """Keys whose changed inputs are accepted (`flowctl unblock --skip`)."""
    queries: list[Query] = []
    now_ms: int = 0
    """The log's time."""
    created_ms: int = 0


class TurnOutcome:
    """Values of `TurnEnd.outcome`."""

    WAITING: Final = 0
    """The function waits for entries that are PENDING. (A worker that drains in the middle of a
    turn sends no end: it hands the task back, `ResultStatus.RETURNED`.)"""
    COMPLETED: Final = 1
    FAILED: Final = 2
    CANCELLED: Final = 3
    """The function let go after the run was cancelled."""
    BLOCKED: Final = 4
    """Journal and code contradict each other: `error.type` says how, `error.message` is the
    readable diff, `key` the entry."""
    AGAIN: Final = 5
    """Continue as new: `value` is the new input (a map); the journal is emptied."""


class TurnEnd(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a turn ends."""

    outcome: int
    value: msgspec.Raw = NOTHING
    """Of COMPLETED the result (any msgpack value)."""
    error: StepError | None = None
    key: str = ""


class TurnReport(msgspec.Struct, frozen=True, array_like=True, tag="turn", gc=False):
    """What the function did since the last report; sent again until a `TurnReply` arrives.

    One at a time for a turn: `sequence` counts them from 1, so that a resent one is known.
    """

    version: int
    worker: str
    incarnation: str
    run: str
    step: int
    attempt: int
    token: int
    sequence: int
    seen: int
    """Number of the newest change that the worker knows."""
    changes: list[Change] = []
    end: TurnEnd | None = None
    answers: list[QueryAnswer] = []
    ahead: int = 0
    """Above 0: the function has gone on as if the first so many changes (`StepRan`) stood in the
    journal right behind `seen`; the other changes, and the end, are what it did then. An owner that
    knows more than `seen` records only the first ones, and answers `overtaken`."""


class TurnReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Sent when the report's changes are in the log."""

    refused: str = ""
    """Not empty: the turn is not this worker's (any more): stop it, report nothing. Final."""
    entries: list[Entry] = []
    """Those with a `number` above the report's `seen`, the reported ones included, in order: as
    many as fit into some 512 KiB. If the last one is below `number`, ask for the rest with an
    empty report (as of a `Turn` without entries whose `since` is not known)."""
    number: int = 0
    queries: list[Query] = []
    retry_after_ms: int = 0
    """Above 0: nothing was taken; send the report again then."""
    overtaken: bool = False
    """Something else came before what the function had gone `ahead` of. The results are recorded,
    what it did then is not: run it again from its whole journal (an empty report of `seen` 0)."""


class TurnWake(msgspec.Struct, frozen=True, array_like=True, tag="turn", gc=False):
    """To the worker that has the turn: something has changed; ask with an empty report."""

    run: str
    step: int
    token: int


WorkerRequest: TypeAlias = ResultBatch | Claim | TurnReport
"""What a worker sends to the owner."""
WorkerOrder: TypeAlias = LaneOffer | CancelStep | DrainWorker | EpochNotice | TurnWake
"""What a worker is told."""
