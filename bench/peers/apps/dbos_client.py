"""The client of DBOS: a library, so workflows run in this very process."""

from __future__ import annotations

import asyncio
import sys

import dbos_app
from dbos import DBOS
from harness import System, serve

IN_FLIGHT = 200


class Dbos(System):
    """Workflows are called as the functions that they are."""

    async def open(self) -> None:
        dbos_app.launch("client")

    async def close(self) -> None:
        DBOS.destroy()

    async def single(self) -> None:
        await dbos_app.one()

    async def chains(self, runs: int) -> None:
        await asyncio.gather(*(dbos_app.chain() for _ in range(runs)))

    async def fan_out(self, width: int) -> None:
        await dbos_app.fan_out(width)

    async def singles(self, count: int) -> None:
        left = iter(range(count))

        async def some() -> None:
            for _ in left:
                await dbos_app.one()

        await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    sys.exit(serve(Dbos()))
