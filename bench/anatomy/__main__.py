"""``python bench/anatomy``: where each microsecond of a step goes; needs py-spy (extra `bench`).

W2 (200 runs of 10 chained steps in lockstep) and W4 (one-step runs) run twice: first untouched,
for CPU time, messages and wake-ups; then under a sampling profiler, which tells how the time of
coordinator and worker divides. Beside them: an open loop at several rates, the idle cluster's CPU
and memory, and a takeover. With --write the page `docs/benchmarks.md` is brought up to date.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import uvloop
from bench.anatomy.kernel import broker_messages, proportional_mb, use_of
from bench.anatomy.page import rows
from bench.anatomy.stages import COORDINATOR, WORKER, shares
from bench.facts import Others, machine
from bench.load.cluster import Cluster, cpu_seconds, own_signal
from bench.load.openloop import open_loop
from bench.load.workloads import BATCH, Driver, chain
from bench.page import BENCHMARKS, draw, splice

from headrace.messages import subjects

ROOT = Path(__file__).parents[2]
PROFILED = {"coordinator-0": COORDINATOR, "worker-0": WORKER}
STREAMS = {
    "appends": subjects.log_stream(0),
    "task messages": subjects.TASK_STREAM,
    "feed messages": subjects.EVENTS_STREAM,
}
RESULTS = ROOT / "bench/results"
PICTURE = BENCHMARKS.parent / "benchmarks" / "anatomy.png"
W4_WINDOW = 8
IDLE_S = 5.0


class Anatomy:
    """One cluster, and what is measured on it."""

    def __init__(self, cluster: Cluster, driver: Driver, seconds: float) -> None:
        self._cluster, self._driver, self._seconds = cluster, driver, seconds

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds by process."""
        return {name: cpu_seconds(pid) for name, pid in self._cluster.pids().items()}

    async def _counts(self) -> dict[str, int]:
        assert self._cluster.bus is not None
        found = broker_messages(self._cluster.brokers[0].monitor_url)
        for name, stream in STREAMS.items():
            found[name] = (await self._cluster.bus.js.stream_info(stream)).state.last_seq
        return found

    async def w2(self) -> int:
        """Run one round; return its steps."""
        await self._driver.run_all(self._chain, BATCH)
        return BATCH * 10

    async def w4(self) -> int:
        """Run some one-step runs, eight batches at a time; return their steps."""
        await asyncio.gather(*(self._driver.run_all(self._single, BATCH) for _ in range(W4_WINDOW)))
        return BATCH * W4_WINDOW

    async def prepare(self) -> None:
        """Store the plans, and run all once."""
        self._chain = await self._driver.store(chain(10))
        self._single = await self._driver.store(chain(1))
        await self.w2()
        await self.w4()

    async def _run_for(self, work: Callable[[], Awaitable[int]], done: Callable[[], bool]) -> int:
        steps = 0
        while not done():
            steps += await work()
        return steps

    async def workload(self, work: Callable[[], Awaitable[int]]) -> dict[str, Any]:
        """Return what a step of *work* costs, by process and by stage."""
        pids = self._cluster.pids()
        before = {name: use_of(pid) for name, pid in pids.items()}
        counted, began = await self._counts(), time.perf_counter()
        until = began + self._seconds
        steps = await self._run_for(work, lambda: time.perf_counter() >= until)
        took_s = time.perf_counter() - began
        used = {name: use_of(pid).since(before[name]) for name, pid in pids.items()}
        counts = {name: n - counted[name] for name, n in (await self._counts()).items()}
        found: dict[str, Any] = {
            "steps_per_s": steps / took_s,
            "cpu_us_per_step": {
                name: (use.main_s + use.others_s) / steps * 1e6 for name, use in used.items()
            },
            "other_threads_us_per_step": {
                name: use.others_s / steps * 1e6 for name, use in used.items()
            },
            "wakes_per_step": {name: use.wakes / steps for name, use in used.items()},
            "per_step": {name: n / steps for name, n in counts.items()},
            "steps_per_append": steps / max(counts["appends"], 1),
            "tasks_per_message": steps / max(counts["task messages"], 1),
        }
        found["shares"] = await self._profiled(work)
        return found

    async def _profiled(self, work: Callable[[], Awaitable[int]]) -> dict[str, dict[str, float]]:
        """Return the stages' shares of the CPU time of each profiled process's main thread."""
        pids = self._cluster.pids()
        with tempfile.TemporaryDirectory() as folder:
            running = [
                record(pids[name], "raw", Path(folder) / name, self._seconds) for name in PROFILED
            ]
            await self._run_for(work, lambda: all(one.poll() is not None for one in running))
            return {
                name: shares((Path(folder) / name).read_text(), rules)
                for name, rules in PROFILED.items()
            }

    async def flames(self) -> None:
        """Write a flame graph of W2 for each profiled process."""
        pids = self._cluster.pids()
        RESULTS.mkdir(parents=True, exist_ok=True)
        running = [
            record(pids[name], "flamegraph", RESULTS / f"flame-{name}.svg", self._seconds)
            for name in PROFILED
        ]
        await self._run_for(self.w2, lambda: all(one.poll() is not None for one in running))

    async def idle(self) -> dict[str, Any]:
        """Return what the cluster uses when nothing is to be done."""
        await asyncio.sleep(1)
        before = self.cpu()
        await asyncio.sleep(IDLE_S)
        after = self.cpu()
        return {
            "cores": {name: (after[name] - before[name]) / IDLE_S for name in after},
            "pss_mb": {
                name: proportional_mb(pid)
                for name, pid in self._cluster.pids().items()
                if name != "client"
            },
        }


