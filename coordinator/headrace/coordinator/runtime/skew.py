"""This process's clock, and how far it is from the broker's, which all coordinators share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from headrace.errors import HeadraceError
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

MEASURE_S = 5.0
ROUND_TRIP_S_MAX = 1.0
"""A slower answer says too little."""


class SteadyClock:
    """The wall clock as it last agreed with the broker's, carried on by the monotonic one.

    Logged time never goes back, so one entry by a clock that was set an hour ahead would stop the
    timers of its shard, and turn its clients away, for an hour. A jump counts only once a
    measurement has found that the wall clock is right.
    """

    def __init__(self, wall: Clock) -> None:
        self.wall = wall
        self.follow()

    def follow(self) -> None:
        """Take the wall clock's time: it is known to be right."""
        self._offset_ms = self.wall.now_ms() - int(self.wall.monotonic() * 1_000)

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return self._offset_ms + int(self.wall.monotonic() * 1_000)

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""
        return self.wall.monotonic()


class Skew:
    """The newest measurement, and whether shards may be owned with it.

    Logged time is what the owner's clock says, so an owner far off would fire timers early or
    late, and turn requests away as too late: it owns nothing instead.
    """

    def __init__(
        self,
        clock: Clock,
        broker_ms: Callable[[], Awaitable[int]],
        *,
        ms_max: int,
        changed: Callable[[], None],
        agreed: Callable[[], None] = lambda: None,
    ) -> None:
        """*broker_ms* asks the broker for its time; *changed* is called when `excessive` does.

        *agreed* is called after each measurement that found the clock right enough.
        """
        self._clock, self._broker_ms = clock, broker_ms
        self._ms_max, self._changed, self._agreed = ms_max, changed, agreed
        self.ms = 0
        """Our clock minus the broker's."""
        self.excessive = False

    async def measure(self) -> None:
        """Ask the broker once; without an answer the last measurement stands."""
        began_ms, began_s = self._clock.now_ms(), self._clock.monotonic()
        try:
            broker_ms = await self._broker_ms()
        except HeadraceError as error:
            log.debug("broker's clock not read", extra={"error": str(error)})
            return
        took_s = self._clock.monotonic() - began_s
        if broker_ms and took_s <= ROUND_TRIP_S_MAX:
            self.note(began_ms + int(took_s * 500) - broker_ms)
            if not self.excessive:
                self._agreed()

    def note(self, ms: int) -> None:
        """Take a measurement."""
        self.ms = ms
        excessive = abs(ms) > self._ms_max
        if excessive == self.excessive:
            return
        self.excessive = excessive
        if excessive:
            log.critical(
                "clock is too far from the broker's: no shard is owned here",
                extra={"skew_ms": ms, "skew_ms_max": self._ms_max},
            )
        else:
            log.warning("clock agrees with the broker's again", extra={"skew_ms": ms})
        self._changed()

    async def run(self) -> None:
        """Measure every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(MEASURE_S)
            await self.measure()


def skew_text(coordinator: str, ms: int, ms_max: int) -> str:
    """Return the warning about one coordinator, for people."""
    direction = "ahead of" if ms > 0 else "behind"
    return (
        f"the clock of {coordinator} is {abs(ms) / 1_000:.1f} s {direction} the broker's "
        f"(limit {ms_max / 1_000:g} s): it owns no shard; synchronise the clocks"
    )
