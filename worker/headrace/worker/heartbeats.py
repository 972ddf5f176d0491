"""Publishes heartbeats: regularly, and at once when something must be known."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.errors import HeadraceError
from headrace.messages import WorkerHeartbeat, encode

log = logging.getLogger(__name__)

STALL_INTERVALS = 3
SOON_S = 0.15
"""After tasks came; at most one such heartbeat in this time."""


class Heartbeats:
    """`run` is the loop; `kick` asks for one now."""

    def __init__(
        self,
        *,
        make: Callable[[bool], WorkerHeartbeat],
        publish: Callable[[bytes], bool],
        interval_s: float,
        on_tick: Callable[[], None],
        news: Callable[[], bool] = lambda: False,
        on_stall: Callable[[], None] = lambda: None,
    ) -> None:
        """*news*: something is in hands since a moment ago that no heartbeat has listed yet.

        *on_stall* is called before a heartbeat that comes so late that leases may have lapsed.
        """
        self._make = make
        """Called with True when nothing may be left out."""
        self._publish = publish
        self._interval_s = interval_s
        self._on_tick = on_tick
        self._news = news
        self._on_stall = on_stall
        self._soon: asyncio.TimerHandle | None = None
        self._kicked = asyncio.Event()
        self.sent_s = 0.0
        """Loop time of the last one that left."""
        self._tried_s = 0.0
        self.sent = 0
        """Heartbeats that left."""

    def overdue(self) -> bool:
        """Tell whether this process has stood still for so long that leases may have lapsed.

        A lease lasts three heartbeats or more (the configuration of coordinators sees to it).
        """
        now_s = asyncio.get_running_loop().time()
        return self._tried_s > 0 and now_s - self._tried_s >= STALL_INTERVALS * self._interval_s

    def kick(self) -> None:
        """Send a complete heartbeat in the next moment."""
        self._kicked.set()

    def soon(self) -> None:
        """Tasks came: tell of those that are still there in a moment, for people who watch.

        Short ones are over by then, so a busy worker sends no more than before.
        """
        if self._soon is None:
            loop = asyncio.get_running_loop()
            self._soon = loop.call_later(SOON_S, self._send_news)

    def _send_news(self) -> None:
        self._soon = None
        if self._news():
            self.send()

    def send(self, *, complete: bool = False) -> bool:
        """Send one now; False when the broker is away."""
        if self.overdue():
            self._on_stall()
        self._tried_s = asyncio.get_running_loop().time()
        try:
            sent = self._publish(encode(self._make(complete)))
        except HeadraceError as error:
            log.warning("heartbeat not sent", extra={"error": str(error)})
            return False
        if sent:
            self.sent += 1
            self.sent_s = asyncio.get_running_loop().time()
        return sent

    async def run(self) -> None:
        """Send until cancelled."""
        complete = True
        while True:
            self.send(complete=complete)
            self._on_tick()
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._kicked.wait()
            except TimeoutError:
                complete = False
            else:
                complete = True
                self._kicked.clear()
