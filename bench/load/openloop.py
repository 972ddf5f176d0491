"""Open loop: steps arrive at a rate, whatever becomes of them; one-step runs are timed beside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bench.load.workloads import Driver, chain, percentile

STEPS = 10
"""Of each run; so many times less runs a second than steps."""
PERIOD_S = 0.02
PROBE_S = 0.05
DRAIN_S = 60.0


async def open_loop(
    driver: Driver, *, steps_per_s: int, seconds: float, cpu: Callable[[], dict[str, float]]
) -> dict[str, Any]:
    """Return what *seconds* of *steps_per_s* cost, how late runs ended, and the probes' times."""
    digest, single = await driver.store(chain(STEPS)), await driver.store(chain(1))
    await driver.run_all(digest, 100)
    took: list[float] = []
    turned_away: list[int] = []
    probes: list[float] = []
    loop = asyncio.get_running_loop()

    async def some(count: int) -> None:
        began = time.perf_counter()
        turned_away.append(count - len(await driver.offer(digest, count)))
        took.append((time.perf_counter() - began) * 1_000)

    async def probe() -> None:
        while True:
            began = time.perf_counter()
            await driver.run_all(single, 1)
            passed_s = time.perf_counter() - began
            probes.append(passed_s * 1_000)
            await asyncio.sleep(max(PROBE_S - passed_s, 0.0))

    probing = asyncio.create_task(probe())
    before, began = cpu(), loop.time()
    sent: list[asyncio.Task[None]] = []
    submitted = 0
    while (passed_s := loop.time() - began) < seconds:
        due = int(passed_s * steps_per_s / STEPS)
        if due > submitted:
            sent.append(asyncio.create_task(some(due - submitted)))
            submitted = due
        await asyncio.sleep(PERIOD_S)
    probing.cancel()
    after, passed_s = cpu(), loop.time() - began
    behind = sum(1 for task in sent if not task.done())
    async with asyncio.timeout(DRAIN_S):
        await asyncio.gather(*sent)
    used = {name: (after[name] - before[name]) / passed_s for name in after}
    return {
        "steps_per_s": steps_per_s,
        "seconds": seconds,
        "cores": used | {"all": sum(used.values())},
        "turned_away_runs": sum(turned_away),
        "batches_behind_at_end": behind,
        "run_p50_ms": percentile(took, 0.5),
        "run_p99_ms": percentile(took, 0.99),
        "probes": len(probes),
        "probe_p50_ms": percentile(probes, 0.5) if probes else 0.0,
        "probe_p99_ms": percentile(probes, 0.99) if probes else 0.0,
    }
