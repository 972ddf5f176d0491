"""Of a run's model: the journal and the turns of a workflow function.

The rules: what is recorded stays, and a step's result was computed by a worker; a report counts
once; only the worker that has the turn records; nothing ends early, no signal is taken twice; a
child is begun once, and its end is its own; what the run comes to is what its script does.
"""

from __future__ import annotations

from typing import Any

from headrace.plan import Task
from support.sim.functions import expected, value_of
from support.sim.instances import DISPATCHED, PENDING, WAITING, Instance, Model

_OPEN, _COMPLETED, _FAILED, _CANCELLED, _CLAIMED = range(5)
_STATES = {"COMPLETED": _COMPLETED, "FAILED": _FAILED}
_WAITING, _BLOCKED, _AGAIN = 0, 4, 5
"""Ends of turns."""
_INSIDE = ("step", "value")
"""Kinds of entries that only a turn records."""


class Record:
    """One entry of a journal."""

    __slots__ = ("attempt", "child", "digest", "due_ms", "error", "kind", "name", "state", "value")

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name, self.digest = kind, name, ""
        self.state = _OPEN
        self.value: Any = None
        self.error = self.child = ""
        self.due_ms = 0
        self.attempt = 0
        """Of the turn in which it ended."""

    def ended_as(self, state: str) -> Any:
        """Return its value if it has ended so."""
        return self.value if _STATES.get(state) == self.state else f"not {state}"

    def ended_before(self, attempt: int) -> bool:
        """Tell whether turn *attempt* was given when it was recorded already."""
        return self.state not in (_OPEN, _CLAIMED) and self.attempt < attempt


