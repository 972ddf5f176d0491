"""`flowctl dev --run FILE`: one workflow on a server that lives only for it.

What is done is what `flowctl submit FILE --watch` does: the same checks, output and exit code as
from another terminal. A file with mistakes is refused before anything starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.client import Client
from headrace.errors import HeadraceError, Unavailable
from headrace.flowctl import (
    Settings,
    check_handlers,
    collect_inputs,
    emit_run,
    exit_code_of,
    followed,
    load_definition,
    looked_up,
    mute_logs,
)
from headrace.plan import Plan

READY_S = 30.0
ASK_S = 2.0
PAUSE_S = 0.1
SILENT_S = 5.0
"""Who waits for longer is told what for."""


@dataclass(frozen=True, slots=True)
class WantedRun:
    """A run that was asked for, checked as far as it can be without a cluster."""

    file: str
    plan: Plan
    inputs: dict[str, Any]


def wanted_run(file: Path, inputs: Sequence[str]) -> WantedRun:
    """Return the run of *file* with *inputs* (`KEY=VALUE`).

    Raises `InvalidDefinition` with every problem, `InvalidRequest` for what cannot be read.
    """
    plan = load_definition(str(file), allow_unknown=True)
    return WantedRun(str(file), plan, collect_inputs(plan, inputs, None))


async def until_ready(
    server: str, *, workers: int, say: Callable[[str], None], silent_s: float = SILENT_S
) -> None:
    """Return once a coordinator answers and *workers* workers are online.

    What it waits for after *silent_s*, and each other reason after that, it *say*s. Raises
    `Unavailable` after `READY_S`.
    """
    problem, said = "nothing was tried", ""
    loop = asyncio.get_running_loop()
    loud_s = loop.time() + silent_s
    try:
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    async with await Client.connect(server, timeout_s=ASK_S) as client:
                        info = await client.info(workers=True)
                    online = sum(worker.state in ("Online", "Busy") for worker in info.workers)
                    if online >= workers:
                        return
                    problem = f"{online} of {workers} workers are online"
                except HeadraceError as error:
                    problem = str(error)
                if loop.time() >= loud_s and problem != said:
                    said = problem
                    say(f"not ready yet: {problem}")
                await asyncio.sleep(PAUSE_S)
    except TimeoutError:
        raise Unavailable(f"not ready within {READY_S:.0f} s: {problem}") from None


async def submit_and_watch(server: str, wanted: WantedRun) -> int:
    """Submit what is *wanted*, show the run until it has ended, return its exit code.

    Raises `HeadraceError`: what the file names, no worker may have.
    """
    mute_logs()
    async with await Client.connect(server) as client:
        plan = await looked_up(client, wanted.file, wanted.plan)
        await check_handlers(client, wanted.file, plan)
        run = await client.submit(plan, wanted.inputs)
        run = await followed(client, run, wait=True, watch=True)
    # Nobody may read what the run was; how it ended is said all the same.
    with contextlib.suppress(BrokenPipeError):
        emit_run(Settings(), run)
        sys.stdout.flush()
    return exit_code_of(run.state)
