"""The fold of what happens to containers: groups, loops, jobs."""

from __future__ import annotations

from array import array
from typing import Any

from headrace.coordinator.core import status
from headrace.coordinator.core.gate import CACHE, LOCK, RATE, Gate
from headrace.coordinator.core.gate import KINDS as gate_kinds
from headrace.coordinator.core.saga import Saga
from headrace.coordinator.core.scopes import Counts, Scope
from headrace.coordinator.core.state import EMPTY_MAP, Run, ShardState
from headrace.coordinator.core.surroundings import (
    begun,
    call_for,
    cancel_below,
    drop_key,
    ended,
    leave,
    start_container,
    wake_job,
)
from headrace.events import (
    CompensationScheduled,
    CompensationStarted,
    Expanded,
    JobMoved,
    JobRestarted,
    KeyGranted,
    KeyLost,
    KeyRequested,
    NodeEnded,
    NodeRestarted,
    NodeStarted,
    StepsStopped,
)
from headrace.messages import StepError


def node_started(state: ShardState, run: Run, event: NodeStarted) -> None:
    """Fold `NodeStarted`."""
    start_container(state, run, event.node)
    if event.due_ms:
        run.due[event.node] = event.due_ms
    if run.gates:
        begun(state, run, event.node)


def steps_stopped(state: ShardState, run: Run, event: StepsStopped) -> None:
    """Fold `StepsStopped`. What is not dispatched has an event of its own for its end."""
    start_container(state, run, event.node)
    for step in event.steps:
        run.stopped[step] = event.node
        if run.status[step] == status.DISPATCHED:
            run.doomed.add(step)


def node_ended(state: ShardState, run: Run, event: NodeEnded) -> None:
    """Fold `NodeEnded`."""
    instance = event.node
    run.status[instance] = event.status
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[instance] = output
    run.due.pop(instance, None)
    if run.sagas:
        _saga_ended(run, instance)
    if run.node_keys or run.family or run.gates:
        drop_key(state, run, instance)
    if event.reason:
        kind, _, message = event.reason.partition(": ")
        run.errors[instance] = StepError(kind, message, False)
        if instance == 0:
            run.ended_reason = event.reason
    if event.tolerated:
        run.tolerated.add(instance)
    counts = run.counts.get(instance)
    if counts is not None and counts.ended < counts.total:
        if event.detached:
            run.detached.add(instance)
        else:
            cancel_below(state, run, instance)
    if counts is not None and instance not in run.detached:
        del run.counts[instance]
    ok = event.status == status.COMPLETED or event.tolerated
    failed = event.status == status.FAILED and not event.tolerated
    ended(state, run, instance, ok=ok, failed=failed)


def _saga_ended(run: Run, instance: int) -> None:
    """What a stopped compensation has left undone is to be told."""
    saga = run.sagas.pop(instance, None)
    if saga is not None:
        for step in [step for step in run.undo if run.is_below(step, instance)]:
            del run.undo[step]
            run.uncompensated.append(step)


def expanded(state: ShardState, run: Run, event: Expanded) -> None:
    """Fold `Expanded`."""
    loop = event.node
    node, _, _ = run.locate(loop)
    body = node + 1
    size = run.program.nodes[body].size
    if event.first == 0:
        run.status[loop] = status.RUNNING
        run.counts[loop] = Counts(event.total, event.needed, event.max_parallel)
        if event.due_ms:
            run.due[loop] = event.due_ms
        elif node in run.program.broadcasts:
            # It may have had a time to wait for workers.
            run.due.pop(loop, None)
        if event.fail_fast and event.needed < 0:
            # One failure settles it: as a join that needs every one, see `advance`.
            run.counts[loop].needed = event.total
        if event.total == 0 and state.leading:
            state.agenda.append((run, ~loop))
    counts = run.counts[loop]
    counts.total = event.total
    statuses, waiting = run.program.body_template(body)
    count = len(event.items)
    base = len(run.status)
    bases = run.iterations.setdefault(loop, [])
    run.status.extend(bytes(statuses) * count)
    run.waiting.extend(waiting * count)
    run.attempt.extend(array("H", bytes(2 * size * count)))
    run.taint.extend(bytes(size * count))
    for offset, item in enumerate(event.items):
        index = event.first + offset
        label = event.labels[offset] if event.labels is not None else str(index)
        run.scopes.append(Scope(base, body, loop, index, item, label))
        run.scope_bases.append(base)
        bases.append(base)
        if state.leading and (not counts.window or index < counts.ended + counts.window):
            state.agenda.append((run, base))
        base += size


def job_restarted(state: ShardState, run: Run, event: JobRestarted) -> None:
    """Fold `JobRestarted`."""
    due = run.due.get(event.node)
    _begin_anew(state, run, event.node)
    if due:
        run.due[event.node] = due


