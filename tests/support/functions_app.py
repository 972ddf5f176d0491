"""Workflow functions that tests kill, cancel and follow, on a cluster or as a program of its own:
``python functions_app.py FOLDER``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
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


@app.workflow
async def remote_migration(ctx: Context, folder: str) -> int:
    """Copy everything, on whatever worker has the label."""
    return await ctx.step(copy_rows.options(runs_on=("linux",)), folder)


@app.step
async def words(text: str) -> str:
    """Tell a text word by word."""
    for word in text.split():
        step_info().emit(word, stream="words")
    return text


@app.workflow
async def talk(ctx: Context, text: str) -> str:
    """Tell a text twice, with a pause for a signal."""
    ctx.emit({"text": text})
    await ctx.step(words, text)
    await ctx.signal("go")
    return await ctx.step(words, text + " " + "x" * 20_000)


# -- cancels ---------------------------------------------------------------------------------------


def spin(folder: str) -> None:
    """Keep a CPU busy for ever."""
    note(folder, f"{os.getpid()} 1 0")
    while True:
        pass


crunch = app.step(name="crunch", kind="process")(spin)


@app.step
def block(folder: str) -> None:
    """Hold a thread until there is a file `go`, whatever anybody wants."""
    note(folder, f"{os.getpid()} 1 0")
    while not (Path(folder) / "go").exists():
        time.sleep(POLL_S)


@app.step
async def clutch(folder: str) -> None:
    """Go on after a cancel, until there is a file `go`."""
    note(folder, f"{os.getpid()} 1 0")
    while not (Path(folder) / "go").exists():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(POLL_S)
    note(folder, f"{os.getpid()} 2 0")


@app.workflow
async def one_step(ctx: Context, name: str, folder: str) -> None:
    """Run the step *name*, and let go when cancelled."""
    await ctx.step({"crunch": crunch, "block": block, "clutch": clutch}[name], folder)


@app.workflow(cancel_timeout=0.5)
async def stubborn(ctx: Context, name: str, folder: str) -> None:
    """Do not let go when cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await ctx.sleep(3_600)
    await ctx.step({"block": block, "clutch": clutch}[name], folder)


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
