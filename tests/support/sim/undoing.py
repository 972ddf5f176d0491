"""Of a run's model: failures that somebody decides about, and what is undone.

The rules: a compensation runs only for what has completed and was not undone since, the last
completed first, one after the other, and only when nothing else below its group runs, no child run
either. A group that has compensated ends with nothing left to undo, unless it was told to give up
or a compensation could not be done.
"""

from __future__ import annotations

from typing import Any

from headrace.plan import Group, Task
from support.sim.instances import (
    COMPLETED,
    DISPATCHED,
    DORMANT,
    FAILED,
    FINAL,
    HELD,
    PENDING,
    RUNNING,
    SKIPPED,
    STATES,
    UNKNOWN,
    Instance,
    Model,
)


class Saga:
    """A group that compensates."""

    def __init__(self, state: str, *, retry: bool) -> None:
        self.state, self.retry = state, retry
        self.current: Instance | None = None


class Undoing(Model):
    """Events 50 to 53."""

    def __init__(self) -> None:
        self.undo: dict[int, None] = {}
        """Steps that have completed and can be undone, in that order."""
        self.sagas: dict[int, Saga] = {}
        self.gives_up = False

    def note_completed(self, step: Instance) -> None:
        """A step has completed: perhaps it is undone some day."""
        if self._can_be_undone(step):
            self.undo.pop(step.index, None)
            self.undo[step.index] = None

    def _can_be_undone(self, step: Instance) -> bool:
        return isinstance(step.node, Task) and step.node.compensate >= 0

    def hold(self, step: Instance, handler: int) -> None:
        """The end of a step is open; handler -1: a person decides."""
        step.state, step.handler = HELD, handler
        if handler >= 0:
            self.call(self.instances[handler], step)

    def call(self, handler: Instance, step: Instance) -> None:
        """What is dormant is to run now."""
        if handler.state != DORMANT:
            self.fault(f"{handler.index} is called for {step.index}, and is {handler.state}")
        handler.step, handler.called = step, True
        self._wake(handler)

    def _wake(self, found: Instance) -> None:
        found.state = PENDING
        for child in found.children:
            self._wake(child)

    def resolved(self, event: list[Any]) -> None:
        """Somebody has decided."""
        step, resolution, tolerated, decider = (
            self.instances[event[1]],
            event[2],
            event[4],
            event[5],
        )
        self.request(event[6])
        if step.state != HELD:
            self.fault(f"step {step.index} is resolved while {step.state}")
        if decider != step.handler:
            # A cancelled run asks nobody any more.
            self.fault(f"step {step.index} is resolved by {decider}, not by {step.handler}")
        if decider >= 0 and self.instances[decider].state not in FINAL and not self.cancelling:
            self.fault(f"step {step.index} is resolved before its handler has ended")
        if decider < 0 and event[6]:
            said = self.world.record.decision(event[3])
            if said != (self.key, resolution):
                self.fault(f"step {step.index} is {resolution} with {event[3]}, decided: {said}")
        if resolution == "retry":
            step.state, step.retry_ms = PENDING, 0
            step.licences += 1
            return
        step.tolerated = tolerated or resolution == "skipped"
        state = {"completed": COMPLETED, "skipped": SKIPPED, "failed": FAILED}
        if resolution == "completed":
            self.note_completed(step)
        self.finish(step, state.get(resolution, UNKNOWN))

    def compensation_started(self, event: list[Any]) -> None:
        """A group stops, to undo what has completed in it."""
        group, state, reason = self.instances[event[1]], STATES[event[2]], event[4]
        assert isinstance(group.node, Group)
        if group.state != RUNNING or group.index in self.sagas:
            self.fault(f"group {group.index} compensates while {group.state}")
        if any(self.is_below(self.instances[inner], group) for inner in self.sagas):
            self.fault(f"group {group.index} compensates, and so does what is inside of it")
        if not reason and not self.cancelling:
            self.check_join(group, state)
        self.sagas[group.index] = Saga(state, retry=event[5])
        group.due_ms = 0
        self.close(group)

    def compensation_scheduled(self, event: list[Any]) -> None:
        """One step is undone: the right one?"""
        node, step = self.instances[event[1]], self.instances[event[2]]
        group = self._saga_around(step)
        if group is None:
            self.fault(f"step {step.index} is undone, and no group around it compensates")
            return
        saga = self.sagas[group.index]
        left = [at for at in self.undo if self.is_below(self.instances[at], group)]
        if not left or left[-1] != step.index:
            self.fault(f"step {step.index} is undone; of {left} the last has to be")
        if saga.current is not None and saga.current.state not in FINAL:
            self.fault(f"{node.index} begins, and {saga.current.index} is {saga.current.state}")
        busy = [at.index for at in self.below(group) if at.state == DISPATCHED]
        if busy:
            self.fault(f"{node.index} begins while {busy} run")
        self.check_children_ended(group)
        self.undo.pop(step.index, None)
        if node.state in FINAL:
            # Of an earlier round, or of a job that has begun anew.
            node.state = DORMANT
            self.begin_anew(node)
        self.call(node, step)
        saga.current = node

    def restarted(self, event: list[Any]) -> None:
        """All is undone: the group begins anew."""
        group = self.instances[event[1]]
        saga = self.sagas.pop(group.index, None)
        if saga is None or not saga.retry:
            self.fault(f"group {group.index} begins anew, and was not to")
        busy = [at.index for at in self.below(group) if at.state == DISPATCHED]
        if busy or self._left(group):
            self.fault(f"group {group.index} begins anew: {busy} run, {self._left(group)} is left")
        self.check_children_ended(group)
        group.due_ms = event[2]
        for step in self.below(group):
            step.licences += step.state == COMPLETED and self._can_be_undone(step)
        self.begin_anew(group)

    def saga_ended(self, group: Instance) -> bool:
        """A container has ended; tell whether it had compensated, and check that it is done."""
        saga = self.sagas.pop(group.index, None)
        if saga is None:
            return False
        left = self._left(group)
        if left and not self.gives_up:
            self.fault(f"group {group.index} ends, and {left} is not undone")
        for at in left:
            del self.undo[at]
        if saga.current is not None and saga.current.state not in FINAL:
            self.fault(f"group {group.index} ends while {saga.current.index} goes on")
        return True

    def begin_anew(self, found: Instance) -> None:
        """Forget what has happened below a group."""
        found.children = [child for child in found.children if not child.grown]
        for child in (*found.children, *found.dormant):
            asleep = child.node.dormant or found.state == DORMANT
            child.state = DORMANT if asleep else PENDING
            child.retry_ms = child.due_ms = 0
            child.claimed = child.tolerated = child.detached = child.called = False
            self.drop(child)
            child.step = None
            self.begin_anew(child)

    def _left(self, group: Instance) -> list[int]:
        return [at for at in self.undo if self.is_below(self.instances[at], group)]

    def _saga_around(self, found: Instance | None) -> Instance | None:
        while found is not None and found.index not in self.sagas:
            found = found.parent
        return found
