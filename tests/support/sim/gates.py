"""Of a run's model: what its nodes ask for before they begin, and what they have of it.

The rules: nobody begins without what the plan wants of it; what it is said to have was granted to
it at home, under the very name under which it asked; each attempt asks anew; a result out of the
cache is one that the home had when it was asked, and the step does not run; a lock is lost only
when it was taken at home.
"""

from __future__ import annotations

from typing import Any

from headrace.messages import subjects
from headrace.plan import Group, Node, Plan, RateLimit, Task
from support.sim.instances import COMPLETED, PENDING, WAITING, Instance, Model


class Gates(Model):
    """Events 27, 30, 34, 35 and 37."""

    plan: Plan

    def __init__(self) -> None:
        self.results: dict[str, list[tuple[int, Any]]] = {}
        """Path -> (when, output) of steps whose results may be cached."""

    def drop(self, found: Instance) -> None:
        """It holds nothing any more, and waits for nothing."""
        for key in (found.key, found.lock):
            if key:
                self.shard.release_real(key, (self.key, found.index))
        found.key = found.lock = found.placed = ""
        found.asked, found.missed, found.until_ms = None, False, 0

    def key_requested(self, event: list[Any]) -> None:
        """It asks for a concurrency key, a lock, a place within a rate limit, a cached result."""
        found, key, gate, due_ms = self._named(event[1]), event[2], event[5], event[7]
        if found.index >= 0:
            self.may_begin(found)
        # A step asks anew when its retry is due; a group that has its key asks for more.
        again = found.state == WAITING and (
            bool(found.key) if isinstance(found.node, Group) else found.retry_ms <= self.time_ms
        )
        if found.asked is not None or not (found.state == PENDING or again):
            self.fault(f"{found.index} asks for {key} while {found.state}")
        if key != self._wanted(found, gate, key):
            self.fault(f"{found.index} asks for {gate} {key}, which it does not want")
        limit_ms = self._patience_ms(found, gate)
        if due_ms != (self.time_ms + limit_ms if limit_ms else 0):
            self.fault(f"{found.index} waits for {key} until {due_ms}")
        wire = self.wire(found) if found.index >= 0 else -1
        found.asked = (gate, key, f"{self.key}#{wire}.{self.events}")
        found.state, found.due_ms = WAITING, due_ms
        if gate == "rate" and (event[3], event[8]) != self._rate(found):
            self.fault(f"{found.index} asks for {event[3]} per {event[8]} ms of {key}")

    def key_granted(self, event: list[Any]) -> None:
        """It has what it has asked for, or the word that no result is cached."""
        if event[1] < 0 and not event[3]:
            return
        found, key, gate = self._named(event[1]), event[2], event[3]
        if found.state != WAITING or found.asked is None or found.asked[:2] != (gate, key):
            self.fault(f"{found.index} has {gate} {key}, waits for {found.asked}: {found.state}")
            return
        self._check_home(found.asked, event)
        found.asked, found.due_ms = None, 0
        if gate == "cache":
            found.missed = True
        elif gate == "rate":
            found.placed = key
        else:
            if gate == "lock":
                found.lock, found.until_ms = key, event[5]
            else:
                found.key = key
            self.shard.hold_real(key, (self.key, found.index))
        if isinstance(found.node, Task) or gate:
            # It waits for a worker from now on, or for the next thing.
            found.state = PENDING

    def _check_home(self, asked: tuple[str, str, str], event: list[Any]) -> None:
        gate, key, holder = asked
        home = self.shard.home_of(key)

        def check() -> None:
            if gate == "cache":
                known = home.answers.get((key, holder), [])
                if None not in known:
                    self.fault(f"{holder} is told that there is no result {key}: {known}")
            elif gate:
                granted = home.grants.get((key, holder))
                if granted != (event[4], event[5]):
                    self.fault(f"{holder} is told of {key} {event[4:6]}; its home knows {granted}")

        # The home may be this very shard: its events may stand behind those of the run.
        self.world.oracle.later(check)

    def key_lost(self, event: list[Any]) -> None:
        """Its lock has expired, or somebody took it."""
        found, key = self._named(event[1]), event[2]
        home = self.shard.home_of(key)
        if found.asked is not None and found.asked[:2] == ("lock", key):
            # It had it, and has not heard so: it asks anew.
            found.asked, found.state, found.due_ms = None, PENDING, 0
        elif found.lock != key:
            self.fault(f"{found.index} has lost {key}, and holds {found.lock}")
        if len(event) > 4 and event[4]:
            # Its place goes back too, or its wait for one ends: the lock comes first.
            if not found.placed and (found.asked is None or found.asked[0] != "rate"):
                self.fault(f"{found.index} gives up a place that it has not")
            if not found.placed:
                found.asked, found.state, found.due_ms = None, PENDING, 0
            found.placed = ""
        self.shard.release_real(key, (self.key, found.index))
        found.lock, found.until_ms = "", 0

        def check() -> None:
            if key not in home.taken:
                self.fault(f"{found.index} has lost {key}, which nobody took")

        self.world.oracle.later(check)

    def cached(self, event: list[Any]) -> None:
        """It has the result of another run's step, and does not run."""
        step, given = self.instances[event[1]], (event[2], f"default/{event[3]}", *event[4:6])
        asked, step.asked = step.asked, None
        if step.state != WAITING or asked is None or asked[0] != "cache":
            self.fault(f"{step.index} has a cached result while {step.state}")
            return
        home = self.shard.home_of(asked[1])

        def check() -> None:
            known = home.answers.get((asked[1], asked[2]), [])
            if given not in known:
                self.fault(f"{step.index} has {given} out of the cache; its home gave {known}")
            source = self.world.oracle.run(given[1])
            done = source.instances if source is not None else []
            nodes = [found.node for found in done if found.path == given[2]]
            if _content(step.node) not in map(_content, nodes):
                self.fault(f"{step.index} has {given}, of a step that does something else")

        self.world.oracle.later(check)
        self.note_completed(step)
        self.finish(step, COMPLETED)

    def keyed(self, event: list[Any]) -> None:
        """It prefers the worker that last ran this key."""
        above: Instance | None = self.instances[event[1]]
        while above is not None and not getattr(above.node, "sticky", ""):
            above = above.parent
        if above is None or getattr(above.node, "sticky", "") != event[2]:
            self.fault(f"{event[1]} has the key {event[2]}")

    def use_gates(self, found: Instance) -> None:
        """It begins: with all that it wants?"""
        node = found.node
        if not isinstance(node, Task | Group) or found.called:
            self._use_rate(found)
            return
        if node.lock is not None and found.index > 0:
            if not found.lock:
                self.fault(f"{found.index} begins without its lock")
            elif isinstance(node, Task) and 0 < found.until_ms <= self.time_ms:
                self.fault(f"{found.index} begins when its lock has expired")
        if isinstance(node, Task) and node.cache is not None and not found.missed:
            self.fault(f"{found.index} begins, and may be in the cache")
        self._use_rate(found)

    def _use_rate(self, found: Instance) -> None:
        limit = self._limit(found)
        if limit is None:
            return
        if not found.placed:
            self.fault(f"{found.index} begins without a place within its rate limit")
            return
        self.world.oracle.begins_within(found.placed, self.time_ms)
        found.placed = ""

    def note_result(self, step: Instance, output: Any) -> None:
        """A step has completed: perhaps others are to have its result."""
        if isinstance(step.node, Task) and step.node.cache is not None:
            self.results.setdefault(step.path, []).append((self.time_ms, output))

    # -- what the plan says --------------------------------------------------------------------

    def _named(self, index: int) -> Instance:
        return self.own if index < 0 else self.instances[index]

    def _limit(self, found: Instance) -> RateLimit | None:
        if found.index <= 0:
            return self.plan.rate_limit if found.index < 0 else None
        return found.node.rate_limit if isinstance(found.node, Task | Group) else None

    def _rate(self, found: Instance) -> tuple[int, int]:
        limit = self._limit(found)
        return (limit.limit, limit.per_ms) if limit is not None else (0, 0)

    def _wanted(self, found: Instance, gate: str, key: str) -> str:
        """Return the key that it is to ask for."""
        node, limit = found.node, self._limit(found)
        if gate == "rate" and limit is not None:
            return subjects.rate_key("default", limit.key)
        if gate == "lock" and isinstance(node, Task | Group) and node.lock is not None:
            return subjects.lock_key("default", node.lock.name)
        if gate == "cache" and isinstance(node, Task) and node.cache is not None:
            return key if key.endswith(f"/{node.cache.key}") else ""
        if not gate and isinstance(node, Group) and node.concurrency is not None:
            return f"default/{node.concurrency.group}"
        return ""

    def _patience_ms(self, found: Instance, gate: str) -> int:
        limit = self._limit(found)
        if gate == "rate" and limit is not None:
            return limit.timeout_ms
        if gate == "lock" and isinstance(found.node, Task | Group) and found.node.lock is not None:
            return found.node.lock.timeout_ms
        return 0


def _content(node: Node) -> object:
    """Return what a step does."""
    return (node.uses, node.inputs, node.env) if isinstance(node, Task) else None
