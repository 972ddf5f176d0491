"""How fast the embedded engine is: one process, no server.

``python bench/embedded.py [--levels memory,snapshot,journal] [--rounds 5] [--dir DIR]
[--json FILE] [--report]``

- W1: one run of one no-op step at a time, from the call to the ended run.
- S1: the same as a workflow function of `headrace.sdk` with one step.
- S50: what each further step of a function costs: one of 50 steps, one after the other, less S1.
- W2: 200 concurrent runs of 10 chained no-op steps, each recorded before the next begins.
- W3: one run that fans out to 1,000 no-op steps and joins them.
- W4: 10,000 one-step runs started together.

Each figure is the median of the rounds, with the lowest and the highest round beside it. Journal
is SQLite in WAL mode with ``synchronous=FULL``; point ``--dir`` at a real disk, not at tmpfs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import platform
import resource
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from bench.facts import Others, processor
from bench.page import BENCHMARKS, splice

from headrace.local import LocalEngine
from headrace.plan import Group, Loop, Plan, Task
from headrace.sdk import App, Context, Workflow

CHAINS, STEPS = 200, 10
FUNCTION_STEPS = 50
FAN_OUT = 1_000
MANY = 10_000
FSYNCS = 200
BUDGETS = {
    ("memory", "W1 p50 us"): 30,
    ("memory", "S1 p50 us"): 50,
    ("memory", "S50 us/step"): 50,
    ("memory", "W2 steps/s"): 150_000,
    ("journal", "W1 p50 us"): 500,
    ("journal", "W2 steps/s"): 80_000,
}
"""Of the design page, on two cores."""


def chain(steps: int) -> Plan:
    nodes: list[Any] = [Group(name="root", size=steps + 1)]
    for number in range(steps):
        needs = (number,) if number else ()
        nodes.append(Task(name=f"s{number}", uses="noop", parent=0, needs=needs))
    return Plan(name=f"chain-{steps}", nodes=tuple(nodes))


def fan_out(width: int) -> Plan:
    nodes = (
        Group(name="root", size=3),
        Loop(name="each", parent=0, size=2, items=list(range(width))),
        Task(name="s", uses="noop", parent=1),
    )
    return Plan(name=f"fan-out-{width}", nodes=nodes)


async def w1(engine: LocalEngine, runs: int) -> dict[str, float]:
    """One at a time: microseconds from the call to the ended run."""
    plan = chain(1)
    took_us = []
    for _ in range(runs):
        began = time.perf_counter_ns()
        await engine.run(plan, steps=False)
        took_us.append((time.perf_counter_ns() - began) / 1e3)
    took_us.sort()
    return {"W1 p50 us": statistics.median(took_us), "W1 p99 us": took_us[len(took_us) * 99 // 100]}


_app = App("bench")


@_app.step
async def _step(n: int) -> int:
    return n


@_app.workflow
async def _function(ctx: Context, n: int) -> int:
    return await ctx.step(_step, n)


@_app.workflow
async def _long_function(ctx: Context, n: int) -> int:
    for _ in range(FUNCTION_STEPS):
        await ctx.step(_step, n)
    return n


async def _function_us(engine: LocalEngine, function: Workflow[[int], int], runs: int) -> float:
    """Return the median time of a run."""
    took_us = []
    for number in range(runs):
        began = time.perf_counter_ns()
        assert await engine.start_and_wait(function, number) == number
        took_us.append((time.perf_counter_ns() - began) / 1e3)
    return statistics.median(took_us)


async def s1(engine: LocalEngine, runs: int) -> dict[str, float]:
    """W1 as a workflow function with one step: its result is recorded with the run's."""
    return {"S1 p50 us": await _function_us(engine, _function, runs)}


async def s50(engine: LocalEngine, runs: int) -> dict[str, float]:
    """A function with many steps: what each step behind the first one costs."""
    one_us = await _function_us(engine, _function, runs)
    all_us = await _function_us(engine, _long_function, runs)
    return {"S50 us/step": (all_us - one_us) / (FUNCTION_STEPS - 1)}


async def w2(engine: LocalEngine, repeats: int) -> dict[str, float]:
    """Chains that move together: recorded steps a second, CPU a step."""
    plan = chain(STEPS)

    async def one() -> None:
        for _ in range(repeats):
            view = await engine.run(plan, steps=False)
            assert view.state == "COMPLETED", view

    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(one() for _ in range(CHAINS)))
    steps = CHAINS * repeats * STEPS
    return {
        "W2 steps/s": steps / (time.perf_counter() - began_s),
        "W2 CPU us/step": (time.process_time() - cpu_s) / steps * 1e6,
    }


