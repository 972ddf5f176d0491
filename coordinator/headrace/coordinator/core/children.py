"""Runs that other runs begin: made, cancelled and told of here, once, whatever is sent twice.

The parent's shard logs the intent with what caused it; this shard logs the run, or why there is
none. A child's end and the intent to tell it are one entry. It stays until its parent's shard has
that in its log and sends no start any more: so it is never begun a second time.
"""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.cancellation import cancel_run, fail_run
from headrace.coordinator.core.creation import enter, fairness_of, key_of, title_of
from headrace.coordinator.core.intents import KEPT_MS, clear, end_of_child
from headrace.coordinator.core.nodes import is_tolerated
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.surroundings import child_holder
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.variables import pinned
from headrace.coordinator.core.waking import end_entry, wake
from headrace.errors import HeadraceError
from headrace.events import (
    ChildEnded,
    ChildRefused,
    ChildStopped,
    PlanStored,
    RequestSeen,
    RunCreated,
)
from headrace.messages import EntryState, StepError, subjects


def start(
    tick: Tick, child: str, holder: str, plan: str, data: bytes, given: bytes, priority: int,
    shard: int, fair_key: str = "", fair_weight: float = 1.0, trace: str = "",
) -> None:  # fmt: skip
    """Begin the run *child*. Once: not if it is there, was there, or was cancelled before.

    One whose key or name cannot be evaluated fails at once: so there is a run to look at, also
    when nobody waits for it.
    """
    state = tick.state
    if _cancelled_id(holder) in state.requests or end_of_child(child, holder) in state.outbox:
        return
    if child in state.runs or child in state.tombstones or child in tick.evicted:
        known = state.runs.get(child)
        ours = known is not None and known.family is not None and known.family.parent == holder
        if ":" in holder.partition("#")[2] and not ours:
            # A workflow function may choose an id; one that waits would wait for ever.
            tick.emit_shard(ChildRefused(child, holder, shard, "its id is taken by another run"))
        return
    if plan not in state.plans:
        tick.emit_shard(PlanStored(plan, data))
    run = Run(child, state.program(plan, subjects.split_key(child)[0]))
    run.input, run.variables = given, pinned(state, run.program)
    key, limit, mode = "", 1, 0
    fairness = (fair_key, fair_weight) if fair_key else None
    problem = ""
    try:
        run.title = title_of(run)
        fairness = fairness_of(run) or fairness
        key, limit, mode = key_of(run)
    except HeadraceError as error:
        problem = f"{error.code}: {error}"[:1_000]
    labels = run.program.plan.labels
    if trace:
        labels = {**labels, subjects.TRACE_LABEL: trace}
    created = RunCreated(
        run.workflow,
        plan,
        msgspec.Raw(given),
        holder,
        state.now_ms + KEPT_MS,
        "",
        labels or None,
        priority,
        held=bool(key),
        key=key,
        key_limit=limit,
        key_mode=mode,
        parent=holder,
        parent_shard=shard,
        fairness=fairness,
        title=run.title,
        variables=run.variables,
    )
    enter(tick, run, created)
    if problem:
        fail_run(tick, run, problem)


def cancel(tick: Tick, child: str, holder: str, reason: str, shard: int = -1) -> None:
    """Nobody needs the child any more. Its start may be on the way still: remembered, and told."""
    name, state = _cancelled_id(holder), tick.state
    if name in state.requests:
        return
    tick.emit_shard(RequestSeen(name, state.now_ms + KEPT_MS))
    run = state.runs.get(child)
    gone = child in state.tombstones or child in tick.evicted
    if run is None and not gone and shard >= 0:
        tick.emit_shard(ChildRefused(child, holder, shard, "cancelled: it has not begun"))
    if run is None or status.is_final(run.state) or run.family is None:
        return
    if run.family.parent == holder and not run.cancelling:
        why = f": {reason}" if reason else ""
        cancel_run(tick, run, f"what waited for it has ended{why}"[:1_000])


def ended(
    tick: Tick, child: str, holder: str, state: int, output: bytes, reason: str,
    error: str = "", message: str = "",
) -> None:  # fmt: skip
    """A child has ended: its parent goes on, if it still waits for this very one.

    *error* and *message*: type and text of the failure of a child that is a single task.
    """
    clear(tick, [f"start-child:{child}:{holder}"])
    name, _, rest = holder.partition("#")
    run = tick.state.runs.get(name)
    if run is None or run.quarantined or status.is_final(run.state):
        return
    if ":" in rest:
        why = _why(child, state, reason)
        failure = StepError("child", why.partition(": ")[2], False) if why else None
        if error:
            failure = StepError(error, message, False)
        _ended_of_function(tick, run, holder, state, output, failure)
        return
    if run.family is None:
        return
    instance = run.instance(int(rest.partition(".")[0]))
    if holder in run.family.stopping:
        tick.emit(run, ChildStopped(instance, int(rest.partition(".")[2])))
        return
    if instance not in run.family.awaited or child_holder(run, instance) != holder:
        return
    why = _why(child, state, reason)
    tolerated = state == status.FAILED and is_tolerated(run, instance)
    tick.emit(run, ChildEnded(instance, state, msgspec.Raw(output), why, tolerated))


def _why(child: str, state: int, reason: str) -> str:
    """Say how a child has ended; "" if it has completed."""
    if state == status.COMPLETED:
        return ""
    shown = subjects.split_key(child)[1]
    return f"child: run {shown} ended {status.NAMES[state]}: {reason}"[:1_000]


def _ended_of_function(
    tick: Tick, run: Run, holder: str, state: int, output: bytes, error: StepError | None
) -> None:
    """The child of a workflow function has ended: so has the entry, if that still waits for it."""
    generation, _, key = holder.partition("#")[2].partition(":")
    journal = run.journal
    if journal is None or int(generation) != journal.generation or key not in journal.awaited:
        return
    ends = {status.COMPLETED: EntryState.COMPLETED, status.CANCELLED: EntryState.CANCELLED}
    # Nobody waits for it any more: its cancel is not asked for.
    value = msgspec.Raw(output) if state == status.COMPLETED else None
    end_entry(tick, run, key, raw=value, error=error, state=ends.get(state, EntryState.FAILED))
    wake(tick, run)


def _cancelled_id(holder: str) -> str:
    return f"no-child:{holder}"