class Functions(Model):
    """Events 60 to 70."""

    def __init__(self) -> None:
        self.journal: dict[str, Record] = {}
        self._answered: dict[str, Record] = {}
        """Updates that earlier generations have answered."""
        self.generation = 0
        self.given: dict[str, Any] = {}
        """Its input, of this generation."""
        self.reported = (0, 0)
        """(attempt, sequence) of the newest report."""
        self.offspring: dict[tuple[int, str], str] = {}
        """(generation, key) -> key of the child."""

    @property
    def function(self) -> Instance | None:
        """The instance whose attempts are turns; None: the run is no workflow function."""
        found = self.instances[1] if len(self.instances) == 2 else None
        return found if found and isinstance(found.node, Task) and found.node.code else None

    # -- entries -------------------------------------------------------------------------------

    def _entry(self, event: list[Any], key: str, kind: str, name: str) -> Record:
        """Return the entry *key*, which has not ended."""
        found = self.journal.get(key)
        if found is None:
            found = self.journal[key] = Record(kind, name)
        elif found.state not in (_OPEN, _CLAIMED) or found.kind != kind:
            self.fault(f"{key} is {found.kind} {found.state} ({found.value!r}), and gets {event}")
        self._turn_of(kind, key)
        return found

    def _turn_of(self, kind: str, key: str) -> None:
        function = self.function
        if function is None or (kind in _INSIDE and function.state != DISPATCHED):
            self.fault(f"{key} is recorded, and nobody has the turn")

    def entry_begun(self, event: list[Any]) -> None:
        """Something is asked for, or claimed."""
        key, kind, name, _, state, due_ms = event[1:7]
        known = self.journal.get(key)
        if known is not None and (kind, known.state, state) != ("step", _OPEN, _CLAIMED):
            self.fault(f"{key} begins twice: {event}")
        if event[9]:
            self.request(event[9])
        found = self._entry(event, key, kind, name)
        found.state, found.due_ms, found.value = state, due_ms, event[7]

    def entry_ended(self, event: list[Any]) -> None:
        """Something has its result."""
        key, kind, name, _, state = event[1:6]
        known = self.journal.get(key)
        if known is None and kind not in (*_INSIDE, "child"):
            self.fault(f"{key} ends and has never begun: {event}")
        found = self._entry(event, key, kind, name)
        found.state, found.value = state, event[8]
        found.error = event[9][0] if event[9] else ""
        function = self.function
        found.attempt = function.attempt if function is not None else 0
        if kind == "step" and state == _COMPLETED:
            if wrong := self.world.effects.check(self.key, key, found.value):
                self.fault(wrong)
        elif kind == "sleep" and state == _COMPLETED:
            self._in_time(key, found)
        elif kind == "signal" and state == _COMPLETED:
            self._signalled(key, found, event[10])
        elif kind == "child" and found.child and state != _CANCELLED:
            self._child_ended(found)

    def _in_time(self, key: str, found: Record) -> None:
        if found.due_ms > self.time_ms:
            self.fault(f"{key}: timer {found.due_ms - self.time_ms} ms early")

    def _signalled(self, key: str, found: Record, taken: str) -> None:
        if found.value["timed_out"]:
            self._in_time(key, found)
            if not found.due_ms:
                self.fault(f"{key} has no limit of time, and comes to it")
            return
        count = self.taken[taken] = self.taken.get(taken, 0) + 1
        if taken != found.name or count > self.received.get(taken, 0):
            self.fault(f"{key} waits for {found.name} and took a {taken} that never came")

    def entry_tried(self, event: list[Any]) -> None:
        """An attempt of a step has failed, and there is to be another one."""
        key, name = event[1:3]
        found = self._entry(event, key, "step", name)
        if found.state == _CLAIMED:
            self.fault(f"{key} was claimed, and is to run again")
        found.due_ms = event[7]

    def entry_beat(self, event: list[Any]) -> None:
        """A step says how far it is; it has not ended."""
        key, name = event[1:3]
        self._entry(event, key, "step", name)

    def entry_accepted(self, event: list[Any]) -> None:
        """What is recorded stands for other inputs, too: somebody has said so."""
        if event[1] not in self.journal:
            self.fault(f"{event[1]} is accepted, and there is none")

    def turn_due(self, event: list[Any]) -> None:
        """The next attempt of a step may begin."""
        self._in_time(event[1], self.journal[event[1]])

    # -- children ------------------------------------------------------------------------------

    def child_run_begun(self, event: list[Any]) -> None:
        """The intent to begin a child."""
        key, name, _, child, _, _, detached = event[1:8]
        if key in self.journal:
            self.fault(f"child {key} is begun twice")
        found = self._entry(event, key, "child", name)
        found.child = f"default/{child}"
        self.offspring[self.generation, key] = found.child
        if detached:
            found.state = _COMPLETED

    def _child_ended(self, found: Record) -> None:
        wanted = {_COMPLETED: "COMPLETED", _FAILED: "FAILED"}[found.state]

        def check() -> None:
            child = self.world.oracle.run(found.child)
            if child is None or child.state != wanted:
                state = child.state if child is not None else "not there"
                self.fault(f"child {found.child} is said to be {wanted}, and is {state}")

        self.world.oracle.later(check)

    def is_child(self, holder: str, key: str) -> bool:
        """Tell whether this function has begun *key* as *holder* says."""
        generation, _, place = holder.partition("#")[2].partition(":")
        return self.offspring.get((int(generation), place)) == key

    def waits_for(self, holder: str) -> bool:
        """Tell whether the end of that child is still to come."""
        generation, _, place = holder.partition("#")[2].partition(":")
        found = self.journal.get(place)
        if self.state not in ("PENDING", "RUNNING") or int(generation) != self.generation:
            return False
        return found is not None and found.state == _OPEN

    # -- turns ---------------------------------------------------------------------------------

    def turn_reported(self, event: list[Any]) -> None:
        """A report is in the log."""
        step, attempt, sequence = self.instances[event[1]], event[2], event[3]
        if step.state != DISPATCHED or step.attempt != attempt:
            self.fault(f"a report of turn {attempt}, it is {step.state} at {step.attempt}")
        if self.reported >= (attempt, sequence):
            self.fault(f"report {sequence} of turn {attempt} comes after {self.reported}")
        self.reported = (attempt, sequence)

    def turn_ended(self, event: list[Any]) -> None:
        """A turn is over, the run is not."""
        step, attempt, outcome, again = self.instances[event[1]], event[2], event[4], event[8]
        if step.state != DISPATCHED or step.attempt != attempt:
            self.fault(f"turn {attempt} ends, it is {step.state} at {step.attempt}")
        step.state = PENDING if again else WAITING
        if outcome == _AGAIN:
            self.generation += 1
            updates = {key: entry for key, entry in self.journal.items() if entry.kind == "update"}
            # Updates that wait were acknowledged: the next generation answers them.
            kept = {key: entry for key, entry in updates.items() if entry.state == _OPEN}
            self._answered.update(updates.items() - kept.items())
            self.given, self.journal = event[5], kept
        elif outcome == _BLOCKED:
            self.fault(f"journal and code contradict each other: {event[6]}")
        elif not again and not any(e.state == _OPEN for e in self.journal.values()):
            self.fault("it waits for nothing")

    def labels_changed(self, event: list[Any]) -> None:
        """Labels are for people."""

    def update(self, request_id: str) -> Record | None:
        """Return what became of an update, whichever generation had it."""
        key = f"update:{request_id}"
        return self.journal.get(key) or self._answered.get(key)

    def has_answered(self, request_id: str) -> bool:
        """Tell whether an earlier generation has answered an update."""
        return f"update:{request_id}" in self._answered

    def has_turn(self, attempt: int, token: int) -> bool:
        """Tell whether that turn is the one that may report now."""
        step = self.function
        if step is None or step.state != DISPATCHED or self.cancelling:
            return False
        return (step.attempt, step.token) == (attempt, token)

    def differs(self, key: str, state: int, value: Any) -> str:
        """Say how an entry that has ended is not what the log has; "" if it is.

        The log may know more by now than an answer says.
        """
        found = self.journal.get(key)
        if state in (_OPEN, _CLAIMED):
            return ""
        if found is None or state != found.state:
            return f"{key} is {state}, in the log {found.state if found else 'not there'}"
        if found.state == _COMPLETED and found.kind != "child" and value != found.value:
            return f"{key} is {value!r}, in the log {found.value!r}"
        return ""

    def check_result(self, output: Any) -> None:
        """The run has completed: it did what its script says."""
        script, before = self.given["script"], self.given.get("before", "")
        wanted = expected(script, before, self._told)
        if output != {"result": wanted}:
            self.fault(f"it comes to {output}, not to {wanted}: {script}")

    def _told(self, kind: str, key: str, more: list[Any], before: str) -> str:
        """Return what came of one operation, as far as that is decided elsewhere."""
        found = self.journal.get(key)
        if kind in ("sleep", "update", "tells"):
            return ""
        if kind == "memo":
            return next(str(e.value) for at, e in self.journal.items() if f"memo:{key}#" in at)
        if found is None:
            self.fault(f"{kind} {key} is not in the journal")
            return ""
        if kind == "step":
            return "ValueError" if more[0] == "broken" else value_of(key, before)
        if kind == "once":
            lost = found.error == "effect-unknown"
            return "unknown" if lost else value_of(key, before)
        if kind == "signal":
            return str(-1 if found.value["timed_out"] else found.value["payload"]["v"])
        if found.state != _COMPLETED:
            return "failed"
        if kind != "child":
            return kind
        child = self.world.oracle.run(found.child)
        return expected(more[0], before, child._told) if isinstance(child, Functions) else ""
