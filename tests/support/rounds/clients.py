"""Clients that use the cluster while it is harmed, and write down every answer that they get.

Each run is one story: a client submits it, does to it what its kind asks for (signals, approves,
pauses, cancels, resolves), looks at it now and then, and waits for its end. A prober for each shard
submits one-step runs all the time: the gaps between its answers are the pauses of availability.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from headrace.client import Client
from headrace.errors import HeadraceError, NotFound
from headrace.messages import RunView, subjects
from support.rounds import workflows
from support.rounds.record import UNKNOWN, Record

PROBE_S = 0.15
PROBES_OPEN = 40
"""Probes of one shard that may wait for their end."""
LATE_S = 6.0
"""A request counts for 15 s, about as long as a client sends it, by a clock 5 s off at most."""
LOOK_S = 5.0
PAUSE_S = 0.1
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


class Clients:
    """The load of a round, and the probers; `stop` ends both, `settle` waits for all runs."""

    def __init__(
        self, client: Client, record: Record, *, witness: str, chance: random.Random, per_s: float
    ) -> None:
        self._client, self._record, self._witness = client, record, witness
        self._chance, self._per_s = chance, per_s
        self._count = 0
        self._stories: dict[str, asyncio.Task[None]] = {}
        self._loads: list[asyncio.Task[None]] = []
        self._served: dict[int, int] = {}
        """Shard -> when the newest probe was sent that has ended."""

    def start(self, shards: int) -> None:
        """Begin to submit, and to probe each of so many shards."""
        self._loads = [asyncio.create_task(self._load(), name="load")]
        for shard in range(shards):
            self._served[shard] = 0
            self._loads.append(asyncio.create_task(self._probe(shard), name=f"probe-{shard}"))

    async def back(self, since_ns: int, *, within_s: float) -> bool:
        """Wait until a probe of every shard that was sent since then has ended."""
        deadline = time.monotonic() + within_s
        while not all(since_ns < sent for sent in self._served.values()):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(PAUSE_S)
        return True

    async def stop(self) -> None:
        """Submit no more; what has begun goes on. Raises what a client of the load has raised."""
        loads, self._loads = self._loads, []
        for task in loads:
            task.cancel()
        for found in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(found, Exception):
                raise found

    async def settle(self, *, within_s: float) -> list[str]:
        """Wait until each story is over, and return the runs whose story is not in time."""
        stories, self._stories = self._stories, {}
        if stories:
            await asyncio.wait(stories.values(), timeout=within_s)
        late = [run for run, task in stories.items() if not task.done()]
        for task in stories.values():
            task.cancel()
        for found in await asyncio.gather(*stories.values(), return_exceptions=True):
            if isinstance(found, Exception):
                raise found
        return late

    # -- the load --------------------------------------------------------------------------------

    async def _load(self) -> None:
        kinds, shares = zip(*workflows.MIX.items(), strict=True)
        while True:
            (kind,) = self._chance.choices(kinds, shares)
            self._begin(kind, self._named(kind))
            await asyncio.sleep(self._chance.expovariate(self._per_s))

    def _named(self, kind: str) -> str:
        self._count += 1
        return f"r{self._record.round}-{kind}-{self._count}"

    def _begin(self, kind: str, run: str, *, shard: int = -1) -> asyncio.Task[None]:
        task = asyncio.create_task(self._story(kind, run, shard), name=run)
        self._stories[run] = task
        return task

    async def _probe(self, shard: int) -> None:
        """Submit to one shard only, one after the other; their ends are waited for beside it."""
        open_ones: set[asyncio.Task[None]] = set()
        while True:
            run = self._named("probe")
            key = subjects.run_key(self._client.namespace, run)
            if self._client._calls.shard(key, "journal") != shard:
                continue
            sent_ns = time.monotonic_ns()
            if await self._submit("probe", run, shard) == "ok":
                task = asyncio.create_task(self._probed(run, shard, sent_ns), name=run)
                self._stories[run] = task
                open_ones.add(task)
                task.add_done_callback(open_ones.discard)
            while len(open_ones) >= PROBES_OPEN:
                await asyncio.wait(open_ones, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(PROBE_S)

    async def _probed(self, run: str, shard: int, sent_ns: int) -> None:
        await self._end("probe", run, shard)
        self._served[shard] = max(self._served[shard], sent_ns)

    # -- one run ---------------------------------------------------------------------------------

    async def _story(self, kind: str, run: str, shard: int) -> None:
        if await self._submit(kind, run, shard) != "ok" and not await self._exists(run):
            return
        if kind == "signalled":
            await asyncio.sleep(self._chance.random() * 0.3)
            await self._insist("signal", run, self._signal(run, "paid"))
            await self._insist("signal", run, self._signal(run, "release"))
        elif kind == "paused":
            await self._insist("pause", run, lambda _: self._client.pause(run))
            await asyncio.sleep(self._chance.random() * 0.5)
            await self._insist("resume", run, lambda _: self._client.resume(run))
        elif kind == "cancelled":
            await asyncio.sleep(self._chance.random() * 0.5)
            await self._insist("cancel", run, lambda _: self._client.cancel(run))
        await self._end(kind, run, shard)

    async def _submit(self, kind: str, run: str, shard: int) -> str:
        work = self._client.submit(workflows.plan(kind), {"witness": self._witness}, run_id=run)
        return await self._record.attempt("submit", run, work, kind=kind, shard=shard)

    async def _exists(self, run: str) -> bool:
        """Find out what became of a submit that nobody answered: it may take effect for a while."""
        deadline = time.monotonic() + LATE_S
        while True:
            try:
                await self._client.get(run, steps=False)
                return True
            except NotFound:
                if time.monotonic() > deadline:
                    return False
            except UNKNOWN:
                pass
            await asyncio.sleep(PAUSE_S)

    def _signal(self, run: str, name: str) -> Callable[[str], Awaitable[None]]:
        return lambda operation: self._client.signal(run, name, {"operation": operation})

    async def _insist(
        self, op: str, run: str, work: Callable[[str], Awaitable[None]], **facts: Any
    ) -> None:
        """Ask until there is an answer; each time is an operation of its own."""
        while True:
            operation = self._record.next_id()
            outcome = await self._record.attempt(
                op, run, work(operation), operation=operation, **facts
            )
            if outcome != "unknown":
                return
            await asyncio.sleep(PAUSE_S)

    async def _end(self, kind: str, run: str, shard: int) -> None:
        """Look at the run until it has ended; decide where a person is asked."""
        look_s = 0.5 if kind in ("asked", "once") else LOOK_S
        while True:
            try:
                view = await self._client.get(run, wait_ms=int(look_s * 1000))
            except UNKNOWN:
                await asyncio.sleep(PAUSE_S)
                continue
            except HeadraceError as error:
                # The run was acknowledged: this answer is for the judge.
                self._record.note("lost", run=run, said=f"{type(error).__name__}: {error}")
                return
            self._seen(kind, view, shard)
            if view.state in ENDED:
                return
            for step in view.steps:
                if step.state == "UNKNOWN":
                    await self._insist("resolve", run, self._resolve(run, step.path))

    def _resolve(self, run: str, path: str) -> Callable[[str], Awaitable[None]]:
        return lambda operation: self._client.resolve(
            run, path, "completed", {"operation": operation}
        )

    def _seen(self, kind: str, view: RunView, shard: int) -> None:
        """Write down what a client was told of a run: it must stay true."""
        outputs = {step.path: step.outputs for step in view.steps if step.state == "COMPLETED"}
        self._record.note(
            "view",
            run=view.id,
            kind=kind,
            shard=shard,
            state=view.state,
            outputs=outputs,
            ended=time.monotonic_ns(),
        )
