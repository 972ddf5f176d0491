"""How messages travel, and what clocks show: the dials that faults turn."""

from __future__ import annotations

import random
from collections import Counter

from support.sim.loop import Process

EPOCH_MS = 1_700_000_000_000
"""What an exact clock shows when a world begins."""
BROKER = "broker"
"""The broker as a part of the network; all other parts are processes, by name."""
CONTROL = "control"
"""The control plane as a part of the network: what coordinators say to each other."""
CONTROL_SUBJECTS = ("headrace.raft.", "headrace.hb.coordinator.")
SLOW_S = 1.5


class Net:
    """The network between processes and the broker. What it does to messages, it counts."""

    def __init__(self, rng: random.Random, tally: Counter[str]) -> None:
        self._rng, self._tally = rng, tally
        self.walls: dict[tuple[str, str], int] = {}
        """(from, to): nothing gets through, and no connection breaks; how many faults say so."""
        self.calm()

    def calm(self) -> None:
        """Nothing is lost; a message takes half a millisecond to four."""
        self.loss = self.copies = self.slow = self.failures = self.lag = 0.0
        self.in_order = True

    def delay_s(self) -> float:
        """Return how long one message takes."""
        draw = self._rng.random
        if self.slow and draw() < self.slow:
            self._tally["message-delayed"] += 1
            return draw() * SLOW_S
        return 0.0005 + draw() * 0.0035

    def lost(self) -> bool:
        """Tell whether a message never arrives."""
        if self.loss and self._rng.random() < self.loss:
            self._tally["message-lost"] += 1
            return True
        return False

    def copies_of(self, what: str = "message-doubled") -> range:
        """Return how often a message arrives: once or twice."""
        if self.copies and self._rng.random() < self.copies:
            self._tally[what] += 1
            return _TWICE
        return _ONCE

    def overtakes(self) -> None:
        """A message arrives before one that was sent earlier."""
        self._tally["message-overtaken"] += 1

    def replica_lags(self) -> bool:
        """Tell whether a read is answered by a replica that lags."""
        if self.lag and self._rng.random() < self.lag:
            self._tally["replica-behind"] += 1
            return True
        return False

    def fate(self) -> str:
        """Return what becomes of a request to the broker; "" is: it is served and answered."""
        if self.failures and self._rng.random() < self.failures:
            fate = self._rng.choice(("request-lost", "answer-lost", "answer-lost", "request-late"))
            self._tally[fate] += 1
            return fate
        return ""

    # -- partitions ----------------------------------------------------------------------------

    def part(self, one: str, other: str, by: int) -> None:
        """Let nothing through from *one* to *other* (*by* 1), or end that (*by* -1)."""
        count = self.walls.get((one, other), 0) + by
        if count > 0:
            self.walls[one, other] = count
        else:
            self.walls.pop((one, other), None)

    def parted(self, one: str, other: str) -> bool:
        """Tell whether a message meets a wall: all of them go through the broker."""
        walls = self.walls
        if walls and ((one, other) in walls or (one, BROKER) in walls or (BROKER, other) in walls):
            self._tally["message-parted"] += 1
            return True
        return False

    def deaf(self, name: str) -> bool:
        """Tell whether a coordinator hears nothing of the control plane."""
        return (CONTROL, name) in self.walls

    def kept_back(self, one: str, other: str, subject: str) -> bool:
        """Tell whether a message is of the control plane, and one of the two is cut off from it."""
        walls = self.walls
        if not walls or not subject.startswith(CONTROL_SUBJECTS):
            return False
        if (one, CONTROL) not in walls and (CONTROL, other) not in walls:
            return False
        self._tally["control-parted"] += 1
        return True


_ONCE, _TWICE = range(1), range(2)


class SimClock:
    """One process's clocks: `headrace.telemetry.Clock`."""

    def __init__(self, process: Process) -> None:
        self._loop = process.loop
        self.skew_ms = 0

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._loop.now_s * 1000) + self.skew_ms

    def monotonic(self) -> float:
        return self._loop.now_s
