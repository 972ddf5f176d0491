"""Coordinators, workers and a client on a real broker, all in this process.

A `kill` gives no warning to anybody: the connection is cut and the tasks are gone.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from headrace.bus import BrokerProcess, Bus, connect
from headrace.client import Client
from headrace.config import Config, Coordinator, Dispatch, Limits, Postgres
from headrace.config import Worker as WorkerConfig
from headrace.coordinator.runtime.server import CoordinatorServer
from headrace.errors import HeadraceError
from headrace.worker.app import Worker
from headrace.worker.builtin import builtin_registry
from headrace.worker.handlers import Context, handler
from support.broker import eventually

_count = itertools.count(1)


class Steps:
    """What the handler `test/step` did: how often each step began and ended."""

    def __init__(self) -> None:
        self.began: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.gate.set()

    def registry(self) -> Any:
        @handler("test/step")
        async def step(ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
            name = f"{ctx.task.run}/{ctx.task.path}"
            self.began[name] += 1
            await asyncio.sleep(inputs.get("s", 0))
            if inputs.get("gate"):
                await self.gate.wait()
            self.ended[name] += 1
            return {"n": self.ended[name]}

        registry = builtin_registry()
        registry.add(step)
        return registry


class Process:
    """One life of a coordinator or worker."""

    def __init__(self, bus: Bus, task: asyncio.Task[None], thing: Any) -> None:
        self.bus, self.task, self.thing = bus, task, thing

    async def kill(self) -> None:
        """It is gone, without a word."""
        await self.bus.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def stop(self) -> None:
        """SIGTERM."""
        if isinstance(self.thing, Worker):
            self.thing.drain(grace_ms=0)
        else:
            self.task.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(self.task, return_exceptions=True)
        await self.bus.close()


class InCluster:
    """A broker, and what a test starts on it."""

    def __init__(self, broker: BrokerProcess, folder: Path, **settings: Any) -> None:
        self.broker, self.folder, self.settings = broker, folder, settings
        self.steps = Steps()
        self.processes: dict[str, Process] = {}

    def config(self, name: str) -> Config:
        settings = {"shards_journal": 2, "shards_snapshot": 1, "shards_memory": 1}
        settings |= {"archive": "sqlite", "archive_path": str(self.folder / "archive.db")}
        settings |= self.settings
        limits = settings.pop("limits", Limits())
        postgres = settings.pop("postgres", Postgres())
        return Config(
            coordinator=Coordinator(id=name, **settings),
            dispatch=Dispatch(heartbeat_ms=200, lease_ms=1_000),
            limits=limits,
            postgres=postgres,
        )

    async def coordinator(self, name: str = "c0", *, ready: bool = True) -> CoordinatorServer:
        """Start a coordinator; by default wait until it serves."""
        bus = await connect(self.broker.url, name=name, wait_s=10)
        server = CoordinatorServer(bus, self.config(name), synced=True)
        task = asyncio.create_task(server.run(), name=name)
        self.processes[name] = Process(bus, task, server)
        if ready:
            await eventually(
                lambda: task.done() or (server.control.owned and server.ready[0]), within_s=15
            )
            assert not task.done(), task
        return server

    async def worker(self, name: str = "w0", **settings: Any) -> Worker:
        """Start a worker that has the handler `test/step`."""
        bus = await connect(self.broker.url, name=name, wait_s=10)
        config = Config(
            worker=WorkerConfig(
                id=name,
                data_dir=str(self.folder / f"{name}.{next(_count)}"),
                kill_ms=500,
                **settings,
            ),
            dispatch=Dispatch(heartbeat_ms=200, lease_ms=1_000),
        )
        worker = Worker(bus, config, registry=self.steps.registry())
        task = asyncio.create_task(worker.run(), name=name)
        self.processes[name] = Process(bus, task, worker)
        return worker

    async def kill(self, name: str) -> None:
        await self.processes.pop(name).kill()

    async def stop(self, name: str) -> None:
        await self.processes.pop(name).stop()

    async def client(self) -> Client:
        """Connect, once somebody answers."""
        async with asyncio.timeout(30):
            while True:
                try:
                    client = await Client.connect(self.broker.url, timeout_s=5)
                except HeadraceError:
                    await asyncio.sleep(0.1)
                    continue
                self.processes[f"client-{next(_count)}"] = _Closing(client)  # type: ignore[assignment]
                return client

    async def close(self) -> None:
        """Stop everything, workers first."""
        names = sorted(self.processes, key=lambda name: not name.startswith("w"))
        for name in names:
            await self.processes.pop(name).stop()


class _Closing:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def stop(self) -> None:
        await self._client.close()


@asynccontextmanager
async def in_cluster(
    broker: BrokerProcess, folder: Path, **settings: Any
) -> AsyncIterator[InCluster]:
    """A cluster; what is left of it is stopped at the end."""
    cluster = InCluster(broker, folder, **settings)
    try:
        yield cluster
    finally:
        await cluster.close()
