"""Of a run's model: the runs that it begins.

The rules: a child is begun once, by the run that logged the intent; its end reaches that run
exactly once, with the state that the child really has; who is cancelled is heard of, too.
"""

from __future__ import annotations

from typing import Any

from headrace.messages import subjects
from headrace.plan import Subworkflow
from support.sim.instances import COMPLETED, PENDING, STATES, WAITING, Instance, Model

_ENDED = ("COMPLETED", "FAILED", "CANCELLED")


class Families(Model):
    """Events 40 to 42."""

    def __init__(self) -> None:
        self.begun: dict[tuple[int, int], str] = {}
        """(instance, attempt) -> key of the child."""
        self.heard: dict[tuple[int, int], None] = {}
        """Those whose end is in this run's log."""
        self.parent: tuple[str, int, int] | None = None
        self.called_by: tuple[str, str] | None = None
        """(run, holder) of the workflow function that has begun it."""

    def born(self, holder: str) -> None:
        """This run is a child: its parent must have said so before."""
        if not holder:
            return
        name, _, rest = holder.partition("#")
        if ":" in rest:
            self._born_of_function(name, holder)
            return
        instance, _, attempt = rest.partition(".")
        place = (int(instance), int(attempt))
        self.parent = (name, *place)

        def check() -> None:
            above = self.world.oracle.run(name)
            if above is None or above.begun.get(place) != self.key:
                self.fault(f"it says that {holder} has begun it, which knows nothing of it")
                return
            node = above.instances[place[0]].node
            source = node.source if isinstance(node, Subworkflow) else ""
            if source:
                name_at, _, version = source.partition("@")
                registry = self.world.oracle.shards[subjects.SYSTEM_SHARD].registry
                if registry.versions[f"default/{name_at}", version] != self.digest:
                    self.fault(f"it is to be {source}, and is another one")

        self.world.oracle.later(check)

    def _born_of_function(self, name: str, holder: str) -> None:
        self.called_by = (name, holder)

        def check() -> None:
            above = self.world.oracle.run(name)
            if above is None or not above.is_child(holder, self.key):
                self.fault(f"it says that {holder} has begun it, which knows nothing of it")

        self.world.oracle.later(check)

    def child_started(self, event: list[Any]) -> None:
        """The intent to begin a child."""
        found, attempt, child = self.instances[event[1]], event[2], f"default/{event[3]}"
        assert isinstance(found.node, Subworkflow)
        self.may_begin(found)
        if found.state != PENDING or attempt != found.attempt + 1:
            self.fault(f"child {found.index}.{attempt} begins while {found.state}")
        if self.world.oracle.run(child) is not None:
            self.fault(f"child {child} was there before it was begun")
        found.state, found.attempt, found.due_ms = WAITING, attempt, event[6]
        self.begun[found.index, attempt] = child

    def child_ended(self, event: list[Any]) -> None:
        """The end of a child; a detached one is only sure to begin."""
        found, state = self.instances[event[1]], STATES[event[2]]
        assert isinstance(found.node, Subworkflow)
        if found.state != WAITING:
            self.fault(f"child {found.index} ends while {found.state}")
        place = (found.index, found.attempt)
        if not found.node.detached:
            self._hear(place)
            self.world.oracle.later(lambda: self._must_be(self.begun[place], state.upper()))
        elif state != COMPLETED:
            self.fault(f"a detached child has {state}")
        found.tolerated = event[5]
        self.finish(found, state)

    def child_stopped(self, event: list[Any]) -> None:
        """A child that was cancelled has ended, or never began."""
        place = (event[1], event[2])
        self._hear(place)
        found = self.instances[event[1]]
        if found.state == WAITING and found.attempt == place[1]:
            self.fault(f"child {place} is heard of as one that nobody waits for")
        self._must_have_ended(self.begun[place])

    def check_children_ended(self, group: Instance) -> None:
        """No child below *group* runs, but for detached ones."""
        for (instance, _), child in self.begun.items():
            found = self.instances[instance]
            assert isinstance(found.node, Subworkflow)
            if self.is_below(found, group) and not found.node.detached:
                self._must_have_ended(child)

    def may_leave(self) -> None:
        """This run is evicted: its parent must not wait for it any more."""
        if self.called_by is not None:
            caller = self.world.oracle.run(self.called_by[0])
            if caller is not None and caller.waits_for(self.called_by[1]):
                self.fault(f"it is evicted, and {self.called_by} has not logged its end")
        if self.parent is None:
            return
        name, instance, attempt = self.parent
        above = self.world.oracle.run(name)
        found = above.instances[instance] if above is not None else None
        if found is not None and found.state == WAITING and found.attempt == attempt:
            self.fault(f"it is evicted, and {self.parent} has not logged its end")

    def check_children(self) -> None:
        """The world is over: each child was begun, or was cancelled before that."""
        for (instance, _), child in self.begun.items():
            found = self.instances[instance]
            there = self.world.oracle.run(child) is not None
            if not there and found.state == COMPLETED:
                self.fault(f"child {child} never began")

    def _hear(self, place: tuple[int, int]) -> None:
        if place in self.heard:
            self.fault(f"the end of child {place} is logged twice")
        self.heard[place] = None

    def _must_be(self, key: str, state: str) -> None:
        child = self.world.oracle.run(key)
        if child is None or child.state != state:
            found = child.state if child is not None else "not there"
            self.fault(f"child {key} is said to be {state}, and is {found}")

    def _must_have_ended(self, key: str) -> None:
        def check() -> None:
            child = self.world.oracle.run(key)
            if child is not None and child.state not in _ENDED:
                self.fault(f"child {key} is {child.state}")

        self.world.oracle.later(check)
