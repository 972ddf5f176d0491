"""A broker, an owner of one shard, and a worker in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.bus import BrokerProcess, Bus, connect
from headrace.config import Config, Dispatch
from headrace.config import Worker as WorkerConfig
from headrace.worker.app import Worker
from support.broker import broker, bus, shared_broker
from support.worker_owner import Owner

__all__ = ["broker", "bus", "shared_broker"]


@pytest.fixture
async def owner(bus: Bus) -> AsyncIterator[Owner]:
    made = Owner(bus)
    await made.start()
    yield made
    made.stop()


StartWorker = Callable[..., Awaitable[tuple[Worker, "asyncio.Task[None]"]]]


@pytest.fixture
async def start_worker(shared_broker: BrokerProcess, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Start workers with ``await start_worker(slots=…)``; all are drained at the end."""
    started: list[tuple[Worker, asyncio.Task[None], Bus]] = []

    async def start(
        *, url: str = "", capabilities: tuple[str, ...] = ("linux",), **settings: Any
    ) -> tuple[Worker, asyncio.Task[None]]:
        connection = await connect(url or shared_broker.url, name="worker")
        settings = {"kill_ms": 500, "grace_ms": 2_000, **settings}
        config = Config(
            worker=WorkerConfig(
                id=f"w{len(started)}",
                capabilities=capabilities,
                data_dir=str(tmp_path / f"w{len(started)}"),
                **settings,
            ),
            dispatch=Dispatch(heartbeat_ms=100, lease_ms=300),
        )
        worker = Worker(connection, config)
        running = asyncio.create_task(worker.run())
        started.append((worker, running, connection))
        return worker, running

    yield start
    for worker, running, connection in started:
        worker.drain(grace_ms=0)
        await asyncio.wait_for(running, 30)
        await connection.close()
