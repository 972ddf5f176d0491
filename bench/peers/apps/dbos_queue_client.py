"""The client of DBOS in W5: another process than the one that runs the workflows."""

from __future__ import annotations

import asyncio
import os
import sys

from dbos import DBOSClient
from dbos_app import QUEUE, noted_chain
from harness import System, serve


class DbosQueue(System):
    """Enqueues, and asks for results."""

    async def open(self) -> None:
        self._client = DBOSClient(
            system_database_url=os.environ["BENCH_POSTGRES"], system_database_pool_size=20
        )

    async def close(self) -> None:
        self._client.destroy()

    async def noted_chains(self, names: list[str]) -> None:
        async def run(name: str) -> None:
            handle = await self._client.enqueue_async(
                {"queue_name": QUEUE, "workflow_name": noted_chain.__qualname__}, name
            )
            await handle.get_result(polling_interval_sec=0.2)

        await asyncio.gather(*(run(name) for name in names))


if __name__ == "__main__":
    sys.exit(serve(DbosQueue()))
