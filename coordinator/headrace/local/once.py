"""`flowctl dev --run FILE`: one workflow on a server that lives only for it.

What is run is `flowctl submit FILE --watch`, as a process: the same command, output and exit code
as from another terminal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.client import Client
from headrace.errors import HeadraceError, Unavailable
from headrace.local.processes import start, stop

READY_S = 30.0
ASK_S = 2.0
PAUSE_S = 0.1
SILENT_S = 5.0
"""Who waits for longer is told what for."""


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


async def submit_and_watch(server: str, file: Path, inputs: Sequence[str]) -> int:
    """Submit *file*, show the run until it has ended, return the exit code of `submit`."""
    arguments = ["submit", str(file), "--server", server, "--watch"]
    for given in inputs:
        arguments += ["--input", given]
    # In our session: a live view belongs to the terminal, and Ctrl-C is for it too.
    process = await start(arguments, own_session=False)
    try:
        return await process.wait()
    except asyncio.CancelledError:
        await stop(process)
        raise
