"""The client of Headrace: arrays of submits and waits, as bench/load sends them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

from bench.load.workloads import WAIT_MS, Driver, chain, fan_out
from harness import STEPS, System, serve

from headrace.bus import connect
from headrace.errors import HeadraceError
from headrace.messages import (
    ClientBatch,
    GetInfo,
    GetRun,
    ReplyBatch,
    RunView,
    ServerInfo,
    SubmitRun,
    decode,
    encode,
    subjects,
)

STEP = "bench/step"
READY_S = 30.0
ARRAY = 200
IN_FLIGHT = 8
TICK_S = 0.01
PROBE_S = 0.05
DRAIN_S = 5.0


class Headrace(System):
    """Over the wire protocol; a reply comes when the runs of an array have ended."""

    async def open(self) -> None:
        self._bus = await connect([os.environ["BENCH_SERVER"]], name="bench")
        info = await self._ready()
        self._driver = Driver(self._bus, info.slots)
        self._single = await self._driver.store(chain(1, STEP))
        self._chain = await self._driver.store(chain(STEPS, STEP))
        self._noted = await self._driver.store(chain(STEPS, "bench/noted"))
        self._wide: dict[int, str] = {}
        self._tag = f"{time.time_ns():x}"

    async def _ready(self) -> ServerInfo:
        """Return the cluster's description once every shard is served and a worker is there."""
        request = encode(ClientBatch(1, "default", [GetInfo(workers=True)]))
        deadline = time.monotonic() + READY_S
        problem: object = None
        while time.monotonic() < deadline:
            try:
                message = await self._bus.request(subjects.INFO, request, timeout_s=3)
                reply = decode(ReplyBatch, message.data).replies[0]
                info = decode(ServerInfo, bytes(reply.result))
                if not reply.code and info.workers and all(shard.epoch for shard in info.shards):
                    return info
                problem = info
            except HeadraceError as error:
                problem = error
            await asyncio.sleep(0.05)
        raise RuntimeError(f"the cluster is not ready: {problem}")

    async def close(self) -> None:
        await self._bus.close()

    async def single(self) -> None:
        await self._driver.run_all(self._single, 1)

    async def chains(self, runs: int) -> None:
        await self._driver.run_all(self._chain, runs)

    async def fan_out(self, width: int) -> None:
        if width not in self._wide:
            self._wide[width] = await self._driver.store(fan_out(width, STEP))
        await self._driver.run_all(self._wide[width], 1)

    async def singles(self, count: int) -> None:
        window = asyncio.Semaphore(IN_FLIGHT)

        async def some(number: int) -> None:
            async with window:
                await self._driver.run_all(self._single, number)

        await asyncio.gather(*(some(min(ARRAY, count - n)) for n in range(0, count, ARRAY)))

    async def noted_chains(self, names: list[str]) -> None:
        late_ms = int(time.time() * 1000) + 15_000
        by_shard: dict[int, list[str]] = {}
        for name in names:
            run = f"{name}-{self._tag}"
            by_shard.setdefault(self._driver.shard(run), []).append(run)
        for shard, runs in by_shard.items():
            submits = [
                SubmitRun(run=run, request_id=run, not_after_ms=late_ms, plan=self._noted)
                for run in runs
            ]
            waits = [GetRun(run=run, wait_ms=WAIT_MS, steps=False) for run in runs]
            for reply in (await self._driver.send(shard, [*submits, *waits]))[len(runs) :]:
                view = decode(RunView, bytes(reply.result))
                assert view.state == "COMPLETED", view

    async def other(self, do: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if do != "open":
            return await super().other(do, parameters)
        return await self._open_loop(parameters["steps_per_s"], parameters["seconds"])

    async def _open_loop(self, steps_per_s: int, seconds: float) -> dict[str, Any]:
        """Submit chains at a fixed rate, whatever comes back; a single-step run beside it."""
        begun = time.perf_counter()
        until = begun + seconds
        probes: list[float] = []
        ends: list[int] = []
        away: list[int] = []
        waiting: set[asyncio.Task[None]] = set()

        async def some(count: int) -> None:
            taken = len(await self._driver.offer(self._chain, count))
            ends.append(taken)
            away.append(count - taken)

        async def probe() -> None:
            while (asked := time.perf_counter()) < until:
                await self._driver.run_all(self._single, 1)
                probes.append((time.perf_counter() - asked) * 1_000)
                await asyncio.sleep(PROBE_S)

        prober = asyncio.create_task(probe())
        sent = 0
        # An array too late is no failure here: what is offered may be more than can be done.
        while (now := time.perf_counter()) < until:
            due = int((now - begun) * steps_per_s / STEPS)
            for first in range(sent, due, ARRAY):
                task = asyncio.create_task(some(min(ARRAY, due - first)))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
            sent = due
            await asyncio.sleep(TICK_S)
        seconds = time.perf_counter() - begun
        done, turned_away = sum(ends), sum(away)
        await asyncio.wait([prober, *waiting], timeout=DRAIN_S)
        for task in (prober, *waiting):
            task.cancel()
        await asyncio.gather(prober, *waiting, return_exceptions=True)
        return {
            "done": done * STEPS,
            "turned_away_runs": turned_away,
            "backlog_runs": sent - done - turned_away,
            "seconds": seconds,
            "probe_ms": probes,
        }


if __name__ == "__main__":
    sys.exit(serve(Headrace()))