def record(pid: int, form: str, output: Path, seconds: float) -> subprocess.Popen[bytes]:
    """Start to sample the stacks that hold the interpreter's lock."""
    command = ["py-spy", "record", "--pid", str(pid), "--gil", "--rate", "400"]
    command += ["--duration", str(int(seconds)), "--format", form, "--output", output.name]
    # A flame graph is headed by the command that made it: without the folders of this machine.
    return subprocess.Popen(
        command, cwd=output.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything on fresh clusters."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-anatomy-") as folder:
        cluster = Cluster(Path(folder))
        try:
            await cluster.start()
            assert cluster.bus is not None
            results["idle"] = await Anatomy(cluster, Driver(cluster.bus, []), 0).idle()
            driver = Driver(cluster.bus, (await cluster.info()).slots)
            anatomy = Anatomy(cluster, driver, options.seconds)
            await anatomy.prepare()
            results["W2"] = await anatomy.workload(anatomy.w2)
            results["W4"] = await anatomy.workload(anatomy.w4)
            results["open"] = [
                await open_loop(driver, steps_per_s=rate, seconds=options.seconds, cpu=anatomy.cpu)
                for rate in options.rates
            ]
            if options.flames:
                await anatomy.flames()
        finally:
            await cluster.stop()
    return results


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--rates", type=int, nargs="*", default=[5_000, 20_000])
    parser.add_argument("--flames", action="store_true", help="flame graphs in bench/results")
    parser.add_argument("--json", type=Path, default=RESULTS / "anatomy.json")
    parser.add_argument("--write", action="store_true", help="bring docs/benchmarks.md up to date")
    parser.add_argument(
        "--page", action="store_true", help="write the page from --json, measure nothing"
    )
    options = parser.parse_args()
    if options.page:
        document = json.loads(options.json.read_text())
        draw("bench.anatomy.plots", document, PICTURE)
        splice(BENCHMARKS, "anatomy", "\n".join(rows(document)))
        return
    if shutil.which("py-spy") is None:
        sys.exit("py-spy is not installed: pip install 'headrace[bench]'")
    own_signal()
    others = Others()
    results = uvloop.run(measure(options))
    document = {"machine": machine() | {"others_cores": others.cores()}, "results": results}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    print("\n".join(rows(document)))
    if options.write:
        draw("bench.anatomy.plots", document, PICTURE)
        splice(BENCHMARKS, "anatomy", "\n".join(rows(document)))


if __name__ == "__main__":
    main()
