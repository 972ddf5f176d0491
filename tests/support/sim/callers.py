"""Users of workflow functions: they submit, signal, update, ask, pause and cancel."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from headrace.errors import Unreachable
from headrace.messages import CancelRun, QueryRun, UpdateRun
from support.sim.functions import HINT, QUERY, UPDATE, ScriptMaker, play, signals_of

if TYPE_CHECKING:
    from support.sim.clients import SimClient

SHARE = 0.2
"""Of worlds that have functions."""


class Callers:
    """All of them, in some worlds."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"functions of {seed}")
        self.there = self._rng.random() < SHARE
        """Workers of this world have the function."""

    def start(self, client: SimClient, until_s: float) -> None:
        """Let them begin."""
        if not self.there:
            return
        self._client, self._world = client, client.world
        for number in range(self._rng.randint(1, 4)):
            rng = random.Random(f"function {number} of {self._world.seed}")
            if self._world.takes_part(f"function-{number}"):
                client.busy += 1
                client.process.spawn(self._user(rng, number, until_s))

    async def _user(self, rng: random.Random, number: int, until_s: float) -> None:
        client, world = self._client, self._world
        script = ScriptMaker(rng).script()
        name = f"{''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=2))}-f{number}"
        await asyncio.sleep(rng.random() * until_s * 0.7)
        world.tell(f"{name} will play {script}")
        given = {"script": script}
        if await client.submit(name, play.plan, explicit=rng.random() < 0.3, given=given):
            jobs = [self._signals(rng, name, script), self._updates(rng, name)]
            draw = rng.random()
            if draw < 0.12:
                jobs.append(self._cancel(rng, name))
            elif draw < 0.25:
                jobs.append(client.pause(name))
            jobs.append(client.look(name))
            await asyncio.gather(*jobs)
        client.busy -= 1

    async def _signals(self, rng: random.Random, run: str, script: list[Any]) -> None:
        hints = {HINT: rng.choice([0, 0, 1, 3])}
        for name, count in (hints | signals_of(script)).items():
            if not await self._client.signal(run, name, "", count):
                return
            await asyncio.sleep(rng.random() * 0.3)

    async def _updates(self, rng: random.Random, run: str) -> None:
        for _ in range(rng.choice([0, 0, 1, 3])):
            await asyncio.sleep(rng.random() * 1.5)
            change = {"name": UPDATE, "argument": rng.randint(1, 5), "wait_ms": 300}
            reply = await self._client.mutate(run, UpdateRun, **change)
            if reply.code:
                return
            await self._ask(run, f"{run}-{rng.random()}")

    async def _ask(self, run: str, number: str) -> None:
        request = QueryRun(run=run, id=number, name=QUERY, wait_ms=400)
        try:
            await self._client.send(self._client.home(run), request)
        except Unreachable:
            return

    async def _cancel(self, rng: random.Random, run: str) -> None:
        await asyncio.sleep(rng.random() * 2)
        reply = await self._client.mutate(run, CancelRun, reason="not wanted")
        if not reply.code and rng.random() < 0.3:
            await asyncio.sleep(rng.random())
            await self._client.mutate(run, CancelRun, reason="at once", force=True)
