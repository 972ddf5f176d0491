"""What workflow functions that wait cost the worker that ran them: memory and slots.

``python bench/parked_functions.py [RUNS]`` starts a `flowctl dev`, lets RUNS functions (by default
100,000) run until they wait for a signal, and prints the worker's memory (PSS) and free slots
before and after; then it wakes one. Files are in a temporary folder.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headrace.bus import free_port
from headrace.client import Client as CoreClient
from headrace.errors import HeadraceError
from headrace.sdk import App, Client, Context

app = App("parked")
BATCH = 500
READY_S = 60.0
PARKED_S = 3_600.0


@app.step
async def double(n: int) -> int:
    """Do a little before the wait."""
    return 2 * n


@app.workflow
async def waiting(ctx: Context, n: int) -> int:
    """Run a step, and wait."""
    return await ctx.step(double, n) + await ctx.signal("go", int)


def worker_of(parent: int) -> int:
    """Return the process id of the worker that `flowctl dev` has started."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ppid = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if ppid == parent and b"worker" in words:
            return int(entry.name)
    raise SystemExit("flowctl dev has no worker")


def pss_mb(pid: int) -> float:
    """Return a process's share of memory in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("\nPss:")[1].split()[0]) * 1024 / 1e6


async def state(core: CoreClient) -> tuple[int, int]:
    """Return free slots and all slots of the worker."""
    info = await core.info(workers=True)
    return info.workers[0].free, info.workers[0].slots


async def connected(url: str) -> Client:
    """Return a client once a worker is there."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            client = await Client.connect(url, timeout=READY_S)
            if (await client.core.info(workers=True)).workers:
                return client
            await client.close()
        except HeadraceError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


async def parked(core: CoreClient, run: str) -> None:
    """Wait until a run waits for its signal."""
    deadline = time.monotonic() + PARKED_S
    while "WAITING" not in (await core.get(run)).conditions:
        if time.monotonic() > deadline:
            raise SystemExit(f"run {run} does not wait")
        await asyncio.sleep(0.05)


async def measure(url: str, dev: int, runs: int) -> None:
    """Park *runs* functions, and print what the worker says."""
    async with await connected(url) as client:
        worker, core = worker_of(dev), client.core
        handle = await waiting.start(0, id="first")
        await parked(core, handle.id)
        free, slots = await state(core)
        print(f"before: {pss_mb(worker):.1f} MB, {free} of {slots} slots free")
        begun = time.monotonic()
        for first in range(1, runs, BATCH):
            numbers = range(first, min(first + BATCH, runs))
            await asyncio.gather(*(waiting.start(n, id=f"r{n}") for n in numbers))
            # Not all at once: what they cost while they wait is the question.
            await parked(core, f"r{numbers[-1]}")
        for n in range(1, runs, max(runs // 1_000, 1)):
            await parked(core, f"r{n}")
        took_s = time.monotonic() - begun
        await asyncio.sleep(2.0)
        free, _ = await state(core)
        print(f"{runs} parked in {took_s:.1f} s")
        print(f"after: {pss_mb(worker):.1f} MB, {free} of {slots} slots free")
        begun = time.monotonic()
        await handle.signal("go", 7)
        assert await handle.result() == 7
        print(f"the first one, woken: {(time.monotonic() - begun) * 1e3:.0f} ms")


def main(runs: int) -> None:
    """Start everything, measure, end it."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [str(Path(sys.executable).with_name("flowctl")), "dev", "--dir", f"{folder}/data"]
        command += ["--port", str(port), "--app", "parked_functions:app"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
        dev = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        try:
            asyncio.run(measure(f"nats://127.0.0.1:{port}", dev.pid, runs))
        finally:
            dev.send_signal(signal.SIGINT)
            dev.wait(30)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
