"""The client of Prefect: flows are called, and run in this very process."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import prefect_app
from harness import System, serve

IN_FLIGHT = 20
QUIET_S = 4.0
FIRST_STEP_S = 30.0


class Prefect(System):
    """The server only keeps the states of runs and tasks."""

    async def single(self) -> None:
        await prefect_app.one()

    async def chains(self, runs: int) -> None:
        await asyncio.gather(*(prefect_app.chain() for _ in range(runs)))

    async def fan_out(self, width: int) -> None:
        await prefect_app.fan_out(width)

    async def singles(self, count: int) -> None:
        left = iter(range(count))

        async def some() -> None:
            for _ in left:
                await prefect_app.one()

        await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))

    async def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        # The process that is killed makes the load itself; it is told when to end.
        return await asyncio.to_thread(_until_quiet, parameters["seconds"], parameters["grace_s"])


def _until_quiet(seconds: float, grace_s: float) -> dict[str, Any]:
    """Let the load go on for *seconds*, end it, and wait until no step begins any more."""
    log = Path(os.environ["BENCH_STEP_LOG"])
    until = time.monotonic() + FIRST_STEP_S
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(seconds)
    Path(os.environ["BENCH_STOP_FILE"]).touch()
    until = time.monotonic() + grace_s
    size, since = -1, time.monotonic()
    while time.monotonic() < until and time.monotonic() - since < QUIET_S:
        if size != log.stat().st_size:
            size, since = log.stat().st_size, time.monotonic()
        time.sleep(0.2)
    return {"submitted": [], "failures": [], "late": 0}


if __name__ == "__main__":
    sys.exit(serve(Prefect()))
