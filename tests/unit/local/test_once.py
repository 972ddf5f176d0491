"""`flowctl dev --run` says what it waits for, when that takes long."""

from __future__ import annotations

import asyncio

from headrace.bus import free_port
from headrace.local.once import until_ready

BOUND_S = 30.0


async def test_who_waits_for_long_is_told_what_for():
    told: asyncio.Queue[str] = asyncio.Queue()
    server = f"nats://127.0.0.1:{free_port()}"
    waiting = asyncio.create_task(until_ready(server, workers=1, say=told.put_nowait, silent_s=0.0))
    try:
        text = await asyncio.wait_for(told.get(), BOUND_S)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert text.startswith("not ready yet: ")
    assert server in text
