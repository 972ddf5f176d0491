"""Loops: `for-each` and matrices expand their items at once, into iterations of one body;
repetitions (see `repetition`) make one iteration after the other; the iterations of a broadcast
(see `broadcast`) are workers."""

from __future__ import annotations

from headrace.coordinator.core.deferral import plain
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes import broadcast, repetition
from headrace.coordinator.core.nodes.container import Container
from headrace.coordinator.core.nodes.expansion import expand
from headrace.coordinator.core.nodes.fields import evaluated
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.expressions import Opaque, OpaqueValue
from headrace.messages import WaitReason
from headrace.plan import Loop, expand_items


class LoopKind(Container):
    """The body is run once for each item."""

    name = "loop"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Evaluate the items and expand them."""
        loop = run.program.nodes[node]
        assert isinstance(loop, Loop)
        if loop.kind == "repeat":
            repetition.begin(tick, run, instance, loop)
            return
        if loop.kind == "broadcast":
            broadcast.begin(tick, run, instance)
            return
        found = evaluated(run, instance, loop.items)
        if isinstance(found, Opaque):
            raise OpaqueValue(found)
        items, labels = expand_items(loop, plain(found))
        expand(tick, run, instance, loop, items, labels)

    def child_ended(self, tick: Tick, run: Run, instance: int) -> None:
        """End it; or, of a repetition, make the next iteration."""
        loop = run.program.nodes[run.locate(instance)[0]]
        assert isinstance(loop, Loop)
        if loop.kind != "repeat" or not repetition.goes_on(tick, run, instance, loop):
            super().child_ended(tick, run, instance)

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """A broadcast waits for workers."""
        if run.locate(instance)[0] in run.program.broadcasts:
            return broadcast.why(run, instance, facts)
        return None
