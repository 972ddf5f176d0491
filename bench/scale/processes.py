"""W2 with more coordinators and more workers: what a step costs all processes together."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from bench.load.cluster import Cluster, cpu_seconds
from bench.load.workloads import Driver, w2

SHARDS = 4
ROLES = {"nats": "broker", "coordinator": "coordinators", "worker": "workers", "client": "client"}


async def measure(coordinators: int, workers: int, *, rounds: int) -> dict[str, Any]:
    """Run W2 (200 chains of 10 at a time) on a fresh cluster; return its figures."""
    with tempfile.TemporaryDirectory(prefix="headrace-scale-") as folder:
        cluster = Cluster(
            Path(folder),
            coordinators=coordinators,
            workers=workers,
            shards=SHARDS,
            slots=256 // workers,
        )
        try:
            async with asyncio.timeout(120):
                await cluster.start()
                assert cluster.bus is not None
                driver = Driver(cluster.bus, (await cluster.info()).slots)

                def cpu() -> dict[str, float]:
                    return {name: cpu_seconds(pid) for name, pid in cluster.pids().items()}

                found = await w2(driver, rounds=rounds, cpu=cpu)
        finally:
            await cluster.stop()
    by_role = dict.fromkeys(ROLES.values(), 0.0)
    for name, used in found["cpu_us_per_step"].items():
        if name != "all":
            by_role[ROLES[name.partition("-")[0]]] += used
    return {
        "coordinators": coordinators,
        "workers": workers,
        "steps_per_s": found["steps_per_s"],
        "cpu_us_per_step": {"all": found["cpu_us_per_step"]["all"], **by_role},
    }