async def w3(engine: LocalEngine, _: int) -> dict[str, float]:
    """Fan-out and join: milliseconds."""
    began_s = time.perf_counter()
    view = await engine.run(fan_out(FAN_OUT), steps=False)
    took_ms = (time.perf_counter() - began_s) * 1e3
    assert view.state == "COMPLETED", view
    return {"W3 ms": took_ms}


async def w4(engine: LocalEngine, _: int) -> dict[str, float]:
    """Many runs at once: runs a second, from the first call to the last end."""
    plan = chain(1)
    began_s = time.perf_counter()
    views = await asyncio.gather(*(engine.run(plan, steps=False) for _ in range(MANY)))
    took_s = time.perf_counter() - began_s
    assert {view.state for view in views} == {"COMPLETED"}
    return {"W4 runs/s": MANY / took_s}


Load = Callable[[LocalEngine, int], Awaitable[dict[str, float]]]
LOADS: list[tuple[Load, dict[str, int]]] = [
    (w1, {"memory": 2_000, "snapshot": 2_000, "journal": 500}),
    (s1, {"memory": 2_000, "snapshot": 2_000, "journal": 500}),
    (s50, {"memory": 100, "snapshot": 100, "journal": 20}),
    (w2, {"memory": 10, "snapshot": 10, "journal": 10}),
    (w3, {}),
    (w4, {}),
]


async def measure(level: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return each figure's value in each round; an unmeasured round warms up."""
    path = None if level == "memory" else folder / level
    figures: dict[str, list[float]] = {}
    async with LocalEngine(persistence=level, path=path) as engine:
        for load, sizes in LOADS:
            size = sizes.get(level, 1)
            await load(engine, max(size // 10, 1))
            gc.collect()
            gc.freeze()
            for _ in range(rounds):
                for name, value in (await load(engine, size)).items():
                    figures.setdefault(name, []).append(value)
    return figures


def measure_alone(level: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Measure one level; called in a process of its own, whose memory is a figure too."""
    gc.set_threshold(50_000, 20, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure(level, folder, rounds))
    figures["peak MB"] = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
    return figures


def fsync_us(folder: Path) -> float:
    """Return the median time of a write of 256 bytes with fdatasync."""
    took = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(256))
            began = time.perf_counter_ns()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter_ns() - began) / 1e3)
    return statistics.median(took)


def machine(folder: Path) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpu": processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "uvloop": version("uvloop"),
        "msgspec": version("msgspec"),
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_us": round(fsync_us(folder), 1),
    }


def show(facts: dict[str, Any], results: dict[str, dict[str, list[float]]]) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()), "\n")
    print(f"{'level':<10}{'figure':<18}{'median':>12}{'lowest':>12}{'highest':>12}{'budget':>12}")
    for level, figures in results.items():
        for name, values in figures.items():
            median = statistics.median(values)
            budget = BUDGETS.get((level, name))
            row = "".join(f"{value:>12,.1f}" for value in (median, min(values), max(values)))
            print(f"{level:<10}{name:<18}{row}{f'{budget:,}' if budget else '':>12}")


def table(facts: dict[str, Any], results: dict[str, dict[str, list[float]]]) -> str:
    """Return the figures as the part of a page."""
    lines = [
        f"{time.strftime('%-d %B %Y', time.gmtime())}: {facts['cpu']}, {facts['cpus']} cores, "
        f"Python {facts['python']}, uvloop {facts['uvloop']}, SQLite {facts['sqlite']}, fdatasync "
        f"{facts['fdatasync_us']} µs. Median of the rounds, lowest and highest beside it.",
        "",
        "| level | figure | median | lowest | highest | budget | |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for level, figures in results.items():
        for name, values in figures.items():
            median, budget = statistics.median(values), BUDGETS.get((level, name))
            met = ""
            if budget is not None:
                met = "met" if (median >= budget) == name.endswith("/s") else "**missed**"
            shown = " | ".join(f"{value:,.1f}" for value in (median, min(values), max(values)))
            lines.append(
                f"| {level} | {name} | {shown} | {f'{budget:,}' if budget else ''} | {met} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", default="memory,snapshot,journal")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--report", action="store_true", help="write it into docs/benchmarks.md")
    options = parser.parse_args()
    results = {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=options.dir) as name:
        facts, others = machine(Path(name)), Others()
        for level in options.levels.split(","):
            with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as alone:
                work = alone.submit(measure_alone, level, Path(name), options.rounds)
                results[level] = work.result()
    facts["others_cores"] = others.cores()
    show(facts, results)
    if options.report:
        splice(BENCHMARKS, "embedded", table(facts, results))
    if options.json:
        data = {"machine": facts, "results": results}
        options.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
