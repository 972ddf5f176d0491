"""The fold of what happens to subworkflows: they begin runs, and hear of their ends."""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.state import EMPTY_MAP, Family, Run, ShardState
from headrace.coordinator.core.surroundings import child_extras, child_holder, ended
from headrace.events import ChildEnded, ChildStarted, ChildStopped
from headrace.messages import StepError, step_span, subjects
from headrace.plan import Subworkflow


def child_started(state: ShardState, run: Run, event: ChildStarted) -> None:
    """Fold `ChildStarted`: the intent to begin the child is part of this entry."""
    instance = event.node
    node = run.locate(instance)[0]
    found = run.program.nodes[node]
    assert isinstance(found, Subworkflow)
    if run.family is None:
        run.family = Family()
    run.status[instance] = status.WAITING
    run.attempt[instance] = event.attempt
    if run.patches is not None:
        run.patches.wired.pop(instance, None)
    run.family.children[instance] = event.child
    if not event.detached:
        run.family.awaited.add(instance)
    if event.due_ms:
        run.due[instance] = event.due_ms
    child = subjects.run_key(run.program.namespace, event.child)
    digest = run.program.subplans[node][0]
    # Of a detached child, too: it stays until this shard sends no start any more.
    more = (digest, found.plan, bytes(event.input), run.priority, state.shard)
    extras = child_extras(run, step_span(run.path(instance), run.round(instance)))
    state.post(child, "start-child", child, child_holder(run, instance), *more, *extras)


def child_ended(state: ShardState, run: Run, event: ChildEnded) -> None:
    """Fold `ChildEnded`."""
    instance = event.node
    if run.family is not None:
        run.family.awaited.discard(instance)
    run.due.pop(instance, None)
    run.status[instance] = event.status
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[instance] = output
    if event.reason:
        kind, _, message = event.reason.partition(": ")
        run.errors[instance] = StepError(kind, message, False)
    if event.tolerated:
        run.tolerated.add(instance)
    ok = event.status == status.COMPLETED or event.tolerated
    failed = event.status == status.FAILED and not event.tolerated
    ended(state, run, instance, ok=ok, failed=failed)


def child_stopped(state: ShardState, run: Run, event: ChildStopped) -> None:
    """Fold `ChildStopped`: whoever undoes what has completed may have waited for it."""
    assert run.family is not None
    attempt = f".{event.attempt}"
    for holder, node in list(run.family.stopping.items()):
        # By what it stands for: the number in its name may be one of before a patch.
        if node == event.node and holder.endswith(attempt):
            del run.family.stopping[holder]
    if state.leading:
        state.agenda.extend((run, ~saga) for saga in run.sagas)
