"""Workflow functions that tests kill, cancel and follow, on a cluster or as a program of its own:
``python functions_app.py FOLDER``."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from headrace.local import LocalEngine
from headrace.sdk import App, Context, step_info

app = App("functions")
POLL_S = 0.02
ROWS = 3


def note(folder: str, text: str) -> None:
    """Write a line into the folder's journal."""
    with (Path(folder) / "notes").open("a") as notes:
        notes.write(text + "\n")


@app.step
async def copy_rows(folder: str) -> int:
    """Copy rows and stop in the middle, until there is a file `go`; tell the row it began at."""
    info = step_info()
    first: int = info.last_details(int) or 0
    note(folder, f"{os.getpid()} {info.attempt} {first}")
    for row in range(first, ROWS):
        info.heartbeat(row + 1)
    while not (Path(folder) / "go").exists():
        await asyncio.sleep(POLL_S)
    return first


@app.workflow
async def migration(ctx: Context, folder: str) -> int:
    """Copy everything."""
    return await ctx.step(copy_rows, folder)


async def main(folder: str) -> None:
    """Run it in this process; say when a heartbeat is recorded, and what came out."""
    async with LocalEngine(persistence="journal", path=Path(folder) / "data"):
        handle = await migration.options(id="copy").start(folder)
        while not (view := await handle.view()).finished_ms:
            if any(step.details for step in view.steps):
                print("recorded", flush=True)
            await asyncio.sleep(POLL_S)
        print("result", await handle.result(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