def _begin_anew(state: ShardState, run: Run, instance: int) -> None:
    """Forget what has happened below a group, but what can be undone, and begin it again."""
    node, shift, _ = run.locate(instance)
    end = node + run.program.nodes[node].size
    for inner in run.descendants(instance):
        leave(run, inner)
        if inner not in run.undo:
            run.outputs.pop(inner, None)
        run.errors.pop(inner, None)
        run.waits.pop(inner, None)
        run.counts.pop(inner, None)
        run.iterations.pop(inner, None)
        run.first_ms.pop(inner, None)
        run.held.pop(inner, None)
        run.stopped.pop(inner, None)
        run.sticky.pop(inner, None)
        run.handlers.pop(inner, None)
        run.tolerated.discard(inner)
        run.detached.discard(inner)
        run.jobs.pop(inner, None)
        drop_key(state, run, inner)
        run.status[inner] = status.TEMPLATE
        run.taint[inner] = 0
        if run.attempt[inner]:
            run.uncounted[inner] = run.attempt[inner]
    statuses, waiting = run.program.body_template(node)
    run.status[instance + 1 : end + shift] = statuses[1:]
    run.waiting[instance + 1 : end + shift] = waiting[1:]
    old = run.jobs.get(instance)
    start_container(state, run, instance)
    if old is not None:
        run.jobs[instance].restarts = old.restarts + 1


def compensation_started(state: ShardState, run: Run, event: CompensationStarted) -> None:
    """Fold `CompensationStarted`."""
    node = event.node
    due_ms = run.due.pop(node, 0)
    run.sagas[node] = Saga(
        event.status, event.cause, event.reason, retry=event.retry, due_ms=due_ms
    )
    cancel_below(state, run, node)
    if state.leading:
        state.agenda.append((run, ~node))


def compensation_scheduled(state: ShardState, run: Run, event: CompensationScheduled) -> None:
    """Fold `CompensationScheduled`."""
    run.undo.pop(event.step, None)
    run.sagas[run.saga_around(event.step)].current = event.node
    call_for(state, run, event.node, event.step)


def node_restarted(state: ShardState, run: Run, event: NodeRestarted) -> None:
    """Fold `NodeRestarted`."""
    instance = event.node
    del run.sagas[instance]
    run.rounds[instance] = run.rounds.get(instance, 0) + 1
    _begin_anew(state, run, instance)
    if event.due_ms:
        run.due[instance] = event.due_ms


def job_moved(state: ShardState, run: Run, event: JobMoved) -> None:
    """Fold `JobMoved`."""
    job = run.jobs[event.node]
    job.worker, job.first = "", -1
    job.restarts += 1
    wake_job(state, run, event.node)


def key_requested(state: ShardState, run: Run, event: KeyRequested) -> None:
    """Fold `KeyRequested`."""
    instance = event.node
    wire = run.wire(instance) if instance >= 0 else -1
    holder = f"{run.key}#{wire}.{run.events}"
    if instance >= 0:
        run.status[instance] = status.WAITING
        run.due.pop(instance, None)
        if event.due_ms:
            run.due[instance] = event.due_ms
    more: tuple[Any, ...] = (event.limit, event.mode, state.shard)
    if event.gate == "cache":
        gate = run.gates.setdefault(instance, Gate())
        gate.wants, gate.key, gate.holder = CACHE, event.key, holder
        gate.ttl_ms = event.ttl_ms
        state.post(event.key, "cache-get", event.key, holder, state.shard)
        return
    if event.gate:
        gate = run.gates.setdefault(instance, Gate())
        gate.wants, gate.key, gate.holder = gate_kinds[event.gate], event.key, holder
        path = run.path(instance) if instance >= 0 else ""
        more += (event.ttl_ms, event.per_ms, f"{run.key.partition('/')[2]} {path}".rstrip())
    else:
        run.node_keys[instance] = (event.key, holder)
    state.post(event.key, "acquire", event.key, holder, *more)


def key_granted(state: ShardState, run: Run, event: KeyGranted) -> None:
    """Fold `KeyGranted`."""
    instance = event.node
    if not event.gate:
        if instance < 0:
            run.key_held = True
        return
    gate = run.gates[instance]
    if gate.wants == LOCK:
        gate.lock, gate.lock_holder = gate.key, gate.holder
        gate.token, gate.until_ms = event.token, event.until_ms
    elif gate.wants == CACHE:
        gate.cache = gate.key
    else:
        gate.rate, gate.rate_holder = gate.key, gate.holder
    gate.passed |= gate.wants
    gate.wants, gate.key, gate.holder = 0, "", ""
    if instance >= 0:
        # Ready, as before it asked; it asks for the next thing, if there is one.
        run.status[instance] = status.PENDING
        run.due.pop(instance, None)
        if state.leading:
            state.agenda.append((run, instance))


def _give_up_rate(state: ShardState, run: Run, instance: int, gate: Gate) -> None:
    key, holder = gate.rate, gate.rate_holder
    if gate.wants == RATE:
        key, holder = gate.key, gate.holder
        gate.wants, gate.key, gate.holder = 0, "", ""
        run.status[instance] = status.PENDING
        run.due.pop(instance, None)
    state.post(key, "release", key, holder)
    gate.rate = gate.rate_holder = ""
    gate.passed &= ~RATE


def key_lost(state: ShardState, run: Run, event: KeyLost) -> None:
    """Fold `KeyLost`."""
    gate = run.gates[event.node]
    if gate.wants == LOCK:
        # It never heard that it had it.
        gate.wants, gate.key, gate.holder = 0, "", ""
        run.status[event.node] = status.PENDING
        run.due.pop(event.node, None)
    if event.rate:
        _give_up_rate(state, run, event.node, gate)
    gate.lock, gate.lock_holder = "", ""
    gate.passed &= ~LOCK
    if run.status[event.node] == status.PENDING and state.leading:
        state.agenda.append((run, event.node))
