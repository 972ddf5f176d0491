"""The DBOS application: workflows and steps, in the process that calls them or behind a queue."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from dbos import DBOS, DBOSConfig
from harness import STEPS, note_step

QUEUE = "bench"


@DBOS.step()
async def step() -> None:
    """Do nothing."""


@DBOS.step()
async def noted(run: str, index: int) -> None:
    """Note that the step was begun."""
    note_step(run, index)


@DBOS.workflow()
async def one() -> None:
    """One step."""
    await step()


@DBOS.workflow()
async def chain() -> None:
    """Steps, each after the one before."""
    for _ in range(STEPS):
        await step()


@DBOS.workflow()
async def fan_out(width: int) -> int:
    """Steps at the same time, begun in order, and gathered."""
    return len(await asyncio.gather(*(step() for _ in range(width))))


@DBOS.workflow()
async def noted_chain(run: str) -> None:
    """Like `chain`, noting each step."""
    for number in range(STEPS):
        await noted(run, number)


def launch(executor: str) -> None:
    """Start DBOS in this process; recovers what *executor* had not finished."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": os.environ["BENCH_POSTGRES"],
        "sys_db_pool_size": 20,
        "executor_id": executor,
        "application_version": "bench",
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()


async def _work() -> None:
    launch("worker")
    await DBOS.register_queue_async(QUEUE, polling_interval_sec=0.1)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    DBOS.destroy()


if __name__ == "__main__":
    sys.exit(asyncio.run(_work()))
