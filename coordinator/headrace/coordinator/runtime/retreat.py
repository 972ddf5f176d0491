"""How long a coordinator stays away from a shard that another one has taken from it.

The log has told it that the shard has moved; what the control plane says of that may not have
arrived. So it waits for a newer view. One that is cut off from the control plane, and not from the
log, would wait for ever, and perhaps the other one is gone by now: so it comes back without a
newer view too, each time after twice as long. What that costs is a change of owners now and then;
two owners at once are impossible, the log sees to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

FIRST_S = 1.0
"""A view that lives is newer within this: its controller heals it once a second."""
LAST_S = 60.0
"""The longest time away, but for the jitter: so long at most a shard has no owner that could."""
JITTER = 0.5
"""Two that stay away from each other do not come back together."""


class Views(Protocol):
    """The control plane's view, as far as it has come to us."""

    @property
    def number(self) -> int:
        """Rises with each newer view."""
        ...

    async def newer(self, *, timeout_s: float) -> None:
        """Return when there is a newer one than now; or after *timeout_s*."""
        ...


class Retreat:
    """One shard's. Times are seconds of the event loop."""

    def __init__(self, views: Views, chance: Callable[[], float]) -> None:
        """*chance* returns a number in [0, 1)."""
        self._views, self._chance = views, chance
        self._seen, self._until_s, self._away_s = -1, 0.0, 0.0

    def away_s(self, now_s: float) -> float:
        """Return how long to stay away, without a newer view, after being fenced at *now_s*."""
        view = self._views.number
        # Who has led for long after the last time away was no nuisance.
        again = view == self._seen and now_s - self._until_s < LAST_S
        self._away_s = min(self._away_s * 2, LAST_S) if again else FIRST_S
        away_s = self._away_s * (1 + JITTER * self._chance())
        self._seen, self._until_s = view, now_s + away_s
        return away_s

    async def wait(self) -> None:
        """Stay away after being fenced."""
        await self._views.newer(timeout_s=self.away_s(asyncio.get_running_loop().time()))
