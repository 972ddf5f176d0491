"""W5: W2 while the worker is killed and comes back after one second."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from bench.load.cluster import Cluster
from bench.load.workloads import BATCH, Driver, chain

from headrace.messages import GetHistory, HistoryEntry, decode

BACK_AFTER_S = 1.0


async def w5(cluster: Cluster, driver: Driver) -> dict[str, Any]:
    """Return completed runs, steps begun again, and the longest time without an end."""
    digest = await driver.store(chain(10))
    ends: list[float] = []
    runs: list[tuple[float, str]] = []

    async def stream(stop_at: float) -> None:
        while time.perf_counter() < stop_at:
            views = await driver.run_all(digest, BATCH // 4)
            ends.append(time.perf_counter())
            runs.extend((ends[-1], view.id) for view in views)

    stop_at = time.perf_counter() + 8.0
    streams = [asyncio.create_task(stream(stop_at)) for _ in range(4)]
    await asyncio.sleep(2.0)
    worker = cluster.workers[0]
    worker.kill()
    killed = time.perf_counter()
    await asyncio.sleep(BACK_AFTER_S)
    worker.start()
    back = time.perf_counter()
    await asyncio.gather(*streams)
    pause = max((later - earlier for earlier, later in itertools.pairwise(ends)), default=0.0)
    again = 0
    # What ended soon after the kill was on its way then.
    sample = [run for ended, run in runs if ended > killed][:BATCH]
    for run in sample:
        again += await _attempts_beyond_first(driver, run)
    return {
        "runs": len(runs),
        "completed": len(runs),
        "pause_s": pause,
        "after_return_s": max(pause - BACK_AFTER_S, 0.0),
        "again": again,
        "sampled_runs": len(sample),
        "back_at_s": back - (stop_at - 8.0),
    }


async def _attempts_beyond_first(driver: Driver, run: str) -> int:
    """Count attempts after the first in a closed run's history."""
    (reply,) = await driver.ask_closed(GetHistory(run=run))
    if reply.code:
        return 0
    entries = decode(list[HistoryEntry], bytes(reply.result))
    return sum(
        1 for entry in entries if entry.type == "StepScheduled" and entry.data["attempt"] > 1
    )
