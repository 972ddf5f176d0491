"""The client of Restate: requests to the ingress, which answers with the result."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import aiohttp
from harness import System, serve

WAIT_S = 120.0
IN_FLIGHT = 256


class Restate(System):
    """HTTP with connections kept alive; request and response."""

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            os.environ["BENCH_INGRESS"],
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=WAIT_S),
        )

    async def close(self) -> None:
        await self._session.close()

    async def _call(self, handler: str, argument: Any = None) -> None:
        # A handler without an argument refuses a request that says what type its nothing has.
        body: dict[str, Any] = {"skip_auto_headers": ["Content-Type"]}
        if argument is not None:
            body = {"json": argument}
        async with self._session.post(f"/bench/{handler}", **body) as response:
            text = await response.text()
            if response.status >= 300:
                raise RuntimeError(f"{handler}: {response.status} {text[:300]}")

    async def single(self) -> None:
        await self._call("one")

    async def chains(self, runs: int) -> None:
        await asyncio.gather(*(self._call("chain") for _ in range(runs)))

    async def fan_out(self, width: int) -> None:
        await self._call("fan_out", width)

    async def singles(self, count: int) -> None:
        left = iter(range(count))

        async def some() -> None:
            for _ in left:
                await self._call("one")

        await asyncio.gather(*(some() for _ in range(IN_FLIGHT)))

    async def noted_chains(self, names: list[str]) -> None:
        await asyncio.gather(*(self._call("noted_chain", name) for name in names))


if __name__ == "__main__":
    sys.exit(serve(Restate()))
