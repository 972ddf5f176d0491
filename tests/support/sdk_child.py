"""A program with a workflow, that a test kills: ``python sdk_child.py FOLDER DIES_AT``.

It writes down each step that runs, and dies in the middle of step number DIES_AT.
"""

import os
import signal
import sys
from pathlib import Path

from headrace.local import run
from headrace.sdk import App, Context

app = App("child")
FOLDER, DIES_AT = Path(sys.argv[1]), int(sys.argv[2])


@app.step
async def work(n: int) -> int:
    """Do something, or die."""
    with (FOLDER / "ran").open("a") as ran:
        ran.write(f"{n}\n")
    if n == DIES_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    return n * n


@app.workflow
async def squares(ctx: Context, count: int) -> int:
    """Add squares, with a pause between them."""
    total = 0
    for n in range(count):
        total += await ctx.step(work, n)
        await ctx.sleep(0.01)
    return total


if __name__ == "__main__":
    print(run(squares.options(id="squares"), 5, persistence="journal", path=FOLDER / "data"))
