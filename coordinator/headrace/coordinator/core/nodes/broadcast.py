"""Broadcasts: loops whose items are the live workers of a group, decided once, when they begin.

Who lives is not in the state: a broadcast that may begin is noted for the owner, which tells whom
it sees there (`gathered`). What the owner saw is the `Expanded` event, and nobody looks again: a
worker that comes later is not part of it, one that is lost leaves its iteration to
`on-worker-loss`. Each iteration's tasks go to its worker's own lane, as those of a pinned job do,
so a worker that comes back under its id takes them up again.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.coordinator.core import status
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes.expansion import expand
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.offers import able, evaluated_labels, needed_labels, nobody
from headrace.coordinator.core.nodes.sagas import is_compensating
from headrace.coordinator.core.program import TASK
from headrace.coordinator.core.scopes import Scope
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError
from headrace.events import NodeEnded, StepQueued, StepSkipped
from headrace.messages import WaitReason
from headrace.plan import Loop, Task


def begin(tick: Tick, run: Run, instance: int) -> None:
    """Ask the owner who is there (of a paused run: when it goes on)."""
    if run.paused:
        return
    tick.gatherings[run.key, instance] = (run.program.namespace, evaluated_labels(run, instance))
    body = run.program.nodes[run.locate(instance)[0] + 1]
    limit_ms = body.schedule_timeout_ms if isinstance(body, Task) else None
    if limit_ms and instance not in run.due:
        due_ms = tick.state.now_ms + limit_ms
        tick.emit(run, StepQueued(instance, due_ms))
        tick.timers.push(due_ms, run.key, instance)


def gathered(tick: Tick, key: str, instance: int, workers: Sequence[tuple[str, str]]) -> None:
    """These workers, (id, incarnation), are live and in the group: begin. None of them: wait on."""
    run = tick.state.runs.get(key)
    if run is None or not is_waiting(run, instance, tick.state.now_ms):
        tick.gatherings.pop((key, instance), None)
        return
    if not workers:
        return
    tick.gatherings.pop((key, instance), None)
    loop = run.program.nodes[run.locate(instance)[0]]
    assert isinstance(loop, Loop)
    found = sorted(workers)
    items = [{"id": worker, "incarnation": life} for worker, life in found]
    try:
        expand(tick, run, instance, loop, items, [worker for worker, _ in found])
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))


def is_waiting(run: Run, instance: int, now_ms: int) -> bool:
    """Tell whether a broadcast may begin, and has not."""
    return (
        instance < len(run.status)
        and run.locate(instance)[0] in run.program.broadcasts
        and run.status[instance] == status.PENDING
        and run.is_ready(instance, now_ms)
    )


def lose_iterations(tick: Tick, run: Run, worker: str, reason: str) -> None:
    """A worker will not come back: end what only it could have run."""
    for scope in [s for s in run.scopes if _is_of(run, s, worker)]:
        body = scope.base
        if run.status[body] == status.TEMPLATE:
            continue
        begun = status.is_final(run.status[body]) or run.may_begin(body)
        if status.is_final(run.status[body]) or is_compensating(run, body):
            _fail_leaves(tick, run, body, reason)
        elif begun:
            # One that waits for its turn (`max-parallel`) is looked at when that comes.
            _lose(tick, run, scope, reason)


def _is_of(run: Run, scope: Scope, worker: str) -> bool:
    return run.locate(scope.loop)[0] in run.program.broadcasts and scope.item["id"] == worker


def _lose(tick: Tick, run: Run, scope: Scope, reason: str) -> None:
    loop = run.program.nodes[run.locate(scope.loop)[0]]
    assert isinstance(loop, Loop)
    body, value = scope.base, run.status[scope.base]
    if loop.on_worker_loss == "fail":
        fail_node(tick, run, body, "worker-lost", reason)
    elif value == status.RUNNING:
        tick.emit(run, NodeEnded(body, status.SKIPPED, reason=f"worker-lost: {reason}"))
        tick.stop_doomed(run)
    else:
        tick.emit(run, StepSkipped(body, "worker-lost"))


def _fail_leaves(tick: Tick, run: Run, body: int, reason: str) -> None:
    """What still is to run there (compensations, handlers) cannot: say so, step by step."""
    for step in (body, *run.descendants(body)):
        is_task = run.program.kind[run.locate(step)[0]] == TASK
        if is_task and run.is_ready(step, tick.state.now_ms):
            fail_node(tick, run, step, "worker-lost", reason)


def why(run: Run, instance: int, facts: Facts) -> WaitReason | None:
    """It waits until somebody of its group is there."""
    if run.status[instance] != status.PENDING or run.waiting[instance] or run.paused:
        return None
    if not run.may_begin(instance):
        return None
    needed = needed_labels(run, instance)
    if not able(run, needed, facts):
        return nobody(run, instance, needed, facts)
    return WaitReason(
        path=run.path(instance),
        state="READY",
        owner="coordinator",
        reason="waits until the coordinator has heard of all live workers of its group",
    )
