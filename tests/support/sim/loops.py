"""Of a run's model: loops, and what is broadcast to workers.

The rules: a loop has the items that its plan says, each once, in order; one iteration of a
repetition after the other, and not too many; a broadcast has workers of this world, each once, and
what is for one goes to no other.
"""

from __future__ import annotations

from typing import Any

from headrace.plan import Loop
from support.sim.instances import FINAL, PENDING, RUNNING, Instance, Model
from support.sim.plans import items_of


class Loops(Model):
    """Event 16."""

    def expanded(self, event: list[Any]) -> None:
        """A loop learns its items, or begins one iteration more."""
        loop, first, items, total = self.instances[event[1]], event[2], event[3], event[4]
        assert isinstance(loop.node, Loop)
        if loop.node.kind == "repeat" and loop.state == RUNNING:
            self._repeated(loop, first, items, total)
            return
        if first == 0:
            if loop.state != PENDING:
                self.fault(f"loop {loop.index} expands while {loop.state}")
            self.may_begin(loop)
            loop.state, loop.due_ms = RUNNING, event[9]
        wanted = self._workers(items) if loop.node.kind == "broadcast" else items_of(loop.node)
        loop.total = total
        if total != len(wanted) or items != wanted[first : first + len(items)]:
            self.fault(f"loop {loop.index}: items {items} of {total}")
        for at, item in enumerate(items):
            made = self.grow(self.node_index(loop) + 1, loop)
            made.item = item
            made.label = event[5][at] if event[5] is not None else str(first + at)

    def _workers(self, items: list[Any]) -> list[Any]:
        """Check that these are workers of the world, each once; return them."""
        lives = {f"{item['id']}.{item['incarnation']}" for item in items}
        if len(lives) != len(items) or not lives <= self.world.record.workers:
            self.fault(f"a broadcast to {items}; there were {self.world.record.workers}")
        return items

    def _repeated(self, loop: Instance, first: int, items: list[Any], total: int) -> None:
        """One iteration more, once all that were before it have ended."""
        assert isinstance(loop.node, Loop)
        made = loop.children
        if (first, items, total) != (len(made), [None], len(made) + 1):
            self.fault(f"loop {loop.index}: {len(made)} iterations, and then {first} of {total}")
        if any(child.state not in FINAL for child in made):
            self.fault(f"loop {loop.index} repeats while an iteration runs")
        if first >= (loop.node.times if isinstance(loop.node.times, int) else 3):
            self.fault(f"loop {loop.index}: iteration {first} is one too many")
        self.grow(self.node_index(loop) + 1, loop).label = str(first)

    def check_lane(self, step: Instance, lane: str) -> None:
        """What is broadcast goes to the lane of its worker."""
        above: Instance | None = step
        while above is not None and not (isinstance(above.item, dict) and "id" in above.item):
            above = above.parent
        if above is not None and not lane.startswith(f"@{above.item['id']}-"):
            self.fault(f"{step.index} is for {above.item}, and goes to {lane}")
