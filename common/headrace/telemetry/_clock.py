"""The clock as a value that a shell hands down, so that tests can hold it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall clock for what is recorded, monotonic clock for what is waited for."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch; may jump."""
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
