"""Tasks: the steps that workers run. A task that may run is in the queue of its lane."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.gates import gate_reason, lock_around, passes, timed_out
from headrace.coordinator.core.nodes.kind import NodeKind
from headrace.coordinator.core.nodes.offers import (
    able,
    absent,
    evaluated_labels,
    needed_labels,
    nobody,
)
from headrace.coordinator.core.program import PlainTask
from headrace.coordinator.core.ready import PREFERRED, Lane
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.sticky import KEY_MAX, preferred
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError, InvalidRequest
from headrace.events import StepCarried, StepKeyed, StepQueued
from headrace.expressions import resolve, to_string
from headrace.messages import WaitReason, subjects
from headrace.plan import Task

STICKY_WAIT_MS = 2_000
"""So long a sticky step waits for the worker that last ran its key, then any may run it."""


class TaskKind(NodeKind):
    """A worker runs it."""

    name = "task"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Take over the result of the run that this one carries on, or queue it."""
        if run.carried is not None and not run.undoes(instance):
            carried = run.carried.get(run.path(instance))
            if carried is not None:
                tick.emit(run, StepCarried(instance, msgspec.Raw(carried)))
                return
        push_ready(tick, run, instance, node)

    def due(self, tick: Tick, run: Run, instance: int) -> None:
        """Its retry is due, or its wait for a lock is over."""
        if run.gates and timed_out(tick, run, instance):
            return
        push_ready(tick, run, instance, run.locate(instance)[0])

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """It runs, waits for its retry, or for a worker."""
        value = run.status[instance]
        if run.gates:
            found = gate_reason(state, run, instance)
            if found is not None:
                return found
        if value == status.DISPATCHED:
            return _dispatched(run, instance, facts)
        if value == status.WAITING and run.journal is not None:
            # Its journal says what the function waits for.
            return None
        if value == status.WAITING:
            return _retrying(state, run, instance)
        if value != status.PENDING or run.waiting[instance] or run.paused:
            return None
        return _ready(state, run, instance, facts) if run.may_begin(instance) else None


def push_ready(tick: Tick, run: Run, instance: int, node: int, *, prefers: bool = True) -> None:
    """Put a task that may run into its lane's queue (of a paused run: when it goes on).

    *prefers*: a sticky one may wait a moment for the worker that last ran its key.
    """
    if run.paused:
        return
    gates = run.program.gates
    if gates and node in gates and not passes(tick, run, instance, node):
        return
    found: Any = run.program.nodes[node]
    try:
        lane = lane_of(tick, run, instance, node)
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))
        return
    if lane is None:
        return
    now_ms = tick.state.now_ms
    if (run.program.sticky or run.journal is not None) and prefers:
        try:
            lane = _preferred_lane(tick, run, instance, node, lane)
        except HeadraceError as error:
            fail_node(tick, run, instance, "expression", str(error))
            return
    lane.push(run, run.wire(instance), now_ms, run.priority + found.priority)
    tick.ready.filled[lane.name] = None
    limit_ms = found.schedule_timeout_ms
    if limit_ms and not (run.status[instance] == status.PENDING and instance in run.due):
        tick.emit(run, StepQueued(instance, now_ms + limit_ms))
        tick.timers.push(now_ms + limit_ms, run.key, instance)


def push_plain(tick: Tick, run: Run, instance: int, plain: PlainTask) -> None:
    """Put a plain task that may run into its lane's queue: `push_ready` without its questions."""
    ready = tick.ready
    lane = ready.lanes.get(plain.lane)
    if lane is None:
        lane = ready.lane(plain.lane, run.program.namespace, plain.capabilities)
    step = instance if run.patches is None else run.wire(instance)
    lane.push(run, step, tick.state.now_ms, run.priority + plain.priority)
    ready.filled[plain.lane] = None


