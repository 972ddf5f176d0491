"""Which heartbeats of the steps of a turn go into the journal, for the attempt after a loss.

The first that says something at once, then the newest after a pause: a second, and in a long
attempt a hundredth of the time that it has run. So what a lost attempt has done since is at most
that, and a day's heartbeats are less than a thousand entries.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from headrace.sdk._entries import StepRun

PAUSE_S: Final = 1.0
SHARE: Final = 0.01


class Beats:
    """Belongs to a turn, and its event loop. *on_due* is called when there is one to record."""

    def __init__(self, on_due: Callable[[], None]) -> None:
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._told: dict[StepRun[Any], bytes] = {}
        """The newest of those that wait to be recorded."""
        self._asked: set[StepRun[Any]] = set()
        """Whose are looked at, or will be."""
        self._next_s: dict[StepRun[Any], float] = {}
        """When the next one may be, by the loop's time."""
        self._timers: dict[StepRun[Any], asyncio.TimerHandle] = {}
        self.due: set[StepRun[Any]] = set()
        """Of these `take` has something to record."""

    def tell(self, operation: StepRun[Any], details: bytes) -> None:
        """*operation* is so far; from any thread."""
        # In this order: `take` does the contrary, so that nothing is forgotten between the two.
        self._told[operation] = details
        if operation not in self._asked:
            self._asked.add(operation)
            # Once the loop is closed nobody is told any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._look, operation)

    def _look(self, operation: StepRun[Any]) -> None:
        if operation not in self._told:
            self._asked.discard(operation)
            return
        left_s = self._next_s.get(operation, 0.0) - self._loop.time()
        if left_s > 0:
            self._timers[operation] = self._loop.call_later(left_s, self._ripe, operation)
        else:
            self._ripe(operation)

    def _ripe(self, operation: StepRun[Any]) -> None:
        self._timers.pop(operation, None)
        self.due.add(operation)
        self._on_due()

    def take(self, now_ms: int) -> list[tuple[StepRun[Any], bytes]]:
        """Return what is to be recorded now, and of whom; *now_ms*: ms since the epoch."""
        if not self.due:
            return []
        due, self.due = self.due, set()
        now_s = self._loop.time()
        found = []
        for operation in due:
            self._asked.discard(operation)
            ran_s = max(now_ms - operation.started_ms, 0) / 1_000
            self._next_s[operation] = now_s + max(PAUSE_S, ran_s * SHARE)
            found.append((operation, self._told.pop(operation)))
        return found

    def ended(self, operation: StepRun[Any]) -> None:
        """Its attempt is over; what it said last goes with its end."""
        self._told.pop(operation, None)
        self._next_s.pop(operation, None)
        self._asked.discard(operation)
        self.due.discard(operation)
        timer = self._timers.pop(operation, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """The turn is over: nobody is told any more."""
        self._on_due = lambda: None
        for timer in self._timers.values():
            timer.cancel()
