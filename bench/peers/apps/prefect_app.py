"""The Prefect flows; as a program, the process that runs flows without end in W5."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from harness import STEPS, note_step
from prefect import flow, task
from prefect.cache_policies import NO_CACHE


@task(cache_policy=NO_CACHE)
async def step() -> None:
    """Do nothing."""


@task(cache_policy=NO_CACHE)
async def noted(run: str, index: int) -> None:
    """Note that the step was begun."""
    note_step(run, index)


@flow(validate_parameters=False)
async def one() -> None:
    """One step."""
    await step()


@flow(validate_parameters=False)
async def chain() -> None:
    """Steps, each after the one before."""
    for _ in range(STEPS):
        await step()


@flow(validate_parameters=False)
async def fan_out(width: int) -> int:
    """Steps at the same time, gathered."""
    return len(await asyncio.gather(*(step() for _ in range(width))))


@flow(validate_parameters=False)
async def noted_chain(run: str) -> None:
    """Like `chain`, noting each step."""
    for number in range(STEPS):
        await noted(run, number)


def _stopped() -> bool:
    return Path(os.environ["BENCH_STOP_FILE"]).exists()


async def _stream(name: str) -> None:
    number = 0
    while not _stopped():
        await noted_chain(f"{name}x{number}")
        number += 1


async def _work() -> None:
    at_once = int(os.environ["BENCH_AT_ONCE"])
    await asyncio.gather(*(_stream(f"{os.getpid()}s{n}") for n in range(at_once)))


if __name__ == "__main__":
    sys.exit(asyncio.run(_work()))