def _preferred_lane(tick: Tick, run: Run, instance: int, node: int, lane: Lane) -> Lane:
    """Return the lane of the worker that a sticky step prefers; of one that prefers none, *lane*.

    The preference ends after a moment: a timer puts the step into *lane*. Raises `HeadraceError`.
    """
    written = run.program.sticky.get(node)
    if (written is None and run.journal is None) or lane.name.startswith("@"):
        return lane
    if written is not None and instance not in run.sticky:
        key = to_string(resolve(written, Contexts(run, instance), functions(run, instance)))
        if len(key) > KEY_MAX:
            raise InvalidRequest(f"a sticky key of {len(key)} characters: {key[:80]}…")
        tick.emit(run, StepKeyed(instance, key))
    worker = preferred(tick.state, run, instance)
    if not worker:
        return lane
    now_ms = tick.state.now_ms
    when_ms = now_ms + STICKY_WAIT_MS
    gate = lock_around(run, instance) if run.gates else None
    if gate is not None and gate.until_ms:
        # Else it might lose its lock each time before anybody may run it.
        when_ms = min(when_ms, (now_ms + gate.until_ms) // 2)
    tick.preferring[run.key, instance] = when_ms
    tick.timers.push(when_ms, run.key, instance)
    name = f"@{worker}{PREFERRED}{lane.name}"
    return tick.ready.lane(name, lane.namespace, lane.capabilities)


def release(tick: Tick, run: Run, instance: int) -> None:
    """A sticky step has waited for the worker that it prefers: any may run it now."""
    del tick.preferring[run.key, instance]
    worker = preferred(tick.state, run, instance)
    for lane in [lane for name, lane in tick.ready.lanes.items() if PREFERRED in name]:
        if lane.name.startswith(f"@{worker}{PREFERRED}"):
            _drop_released(tick, lane)
    if run.is_ready(instance, tick.state.now_ms):
        push_ready(tick, run, instance, run.locate(instance)[0], prefers=False)


def _drop_released(tick: Tick, lane: Lane) -> None:
    """Take what waits no more out of the front of a lane; an empty one is not looked at."""
    while (entry := lane.pop()) is not None:
        run, step, since_ms = entry
        instance = run.instance(step)
        if (run.key, instance) in tick.preferring:
            # It has some time left, as have those behind it.
            own: Any = run.program.nodes[run.locate(instance)[0]]
            lane.push(run, step, since_ms, run.priority + own.priority)
            return
    tick.ready.filled.pop(lane.name, None)


def lane_of(tick: Tick, run: Run, instance: int, node: int) -> Lane | None:
    """Return the step's lane; None while another step decides the job's worker."""
    program = run.program
    ready = tick.ready
    if program.broadcasts and (worker := run.broadcast_to(instance)):
        return ready.lane(f"@{worker}", program.namespace, ())
    if program.job[node] >= 0:
        job = run.jobs.get(run.job_of(instance))
        if job is not None:
            if job.worker:
                return ready.lane(f"@{job.worker.partition('.')[0]}", program.namespace, ())
            first = job.first
            if first not in (-1, instance) and run.status[first] == status.DISPATCHED:
                return None
    capabilities = program.capabilities[node]
    if capabilities is not None:
        return ready.lane(program.lane[node], program.namespace, capabilities)
    needed = evaluated_labels(run, instance)
    return ready.lane(subjects.lane_of(program.namespace, needed), program.namespace, needed)


# --- why a task waits --------------------------------------------------------------------------


def _dispatched(run: Run, instance: int, facts: Facts) -> WaitReason:
    path, attempt = run.path(instance), run.attempt[instance]
    holder = facts.holders.get((run.key, run.wire(instance)))
    doomed = instance in run.doomed
    if holder is not None:
        verb = "is being stopped on" if doomed else "runs on"
        return WaitReason(
            path=path,
            state="RUNNING",
            owner=holder.worker,
            reason=f"attempt {attempt} {verb} worker {holder.worker}",
        )
    return WaitReason(
        path=path,
        state="DISPATCHED",
        owner="worker",
        reason=f"attempt {attempt} was dispatched and is on its way to a worker",
    )


def _retrying(state: ShardState, run: Run, instance: int) -> WaitReason:
    task = run.program.nodes[run.locate(instance)[0]]
    assert isinstance(task, Task)
    due_ms = run.due.get(instance, 0)
    left_ms = max(due_ms - state.now_ms, 0)
    limit = task.retry.max_attempts if task.retry is not None else 1
    error = run.errors.get(instance)
    after = f" after {error.type}: {error.message}"[:200] if error is not None else ""
    number = run.attempt[instance] - run.uncounted.get(instance, 0)
    return WaitReason(
        path=run.path(instance),
        state="WAITING",
        owner="timer",
        deadline_ms=due_ms,
        reason=f"retry {number} of {limit - 1} in {left_ms / 1000:.1f} s{after}",
    )


def _ready(state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason:
    path = run.path(instance)
    worker = run.broadcast_to(instance) if run.program.broadcasts else ""
    if worker:
        reason = f"waits for a slot of worker {worker}"
        here = WaitReason(path=path, state="READY", owner=worker, reason=reason)
        return absent(run, instance, worker, facts) or here
    job = run.jobs.get(run.job_of(instance))
    live = [w for w in facts.workers if w.namespace == run.program.namespace]
    if job is not None and job.worker:
        worker = job.worker.partition(".")[0]
        if not any(w.worker == worker for w in live):
            return WaitReason(
                path=path,
                state="READY",
                owner=worker,
                reason=f"waits for worker {worker}, which has the job's workspace",
            )
        return WaitReason(
            path=path, state="READY", owner=worker, reason=f"waits for a slot of worker {worker}"
        )
    needed = needed_labels(run, instance)
    workers = able(run, needed, facts)
    if not workers:
        return nobody(run, instance, needed, facts)
    wish = ""
    if instance in run.sticky and (worker := preferred(state, run, instance)):
        wish = f"; it would rather have worker {worker}, which last ran {run.sticky[instance]}"
    free = sum(w.free for w in workers)
    slots = sum(w.slots for w in workers)
    return WaitReason(
        path=path,
        state="READY",
        owner="coordinator",
        reason=f"waits for a free slot ({free} of {slots} free)" + wish,
    )
