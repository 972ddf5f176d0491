"""Workers that only say that they live: what hearing them costs a coordinator, and its registry."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.load.cluster import Cluster, cpu_seconds, rss_mb
from bench.scale.fleet import PERIOD_S, Fleet

from headrace.bus import Bus, connect
from headrace.client import Client

SETTLE_S = 4.0
REGISTERED_S = 60.0


async def measure(workers: int, *, seconds: float) -> dict[str, Any]:
    """Return what *workers* heartbeats a second cost one coordinator; one real worker beside."""
    with tempfile.TemporaryDirectory(prefix="headrace-heartbeats-") as folder:
        cluster = Cluster(Path(folder))
        bus: Bus | None = None
        client: Client | None = None
        beating: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(60):
                await cluster.start()
                servers = [broker.url for broker in cluster.brokers]
                bus = await connect(servers, name="fleet")
                client = await Client.connect(",".join(servers))
            pid = cluster.coordinators[0].pid
            before_mb = rss_mb(pid)
            beating = asyncio.create_task(Fleet(bus, workers).beat(), name="fleet")
            registered_s = await _registered(client, workers, beating)
            await asyncio.sleep(SETTLE_S)
            began, used = time.monotonic(), cpu_seconds(pid)
            await asyncio.sleep(seconds)
            share = (cpu_seconds(pid) - used) / (time.monotonic() - began)
            info = await client.info(workers=True)
            return {
                "workers": workers,
                "registered": len(info.workers) - 1,
                "online": sum(w.state == "Online" for w in info.workers) - 1,
                "registered_s": registered_s,
                "cpu_share": share,
                "us_a_heartbeat": share / workers * PERIOD_S * 1e6,
                "rss_mb": rss_mb(pid) - before_mb,
            }
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            if client is not None:
                await client.close()
            if bus is not None:
                await bus.close()
            await cluster.stop()


async def _registered(client: Client, workers: int, beating: asyncio.Task[None]) -> float:
    """Wait until the registry grows no more; return how long it took."""
    began = time.monotonic()
    known, since = -1, began
    while time.monotonic() - began < REGISTERED_S:
        if beating.done():
            beating.result()
        count = len((await client.info(workers=True)).workers) - 1
        if count != known:
            known, since = count, time.monotonic()
        if known >= workers or (known > 0 and time.monotonic() - since > SETTLE_S):
            break
        await asyncio.sleep(0.25)
    return since - began
