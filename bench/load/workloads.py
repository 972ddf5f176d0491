"""W1 to W5, over the wire protocol in arrays, as the client library sends them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from headrace.bus import Bus
from headrace.errors import Busy
from headrace.messages import (
    ClientBatch,
    ClientRequest,
    GetRun,
    ReplyBatch,
    RunView,
    StorePlan,
    SubmitRun,
    decode,
    encode,
    subjects,
)
from headrace.plan import Group, Join, Loop, Plan, Task, encode_plan, plan_digest

BATCH = 200
WAIT_MS = 60_000
AGAIN_S = 0.1
"""After that what was answered `busy` is offered again."""


def chain(steps: int, uses: str = "noop") -> Plan:
    """A `tasks:` workflow of *steps* tasks, each after the one before."""
    nodes: list[Any] = [Group(name="root", size=steps + 1)]
    for number in range(steps):
        needs = (number,) if number else ()
        nodes.append(Task(name=f"t{number}", parent=0, uses=uses, needs=needs))
    return Plan(name=f"chain-{steps}", dialect="tasks", nodes=tuple(nodes))


def fan_out(width: int, uses: str = "noop") -> Plan:
    """A loop over *width* items with a body of one task, then one task that joins them."""
    nodes = (
        Group(name="root", size=4),
        Loop(name="each", parent=0, size=2, items=list(range(width)), join=Join()),
        Task(name="work", parent=1, uses=uses),
        Task(name="join", parent=0, uses=uses, needs=(1,)),
    )
    return Plan(name=f"fan-out-{width}", dialect="tasks", nodes=nodes)


class Driver:
    """A client that submits in arrays and waits for ends."""

    def __init__(self, bus: Bus, slots: Sequence[int]) -> None:
        self._bus = bus
        self._table: list[int] = []
        for shard, count in zip(slots[::2], slots[1::2], strict=True):
            self._table += [shard] * count
        self._number = 0
        self._tag = f"{int(time.time() * 1000):x}"

    def shard(self, run: str) -> int:
        return self._table[subjects.slot_of(f"default/{run}")]

    async def send(self, shard: int, requests: list[ClientRequest]) -> list[Any]:
        """Send one array and return its replies."""
        message = await self._bus.request(
            subjects.command("default", shard),
            encode(ClientBatch(1, "default", requests)),
            timeout_s=90,
        )
        return decode(ReplyBatch, message.data).replies

    async def ask_closed(self, request: ClientRequest) -> list[Any]:
        """Ask the archive."""
        message = await self._bus.request(
            subjects.archive("default"), encode(ClientBatch(1, "default", [request])), timeout_s=30
        )
        return decode(ReplyBatch, message.data).replies

    async def store(self, plan: Plan) -> str:
        """Store *plan* in every shard; return its digest."""
        data = encode_plan(plan)
        for shard in sorted(set(self._table)):
            (reply,) = await self.send(shard, [StorePlan(plan=data)])
            assert not reply.code, reply.message
        return plan_digest(plan)

    def submits(self, digest: str, count: int) -> dict[int, list[SubmitRun]]:
        """Return *count* new submits by shard."""
        found: dict[int, list[SubmitRun]] = {}
        late_ms = int(time.time() * 1000) + 15_000
        for _ in range(count):
            self._number += 1
            run = f"b{self._tag}-{self._number}"
            request = SubmitRun(run=run, request_id=run, not_after_ms=late_ms, plan=digest)
            found.setdefault(self.shard(run), []).append(request)
        return found

    async def offer(self, digest: str, count: int) -> list[RunView]:
        """Submit *count* runs and wait; return the ends of those that were not turned away."""

        async def one(shard: int, submits: list[SubmitRun]) -> list[RunView]:
            waits = [GetRun(run=s.run, wait_ms=WAIT_MS, steps=False) for s in submits]
            replies = await self.send(shard, [*submits, *waits])
            told = zip(replies[: len(submits)], replies[len(submits) :], strict=True)
            views = []
            for reply in [end for start, end in told if start.code != Busy.code]:
                assert not reply.code, f"{reply.code}: {reply.message}"
                views.append(decode(RunView, bytes(reply.result)))
            return views

        by_shard = self.submits(digest, count)
        parts = await asyncio.gather(*(one(shard, some) for shard, some in by_shard.items()))
        views = [view for part in parts for view in part]
        bad = [view for view in views if view.state != "COMPLETED"]
        assert not bad, bad[:2]
        return views

    async def run_all(self, digest: str, count: int) -> list[RunView]:
        """Submit *count* runs and wait for their ends; what is turned away is offered again."""
        views = await self.offer(digest, count)
        while len(views) < count:
            await asyncio.sleep(AGAIN_S)
            views += await self.offer(digest, count - len(views))
        return views


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which *share* of *values* lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


async def w1(driver: Driver, *, runs: int) -> dict[str, Any]:
    """One single-step run at a time: submit to result, in ms."""
    digest = await driver.store(chain(1))
    for _ in range(50):
        await driver.run_all(digest, 1)
    took = []
    for _ in range(runs):
        started = time.perf_counter()
        await driver.run_all(digest, 1)
        took.append((time.perf_counter() - started) * 1_000)
    return {"runs": runs, "p50_ms": percentile(took, 0.5), "p99_ms": percentile(took, 0.99)}


async def w2(driver: Driver, *, rounds: int, cpu: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """200 concurrent runs of 10 chained steps, again and again: steps/s, CPU a step."""
    digest = await driver.store(chain(10))
    for _ in range(3):
        await driver.run_all(digest, BATCH)
    before = cpu()
    rates = []
    for _ in range(rounds):
        started = time.perf_counter()
        await driver.run_all(digest, BATCH)
        rates.append(BATCH * 10 / (time.perf_counter() - started))
    after = cpu()
    steps = rounds * BATCH * 10
    used = {name: (after[name] - before[name]) / steps * 1e6 for name in after}
    return {
        "runs": rounds * BATCH,
        "steps_per_s": spread(rates),
        "cpu_us_per_step": used | {"all": sum(used.values())},
    }


async def w3(driver: Driver, *, rounds: int, width: int = 1_000) -> dict[str, Any]:
    """One run that fans out to 1,000 steps and joins, in ms."""
    digest = await driver.store(fan_out(width))
    await driver.run_all(digest, 1)
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        await driver.run_all(digest, 1)
        took.append((time.perf_counter() - started) * 1_000)
    return {"width": width, "ms": spread(took)}


async def w4(driver: Driver, *, runs: int) -> dict[str, Any]:
    """Many one-step runs, submitted as fast as the cluster takes them: runs/s to the last end."""
    digest = await driver.store(chain(1))
    await driver.run_all(digest, BATCH)
    window = asyncio.Semaphore(8)

    async def some() -> None:
        async with window:
            await driver.run_all(digest, BATCH)

    started = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(runs // BATCH)))
    return {"runs": runs, "runs_per_s": runs / (time.perf_counter() - started)}
