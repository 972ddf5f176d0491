"""The client of Celery: canvas primitives, results awaited in a thread."""

from __future__ import annotations

import asyncio
import sys

from celery import chain, chord, group
from celery.result import ResultSet
from celery_app import app, join, noted, step
from harness import STEPS, System, serve

WAIT_S = 60.0


class Celery(System):
    """`delay`, `chain`, `chord`; the result consumer is Redis' publish/subscribe."""

    async def close(self) -> None:
        app.close()

    async def single(self) -> None:
        step.delay().get(timeout=WAIT_S)

    async def chains(self, runs: int) -> None:
        one = chain(step.si() for _ in range(STEPS))
        ResultSet([one.apply_async() for _ in range(runs)]).join_native(timeout=WAIT_S)

    async def fan_out(self, width: int) -> None:
        chord(group(step.si() for _ in range(width)), join.s())().get(
            timeout=WAIT_S, follow_parents=False
        )

    async def singles(self, count: int) -> None:
        group(step.si() for _ in range(count)).apply_async().join_native(timeout=WAIT_S)

    async def noted_chains(self, names: list[str]) -> None:
        def begin() -> ResultSet:
            chains = (chain(noted.si(name, n) for n in range(STEPS)) for name in names)
            return ResultSet([one.apply_async() for one in chains])

        # Polled without blocking, so that the other streams go on.
        results = begin()
        while not results.ready():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    sys.exit(serve(Celery()))
