"""The fold of what happens to a run as a whole."""

from __future__ import annotations

from typing import Any, Final

from headrace.coordinator.core import status
from headrace.coordinator.core.evolve_code import stop_children
from headrace.coordinator.core.state import Family, Run, ShardState, Signal
from headrace.coordinator.core.surroundings import begun, drop_key, start_container
from headrace.events import (
    CancelRequested,
    RunCreated,
    RunEnded,
    RunPaused,
    RunQuarantined,
    RunResumed,
    RunStarted,
    SegmentArchived,
    SignalReceived,
    decode_chunk,
)
from headrace.messages import subjects


def run_created(state: ShardState, run: Run, event: RunCreated) -> None:
    """Fold `RunCreated`."""
    run.created_ms = state.now_ms
    run.input = bytes(event.input)
    run.request_id, run.not_after_ms = event.request_id, event.not_after_ms
    run.fingerprint = event.fingerprint
    run.labels = event.labels or {}
    run.priority, run.explicit, run.rerun_of = event.priority, event.explicit, event.rerun_of
    run.carried = event.carried
    if event.variables is not None:
        run.variables = shared_variables(state, run, event.variables)
    if event.parent:
        run.family = Family(event.parent, event.parent_shard)
    run.actor, run.title = event.actor, event.title
    if event.fairness is not None:
        run.fair_key, run.fair_weight = event.fairness
    state.plan_uses[event.plan] = state.plan_uses.get(event.plan, 0) + 1
    if event.key:
        run.key_name, run.key_limit, run.key_mode = event.key, event.key_limit, event.key_mode
        more = (event.key_limit, event.key_mode, state.shard)
        state.post(event.key, "acquire", event.key, run.key, *more)
    if not event.held:
        _start_run(state, run)


def shared_variables(
    state: ShardState, run: Run, given: dict[str, str] | None
) -> dict[str, str] | None:
    """Return *given*; the namespace's own map if it is equal, since thousands of runs hold it."""
    known = state.variables.get(run.program.namespace)
    return known[1] if known is not None and known[1] == given else given


def _start_run(state: ShardState, run: Run) -> None:
    run.state = status.RUNNING
    run.started_ms = state.now_ms
    plan = run.program.plan
    if plan.timeout_ms:
        run.due[0] = state.now_ms + plan.timeout_ms
    start_container(state, run, 0)


def run_started(state: ShardState, run: Run, event: RunStarted) -> None:
    """Fold `RunStarted`."""
    _start_run(state, run)
    if run.gates:
        begun(state, run, -1)


def signal(state: ShardState, run: Run, event: SignalReceived) -> None:
    """Fold `SignalReceived`."""
    state.remember(event.request_id, event.not_after_ms)
    run.signals.append(Signal(event.name, bytes(event.payload), event.actor, state.now_ms))


def cancel(state: ShardState, run: Run, event: CancelRequested) -> None:
    """Fold `CancelRequested`."""
    state.remember(event.request_id, event.not_after_ms)
    run.cancelling = True
    run.failing = event.failed
    run.cancel_reason = event.reason
    if event.failed:
        run.due.pop(0, None)
    for job, due_ms in event.limits or ():
        run.due[job] = min(run.due.get(job, due_ms), due_ms)
    if run.sagas and not event.gives_up:
        run.doomed.update(step for step in run.tokens if not run.undoes(step))
    else:
        run.doomed.update(run.tokens)
    if event.gives_up:
        for group, saga in run.sagas.items():
            saga.stopped = True
            if state.leading:
                state.agenda.append((run, ~group))
    if event.spared:
        run.doomed.difference_update(event.spared)
    elif run.journal is not None:
        run.journal.killed = True


def paused(state: ShardState, run: Run, event: RunPaused) -> None:
    """Fold `RunPaused`."""
    state.remember(event.request_id, event.not_after_ms)
    run.paused, run.pause_reason = True, event.reason


def resumed(state: ShardState, run: Run, event: RunResumed) -> None:
    """Fold `RunResumed`."""
    state.remember(event.request_id, event.not_after_ms)
    run.paused, run.pause_reason = False, ""
    for instance in [i for i in run.due if i >= 0 and run.status[i] == status.PENDING]:
        # Nobody could have taken it meanwhile: its time to start begins anew.
        del run.due[instance]


def run_ended(state: ShardState, run: Run, event: RunEnded) -> None:
    """Fold `RunEnded`."""
    run.state = event.state
    run.finished_ms = state.now_ms
    run.output = bytes(event.output)
    run.ended_reason = event.reason
    run.carried = None
    # Only a quarantined run ends with some of these.
    for left in (
        run.due,
        run.counts,
        run.signals,
        run.waits,
        run.detached,
        run.sticky,
        run.undo,
        run.tokens,
        run.doomed,
        run.claims,
        run.held,
        run.sagas,
    ):
        if left:
            left.clear()
    run.active = 0
    if run.node_keys or run.gates:
        for instance in sorted({*run.node_keys, *run.gates}):
            drop_key(state, run, instance)
    if run.family is not None:
        _tell_family(state, run, run.family)
    if run.journal is not None:
        stop_children(state, run)
    schedule = run.labels.get(subjects.SCHEDULE_LABEL)
    if schedule:
        key = subjects.run_key(subjects.split_key(run.key)[0], schedule)
        state.post(subjects.schedule_home(key), "run-ended", key, run.key)
    if run.key_name:
        # The holder's end and its intent to release are this one entry.
        state.post(run.key_name, "release", run.key_name, run.key)


_ONLY_TASK: Final = 1
"""Of a plan of two nodes: the other one is its root."""
_MESSAGE_MAX: Final = 1_000


def _tell_family(state: ShardState, run: Run, family: Family) -> None:
    """Children that are still awaited are cancelled; the parent is told, in this one entry."""
    for instance in sorted(family.awaited):
        drop_key(state, run, instance)
    family.stopping.clear()
    if family.parent_shard >= 0:
        more: tuple[Any, ...] = (run.state, run.output, run.ended_reason)
        failed = run.errors.get(_ONLY_TASK)
        if run.state == status.FAILED and failed and len(run.program.nodes) == 2:
            # A workflow function, a step or a handler that another function has called.
            more = (*more, failed.type, failed.message[:_MESSAGE_MAX])
        state.post(f"#{family.parent_shard}", "child-ended", run.key, family.parent, *more)


def segment_archived(state: ShardState, run: Run, event: SegmentArchived) -> None:
    """Fold `SegmentArchived`."""
    # Chunks are dropped whole: the archiver took them in the same pieces.
    dropped = event.next_event - run.history_first
    run.history_first = event.next_event
    while run.history and dropped > 0:
        chunk = run.history.pop(0)
        run.history_bytes -= len(chunk)
        dropped -= _events_in(chunk)


def _events_in(chunk: bytes) -> int:
    return len(decode_chunk(chunk).events)


def quarantined(state: ShardState, run: Run, event: RunQuarantined) -> None:
    """Fold `RunQuarantined`."""
    run.quarantined = event.reason
