"""What is measured of ours alone: idle cost, the start of `flowctl dev`, open loops."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers.processes import Broken, Process, cpu_seconds, free_port, members, pss_mb
from bench.peers.rounds import percentile
from bench.peers.systems.headrace import Headrace

OFFERED = (5_000, 20_000, 50_000)
OPEN_S, QUICK_OPEN_S = 10.0, 4.0
IDLE_S, QUICK_IDLE_S = 15.0, 5.0
SETTLE_S = 3.0
STARTS, QUICK_STARTS = 3, 2
FIRST_RESULT_S = 30.0
ONE_STEP = """\
name: one-step
on: workflow_dispatch
jobs:
  one:
    runs-on: linux
    steps:
      - run: echo ready
"""


def measure_own(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return the figures of ours alone; what failed is in `errors`."""
    figures: dict[str, Any] = {"errors": {}}
    parts: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("start", lambda: _starts(folder, QUICK_STARTS if quick else STARTS)),
        ("idle", lambda: _idle(folder / "idle", QUICK_IDLE_S if quick else IDLE_S)),
        ("open_loop", lambda: _open_loops(folder, QUICK_OPEN_S if quick else OPEN_S)),
    )
    for name, measure in parts:
        try:
            figures[name] = measure()
        except Broken as error:
            figures["errors"][name] = str(error).splitlines()[0].rstrip(":")[:300]
            print(f"Headrace, {name}: {error}", file=sys.stderr, flush=True)
    return figures


def _starts(folder: Path, times: int) -> dict[str, Any]:
    """Return the seconds from `flowctl dev --run FILE` to its result, caches being warm."""
    seconds = [_start(folder / f"dev-{number}") for number in range(times + 1)][1:]
    return {"seconds": seconds, "median_s": statistics.median(seconds)}


def _start(folder: Path) -> float:
    folder.mkdir(parents=True)
    file = folder / "one-step.yaml"
    file.write_text(ONE_STEP, encoding="utf-8")
    flowctl = Headrace.python.with_name("flowctl")
    ports = ["--port", str(free_port()), "--metrics-port", str(free_port())]
    command: list[str | Path] = [flowctl, "dev", "--dir", folder / "data", *ports, "--run", file]
    # The note of a running `dev` that flowctl goes by must not become this one.
    state = {"XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config")}
    process = Process("dev", command, folder, environment=state)
    begun = time.monotonic()
    process.start()
    try:
        process.until(lambda: b"COMPLETED" in process.log.read_bytes(), within_s=FIRST_RESULT_S)
        return time.monotonic() - begun
    finally:
        process.stop()


def _run_nanoseconds(process: Process) -> int:
    """Return what all threads of *process* have run, in ns: finer than ticks."""
    total = 0
    for pid in members([process]):
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                total += int(thread.read_text().split()[0])
    return total


def _idle(folder: Path, seconds: float) -> dict[str, Any]:
    """Return memory and CPU of broker, coordinator and worker with nothing to do."""
    system = Headrace(folder)
    try:
        system.start()
        assert system.client is not None
        system.client.ask("w1", runs=5, within_s=60.0)
        time.sleep(SETTLE_S)
        parts = [process for process in system.processes() if process is not system.client]
        before = {process.name: _run_nanoseconds(process) for process in parts}
        begun = time.monotonic()
        time.sleep(seconds)
        took_ns = (time.monotonic() - begun) * 1e9
        used = {p.name: (_run_nanoseconds(p) - before[p.name]) / took_ns for p in parts}
        return {
            "pss_mb": round(pss_mb(parts), 1),
            "processes": {process.name: round(pss_mb([process]), 1) for process in parts},
            "cpu_share": round(sum(used.values()), 5),
            "coordinator_cpu_share": round(used["coordinator"], 5),
        }
    finally:
        system.stop()


def _open_loops(folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Return what became of each offered load, each on a cluster of its own."""
    found = []
    for offered in OFFERED:
        system = Headrace(folder / str(offered))
        try:
            system.start()
            found.append(_open_loop(system, offered, seconds))
        finally:
            system.stop()
    return found


def _open_loop(system: Headrace, offered: int, seconds: float) -> dict[str, Any]:
    assert system.client is not None
    system.client.ask("w2", runs=200, within_s=60.0)
    parts = system.processes()
    before = {process.name: cpu_seconds([process]) for process in parts}
    system.client.send("open", steps_per_s=offered, seconds=seconds)
    # Measured at the end of the load: what is done of a backlog afterwards is no part of it.
    time.sleep(seconds)
    used = {p.name: cpu_seconds([p]) - before[p.name] for p in parts}
    told = system.client.answer(within_s=90.0)
    probes = told["probe_ms"]
    return {
        "offered": offered,
        "done": told["done"] / told["seconds"],
        "turned_away_runs": told["turned_away_runs"],
        "backlog_runs": told["backlog_runs"],
        "cores": sum(used.values()) / seconds,
        "cores_by_process": {name: value / seconds for name, value in used.items()},
        "cpu_us_per_step": sum(used.values()) / max(told["done"], 1) * 1e6,
        "probe_p50_ms": percentile(probes, 0.5) if probes else None,
        "probe_p99_ms": percentile(probes, 0.99) if probes else None,
        "probes": len(probes),
    }
