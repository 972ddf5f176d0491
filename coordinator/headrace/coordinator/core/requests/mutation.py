"""What every request that changes something has in common: its id, its time, its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.coordinator.core import status, views
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.events import RequestSeen
from headrace.messages import (
    AcquireLock,
    CancelRun,
    ClearCached,
    CreateSchedule,
    DeleteDefinition,
    DeleteSchedule,
    PatchRun,
    PauseRun,
    PauseSchedule,
    RegisterDefinition,
    ReleaseLock,
    RenewLock,
    ResolveStep,
    ResumeRun,
    SetNamespace,
    SetVariable,
    SignalRun,
    SubmitRun,
    UnblockRun,
    UpdateRun,
    subjects,
)

NOT_AFTER_MS_MAX = 3_600_000
PERIOD_MS_MAX = 366 * 86_400_000
"""Of a schedule's jitter, and of what it catches up."""
Handler = Callable[[Tick, str, Any], Reply]
"""(tick, namespace, request) → result or `Refusal`. It may raise `HeadraceError`."""
Mutation = (
    SubmitRun
    | SignalRun
    | CancelRun
    | PauseRun
    | ResumeRun
    | ResolveStep
    | PatchRun
    | RegisterDefinition
    | DeleteDefinition
    | CreateSchedule
    | PauseSchedule
    | DeleteSchedule
    | SetNamespace
    | SetVariable
    | AcquireLock
    | RenewLock
    | ReleaseLock
    | ClearCached
    | UpdateRun
    | UnblockRun
)

OfRun = (
    SignalRun | CancelRun | PauseRun | ResumeRun | ResolveStep | PatchRun | UpdateRun | UnblockRun
)
"""Those about an open run."""


def elsewhere(state: ShardState, what: str) -> Refusal | None:
    """Refuse, outside of the system shard, what is *what* (``… are``, ``… are read``) there."""
    if state.shard == subjects.SYSTEM_SHARD:
        return None
    return Refusal("invalid-request", f"{what} in the system shard")


def too_late(tick: Tick, request: Mutation) -> Refusal | None:
    """Return why the request's not-after time forbids it, if it does."""
    if request.not_after_ms < tick.state.now_ms:
        return Refusal("too-late", "the request came after its not-after time; nothing was done")
    if request.not_after_ms > tick.state.now_ms + NOT_AFTER_MS_MAX:
        # The id is remembered until then, so what is remembered stays bounded.
        return Refusal("invalid-request", f"not-after is over {NOT_AFTER_MS_MAX} ms away")
    return None


def over(what: str, found: int, limit: int, unit: str = "bytes") -> Refusal:
    """Refuse what passes a limit."""
    return Refusal("limit-exceeded", f"the {what} has {found} {unit}; the limit is {limit}")


def live_run(tick: Tick, namespace: str, name: str) -> Run | Refusal:
    """Return the open run of this name, or the refusal that there is none."""
    run = tick.state.runs.get(subjects.run_key(namespace, name))
    if run is None:
        return Refusal("not-found", f"no open run {name} in namespace {namespace}")
    return run


def mutate(
    tick: Tick,
    namespace: str,
    request: OfRun,
    apply: Callable[[Run], Reply],
    *,
    verb: str,
) -> Reply:
    """Run *apply* once for a request id on a run that has not ended.

    Returns what *apply* does (a refusal, a result), or the view of the run if that is None; None
    when the request took effect and the run has ended and left since.
    """
    found = live_run(tick, namespace, request.run)
    seen = request.request_id in tick.state.requests
    if isinstance(found, Refusal):
        return None if seen else found
    if seen:
        return views.Later(found)
    if found.quarantined and not isinstance(request, CancelRun):
        return Refusal("conflict", f"run {request.run} is blocked: {found.quarantined}")
    late = too_late(tick, request)
    if late is not None:
        return late
    if status.is_final(found.state):
        return Refusal(
            "conflict",
            f"run {request.run} is {status.NAMES[found.state]}; it cannot be {verb} any more",
        )
    answer = apply(found)
    return answer if answer is not None else views.Later(found)


def seen(tick: Tick, request: Mutation) -> None:
    """Log the id of a request that has nothing to change."""
    tick.emit_shard(RequestSeen(request.request_id, request.not_after_ms))
