"""What every request that changes something has in common: its id, its time, its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.coordinator.core import status, views
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.state import UNREADABLE, Run
from headrace.coordinator.core.tick import Tick
from headrace.events import PlanStored, RequestSeen
from headrace.messages import (
    CancelRun,
    DeleteDefinition,
    PauseRun,
    RegisterDefinition,
    ResolveStep,
    ResumeRun,
    SignalRun,
    SubmitRun,
    subjects,
)
from headrace.plan import decode_plan, plan_digest, validate_plan

NOT_AFTER_MS_MAX = 3_600_000
Handler = Callable[[Tick, str, Any], Reply]
"""(tick, namespace, request) → result or `Refusal`. It may raise `HeadraceError`."""
Mutation = (
    SubmitRun
    | SignalRun
    | CancelRun
    | PauseRun
    | ResumeRun
    | ResolveStep
    | RegisterDefinition
    | DeleteDefinition
)


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


def keep_plan(tick: Tick, namespace: str, data: bytes) -> str | Refusal:
    """Store an encoded plan in the shard, if it is not there; return its digest.

    Raises `InvalidDefinition` for one that cannot be run.
    """
    if len(data) > tick.limits.plan_bytes:
        return over("plan", len(data), tick.limits.plan_bytes)
    try:
        plan = decode_plan(data)
    except UNREADABLE as error:
        return Refusal("invalid-definition", f"not a plan: {error}")
    validate_plan(plan)
    digest = plan_digest(plan)
    state = tick.state
    if digest not in state.plans:
        # Compiled first: what cannot be compiled never gets into the log.
        program = Program(plan, digest, namespace, state.builtin)
        tick.emit_shard(PlanStored(digest, data))
        state.programs[digest, namespace] = program
    return digest


def live_run(tick: Tick, namespace: str, name: str) -> Run | Refusal:
    """Return the open run of this name, or the refusal that there is none."""
    run = tick.state.runs.get(subjects.run_key(namespace, name))
    if run is None:
        return Refusal("not-found", f"no open run {name} in namespace {namespace}")
    return run


def mutate(
    tick: Tick,
    namespace: str,
    request: SignalRun | CancelRun | PauseRun | ResumeRun | ResolveStep,
    apply: Callable[[Run], Refusal | None],
    *,
    verb: str,
) -> Reply:
    """Run *apply* once for a request id on a run that has not ended."""
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    if request.request_id in tick.state.requests:
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
    refused = apply(found)
    return refused if refused is not None else views.Later(found)


def seen(tick: Tick, request: Mutation) -> None:
    """Log the id of a request that has nothing to change."""
    tick.emit_shard(RequestSeen(request.request_id, request.not_after_ms))
