"""Groups: sequences, graphs and jobs. One with a concurrency key waits for it first."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.contexts import Contexts, called_inputs, functions
from headrace.coordinator.core.deferral import plain
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes import sagas
from headrace.coordinator.core.nodes.container import Container, start_container
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.fields import concurrency
from headrace.coordinator.core.nodes.gates import gate_reason, passes, timed_out
from headrace.coordinator.core.state import EMPTY_MAP, Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError, InvalidRequest
from headrace.events import KeyRequested, NodeEnded, StepCancelled, StepsStopped
from headrace.expressions import resolve
from headrace.messages import WaitReason
from headrace.plan import Group

_encode = msgspec.msgpack.Encoder().encode


class GroupKind(Container):
    """Its children run as their needs let them."""

    name = "group"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Ask for the key that it needs, or begin."""
        group = run.program.nodes[node]
        assert isinstance(group, Group)
        if group.cancels:
            _stop_steps(tick, run, instance, [step + instance - node for step in group.cancels])
            return
        wanted = group.concurrency
        if group.call is not None:
            _, problems = called_inputs(run, instance)
            if problems:
                fail_node(tick, run, instance, "invalid-input", "; ".join(problems))
                return
            wanted = wanted or group.call.concurrency
        if wanted is None or instance in run.node_keys:
            _begin(tick, run, instance, group)
            return
        inside = wanted is not group.concurrency
        key, limit, mode = concurrency(run, instance, wanted, inside=inside)
        if _holds_already(run, instance, key):
            shown = key.partition("/")[2]
            message = f"what is around it holds concurrency group {shown} itself"
            fail_node(tick, run, instance, "deadlock", message)
            return
        tick.emit(run, KeyRequested(instance, key, limit, mode))

    def due(self, tick: Tick, run: Run, instance: int) -> None:
        """Its wait for a lock is over."""
        timed_out(tick, run, instance)

    def child_ended(self, tick: Tick, run: Run, instance: int) -> None:
        """End it, once what it stops has ended, too."""
        if run.stopped and _alive(run, instance):
            return
        super().child_ended(tick, run, instance)

    def output(self, tick: Tick, run: Run, instance: int) -> bytes:
        """Evaluate `outputs`."""
        group: Any = run.program.nodes[run.locate(instance)[0]]
        if not group.outputs:
            return EMPTY_MAP
        inside = Contexts(run, instance, inside=True)
        output = _encode(plain(resolve(group.outputs, inside, functions(run, instance))))
        if len(output) > tick.limits.output_bytes:
            raise InvalidRequest(f"{len(output)} bytes; the limit is {tick.limits.output_bytes}")
        return output

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """It waits for its key, or undoes what has completed in it."""
        saga = run.sagas.get(instance)
        if saga is not None:
            left = sum(run.is_below(step, instance) for step in run.undo)
            text = f"compensating, {left} more steps are to be undone"
            if saga.retry:
                text += ", then it begins anew"
            children = sagas.stopping(run, instance)
            if children and run.family is not None:
                names = ", ".join(run.family.children[at] for at in children)
                text += f"; waits for the end of child run {names}"
            return WaitReason(
                path=run.path(instance), state="COMPENSATING", owner="coordinator", reason=text
            )
        found = gate_reason(state, run, instance)
        if found is not None:
            return found
        if run.stopped and run.status[instance] == status.RUNNING:
            alive = sorted(map(run.path, _alive(run, instance)))
            if alive:
                text = f"waits until {', '.join(alive[:10])} is dead"
                path = run.path(instance)
                return WaitReason(path=path, state="WAITING", owner="worker", reason=text)
        held = run.node_keys.get(instance)
        if held is None or run.status[instance] != status.WAITING:
            return None
        return key_reason(state, run.path(instance), *held, 0)


def _alive(run: Run, stopper: int) -> list[int]:
    """Return what still lives of the steps that *stopper* stops, and of all that is in them."""
    stopped = [step for step, by in run.stopped.items() if by == stopper]
    found = [step for step in stopped if not status.is_final(run.status[step])]
    below = (t for t in run.tokens if any(run.is_below(t, step) and t != step for step in stopped))
    return [*found, *below]


def _stop_steps(tick: Tick, run: Run, instance: int, steps: list[int]) -> None:
    """Stop background steps, and all that is in them."""
    open_steps = [step for step in steps if not status.is_final(run.status[step])]
    tick.emit(run, StepsStopped(instance, open_steps))
    reason = f"cancelled by {run.path(instance)}"
    for step in open_steps:
        value = run.status[step]
        if value == status.RUNNING:
            tick.emit(run, NodeEnded(step, status.CANCELLED, reason=f"cancelled: {reason}"))
        elif value in (status.PENDING, status.WAITING):
            tick.emit(run, StepCancelled(step, run.attempt[step], "", reason))
    tick.stop_doomed(run)


def key_granted(tick: Tick, run: Run, instance: int) -> None:
    """Begin a group that has waited for its key."""
    group = run.program.nodes[run.locate(instance)[0]]
    assert isinstance(group, Group)
    try:
        _begin(tick, run, instance, group)
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))


def _begin(tick: Tick, run: Run, instance: int, group: Group) -> None:
    """Begin a group that has its key, unless it waits for something else."""
    node = run.locate(instance)[0]
    if node not in run.program.gates or passes(tick, run, instance, node):
        start_container(tick, run, instance, group)


def _holds_already(run: Run, instance: int, key: str) -> bool:
    """Tell whether the run, or a group around *instance*, holds the key that it would wait for."""
    if run.key_name == key:
        return True
    above = run.parent(instance)
    while above >= 0:
        if run.node_keys.get(above, ("", ""))[0] == key:
            return True
        above = run.parent(above)
    return False


def key_reason(state: ShardState, path: str, key: str, holder: str, since_ms: int) -> WaitReason:
    """Say who holds the concurrency key that *holder* waits for."""
    group = key.partition("/")[2]
    record = state.keys.get(key)
    held_by = ", ".join(sorted(record.holders)) if record is not None else ""
    text = f"waits for concurrency key {group}"
    if held_by:
        text += f", held by {held_by}"
    return WaitReason(
        path=path,
        state="WAITING",
        reason=text,
        owner=held_by or "coordinator",
        since_ms=since_ms,
        key=key,
        holder=holder if record is None else "",
    )
