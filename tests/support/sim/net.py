"""How messages travel, and what clocks show: the dials that faults turn."""

from __future__ import annotations

import random

from support.sim.loop import Process

EPOCH_MS = 1_700_000_000_000
"""What an exact clock shows when a world begins."""


class Net:
    """The network between processes and the broker."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.calm()

    def calm(self) -> None:
        """Nothing is lost; a message takes half a millisecond to four."""
        self.loss = self.copies = self.slow = self.failures = self.lag = 0.0
        self.in_order = True

    def trouble(self) -> None:
        """Some mix of troubles."""
        rng = self._rng
        self.loss = rng.choice([0.0, 0.0, 0.02, 0.1])
        self.copies = rng.choice([0.0, 0.02, 0.1])
        self.slow = rng.choice([0.0, 0.02, 0.1])
        self.failures = rng.choice([0.0, 0.05, 0.15, 0.3])
        self.lag = rng.choice([0.0, 0.1, 0.5])
        self.in_order = rng.random() < 0.6

    def delay_s(self) -> float:
        """Return how long one message takes."""
        draw = self._rng.random
        if self.slow and draw() < self.slow:
            return draw() * 1.5
        return 0.0005 + draw() * 0.0035

    def lost(self) -> bool:
        """Tell whether a message never arrives."""
        return self.loss > 0 and self._rng.random() < self.loss

    def twice(self) -> bool:
        """Tell whether a message arrives twice."""
        return self.copies > 0 and self._rng.random() < self.copies

    def replica_lags(self) -> bool:
        """Tell whether a read is answered by a replica that lags."""
        return self.lag > 0 and self._rng.random() < self.lag

    def fate(self) -> str:
        """Return what becomes of a request to the broker; "" is: it is served and answered."""
        if self.failures and self._rng.random() < self.failures:
            return self._rng.choice(("lost", "no-answer", "no-answer", "late"))
        return ""


class SimClock:
    """One process's clocks: `headrace.telemetry.Clock`."""

    def __init__(self, process: Process) -> None:
        self._loop = process.loop
        self.skew_ms = 0

    def now_ms(self) -> int:
        return EPOCH_MS + int(self._loop.now_s * 1000) + self.skew_ms

    def monotonic(self) -> float:
        return self._loop.now_s
