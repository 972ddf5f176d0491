"""What the system shard decides for all, and what begins runs: definitions, settings, events.

The rules: numbers rise; a version keeps its content for ever; other shards hear what the system
shard has said, in its order; an event is looked at once, and begins at most one run of each
definition; of events that come closely one after the other the last one begins it, not early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.messages import subjects
from support.sim.features import of_plan

if TYPE_CHECKING:
    from support.sim.oracle import ShardOracle
    from support.sim.runs import RunModel

DEBOUNCED = "order.paid"
QUIET_MS = 300
"""Of every definition that waits for a quiet time."""


class Registry:
    """Events 130 to 165 of one shard that are about none of its runs, schedules and keys."""

    def __init__(self, shard: ShardOracle) -> None:
        self._shard = shard
        self.versions: dict[tuple[str, str], str] = {}
        """(key, version) -> digest of all that there ever were."""
        self.live: dict[str, dict[str, None]] = {}
        """Key -> its versions, the newest last."""
        self.weights: list[float] = []
        self.variables: list[dict[str, str]] = [{}]
        """What they were, one after the other."""
        self.told: int = 1
        """How many of them there were before this tick."""
        self.events: dict[int, list[str]] = {}
        """Number of an event -> the runs that it begins, at once or some time."""
        self.to_begin: set[str] = set()
        self.held: dict[str, tuple[str, int]] = {}
        """Name -> (run, when it begins)."""
        self._numbers: dict[str, int] = {}
        self._position = self._looked = 0
        self._dropped: set[int] = set()
        """Events behind which others came that may be like them, before anything was told."""

    def apply(self, event: list[Any], time_ms: int) -> None:
        """Apply one event, if it is one of them."""
        handler = _HANDLERS.get(event[0])
        if handler is not None:
            handler(self, event, time_ms)

    def tick_ends(self) -> None:
        """All of a tick is known."""
        self.told = len(self.variables)

    def _rises(self, what: str, number: int) -> None:
        if number <= self._numbers.get(what, 0):
            self._shard.fault(f"{what}: change {number} after {self._numbers[what]}")
        self._numbers[what] = number

    # -- definitions ---------------------------------------------------------------------------

    def _registered(self, event: list[Any], time_ms: int) -> None:
        key, version, digest, number, request = event[1:6]
        self._rises("definitions", number)
        self._shard.seen.add(request)
        if digest not in self._shard.plans:
            self._shard.fault(f"{key}@{version} is registered, and its plan is not stored")
        if version in self.live.get(key, {}):
            self._shard.fault(f"{key}@{version} is registered again")
        plan = self._shard.plans.get(digest)
        if plan is not None:
            self._shard.world.used.update(of_plan(plan))
        self.versions[key, version] = digest
        self.live.setdefault(key, {})[version] = None

    def _deleted(self, event: list[Any], time_ms: int) -> None:
        key, versions, request = event[1:4]
        self._shard.seen.add(request)
        for version in versions:
            if version not in self.live.get(key, {}):
                self._shard.fault(f"{key}@{version} is deleted, and was not registered")
            self.live.get(key, {}).pop(version, None)

    # -- settings of namespaces ----------------------------------------------------------------

    def _weighed(self, event: list[Any], time_ms: int) -> None:
        self._rises("namespace", event[3])
        self._shard.seen.add(event[4])
        self.weights.append(event[2])
        self._compare("weight", event[3], event[2])

    def _set(self, event: list[Any], time_ms: int) -> None:
        self._rises("variables", event[3])
        self._shard.seen.add(event[5])
        self.variables.append(event[2])
        self._compare("variables", event[3], event[2])

    def _compare(self, what: str, number: int, value: Any) -> None:
        """All shards have the same under one number, and the system shard had it first."""
        said = self._shard.world.oracle.said
        if self._shard.shard == subjects.SYSTEM_SHARD:
            said[what, number] = value
        elif said.get((what, number)) != value:
            self._shard.fault(f"{what} {number}: {value}; the system shard has said {said}")

    def pinned(self, run: RunModel, variables: dict[str, str]) -> None:
        """A run goes by these variables: they were so when it was created."""

        def check() -> None:
            if variables not in self.variables[self.told - 1 :]:
                text = f"{run.key} goes by {variables}, there are {self.variables[-2:]}"
                self._shard.fault(text)

        self._shard.world.oracle.later(check)

    # -- events from outside -------------------------------------------------------------------

    def _taken(self, event: list[Any], time_ms: int) -> None:
        _, position, begun, failed, held = event[1:6]
        if position < self._position:
            self._shard.fault(f"events up to {position} are looked at, after {self._position}")
        self._looked, self._position = self._position, position
        for definition, problem in failed:
            self._shard.fault(f"{definition}: {problem}")
        for _, _, run, *_ in begun:
            self._begin(run)
        for name, (_, _, run, *_), due_ms in held:
            # Of those that are looked at together, only the last of a key is told.
            self._dropped.update(range(self._looked + 1, self._note(run)))
            if due_ms != time_ms + QUIET_MS:
                self._shard.fault(f"{name} is held until {due_ms}")
            self.held[name] = (run, due_ms)

    def _note(self, run: str) -> int:
        number = int(run.partition("-e")[2].partition("-")[0])
        known = self.events.setdefault(number, [])
        if run in known:
            self._shard.fault(f"event {number} begins {run} again")
        known.append(run)
        return number

    def _begin(self, run: str) -> None:
        self._note(run)
        self.to_begin.add(run)

    def _quiet(self, event: list[Any], time_ms: int) -> None:
        run, due_ms = self.held.pop(event[1], ("", 0))
        if not run or due_ms > time_ms:
            self._shard.fault(f"{event[1]} begins {run or 'nothing'} {due_ms - time_ms} ms early")
        self.to_begin.add(run)

    def _declined(self, event: list[Any], time_ms: int) -> None:
        self._shard.fault(f"{event}")

    # -- the end -------------------------------------------------------------------------------

    def unfinished(self, sent: dict[int, str]) -> list[str]:
        """Return what is still to be looked at, or to begin."""
        if self._shard.shard != subjects.SYSTEM_SHARD:
            return [] if self._is_told() else ["it has not heard of the newest settings"]
        found = [f"event {number} is unread" for number in sent if number > self._position]
        return [*found, *(f"{name} waits for a quiet time" for name in self.held)]

    def _is_told(self) -> bool:
        system = self._shard.world.oracle.shards[subjects.SYSTEM_SHARD].registry
        return (
            self.variables[-1] == system.variables[-1] and self.weights[-1:] == system.weights[-1:]
        )

    def check(self, runs: set[str], sent: dict[int, str]) -> None:
        """The world is over. *sent*: number -> subject of the events that were published."""
        if self._shard.shard != subjects.SYSTEM_SHARD:
            if not self._is_told():
                self._shard.fault("it has not heard of the newest settings")
            return
        for run in self.to_begin - runs:
            self._shard.fault(f"{run} was to begin, and never did")
        for name, held in self.held.items():
            self._shard.fault(f"{name} is held still: {held}")
        for number, subject in sent.items():
            dropped = subject == DEBOUNCED and number in self._dropped
            if number not in self.events and not dropped:
                self._shard.fault(f"event {number} ({subject}) was acknowledged, nobody saw it")


_HANDLERS = {
    130: Registry._registered,
    131: Registry._deleted,
    142: Registry._taken,
    143: Registry._declined,
    144: Registry._declined,
    145: Registry._quiet,
    160: Registry._weighed,
    165: Registry._set,
}
