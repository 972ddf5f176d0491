"""Simulated workers: nothing but their heartbeats."""

from __future__ import annotations

import asyncio
import time

import msgspec

from headrace.bus import Bus
from headrace.messages import WorkerHeartbeat, encode, subjects

PERIOD_S = 1.0
"""Between two heartbeats of one worker, as the default has it."""
PIECES = 50
"""A period's heartbeats are sent in so many portions."""


class Fleet:
    """Many workers, of which there is nothing but their heartbeats."""

    def __init__(self, bus: Bus, count: int) -> None:
        self._bus = bus
        now_ms = int(time.time() * 1_000)
        self._beats = [
            WorkerHeartbeat(
                version=1,
                id=f"simulated-{number}",
                incarnation="1",
                namespace="default",
                capabilities=["simulated", f"zone-{number % 16}"],
                handlers={},
                slots=16,
                free=16,
                started_ms=now_ms,
            )
            for number in range(count)
        ]

    async def beat(self) -> None:
        """Send heartbeats until cancelled, evenly over each period."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            for piece in range(PIECES):
                sent_ms = int(time.time() * 1_000)
                for beat in self._beats[piece::PIECES]:
                    data = encode(msgspec.structs.replace(beat, sent_ms=sent_ms))
                    subject = subjects.worker_heartbeat("default", beat.id, beat.capabilities)
                    self._bus.publish(subject, data)
                due_s += PERIOD_S / PIECES
                await asyncio.sleep(max(due_s - loop.time(), 0))
