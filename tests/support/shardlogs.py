"""Worlds: a place where several processes can open the log of one shard."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, cast

import pytest

from headrace.bus import BrokerCluster, BrokerProcess, Bus, JetStream, PubAck, TimedOut, connect
from headrace.coordinator.shardlog import MemoryLog, MemoryLogStore, ShardLog
from headrace.coordinator.shardlog.jetstream import JetStreamLog
from headrace.coordinator.shardlog.sqlite import SqliteLog

_shards = itertools.count(1)

Meanwhile: TypeAlias = Callable[[], Awaitable[object]]


class World:
    """Opens logs of one shard that share what lasts; each is another process's."""

    kind = ""

    def __init__(self) -> None:
        self.opened: list[ShardLog] = []

    def open(self, *, bytes_max: int = 0) -> ShardLog:
        log = self._open(bytes_max)
        self.opened.append(log)
        return log

    def _open(self, bytes_max: int) -> ShardLog:
        raise NotImplementedError

    async def close(self) -> None:
        for log in self.opened:
            await log.close()


class MemoryWorld(World):
    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryLogStore()

    def _open(self, bytes_max: int) -> ShardLog:
        self.store.bytes_max = bytes_max
        return MemoryLog(7, self.store)


class SqliteWorld(World):
    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _open(self, bytes_max: int) -> ShardLog:
        return SqliteLog(self.path, 7, bytes_max=bytes_max)


class JetStreamWorld(World):
    kind = "jetstream"

    def __init__(self, bus: Bus, *, replicas: int = 1) -> None:
        super().__init__()
        self.bus, self.replicas = bus, replicas
        self.shard = next(_shards)

    def _open(self, bytes_max: int) -> ShardLog:
        return self.open_on(self.bus, bytes_max=bytes_max)

    def open_on(self, bus: Bus, *, bytes_max: int = 0) -> JetStreamLog:
        log = JetStreamLog(
            bus,
            self.shard,
            replicas=self.replicas,
            max_bytes=bytes_max,
            append_timeout_s=2.0,
            resolve_timeout_s=10.0,
        )
        self.opened.append(log)
        return log

    def open_faulty(self) -> tuple[JetStreamLog, FaultyJetStream]:
        """Return a log, and the wire that it writes through."""
        wire = FaultyJetStream(self.bus)
        return self.open_on(cast("Bus", SimpleNamespace(js=wire))), wire

    async def close(self) -> None:
        await super().close()
        await self.bus.js.delete_stream(f"HEADRACE_LOG_{self.shard}")


class FaultyJetStream(JetStream):
    """A wire that fails the next publish in a chosen way, with something happening meanwhile."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.fault = ""
        self.meanwhile: Meanwhile | None = None
        self.held: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.outcomes: list[BaseException | None] = []

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> PubAck:
        fault, self.fault = self.fault, ""
        sent = dict(headers or {})
        if fault == "right-position":
            await self._run_meanwhile()
            info = await self.stream_info(f"HEADRACE_LOG_{subject.split('.')[2]}")
            sent["Nats-Expected-Last-Sequence"] = str(info.state.last_seq)
        elif fault in ("lost-request", "late-request"):
            if fault == "late-request":
                self.held.append((subject, payload, sent))
            await self._run_meanwhile()
            raise TimedOut("fault: the request is on its way")
        ack = await super().publish(subject, payload, timeout_s=timeout_s, headers=sent)
        if fault == "twice":
            self.held.append((subject, payload, sent))
            self.outcomes = await self.deliver_late()
        if fault == "lost-ack":
            await self._run_meanwhile()
            raise TimedOut("fault: the acknowledgement is lost")
        return ack

    async def deliver_late(self) -> list[BaseException | None]:
        """Deliver what was held back, and return what the broker made of each."""
        outcomes: list[BaseException | None] = []
        for subject, payload, headers in self.held:
            try:
                await super().publish(subject, payload, timeout_s=2.0, headers=headers)
            except Exception as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        self.held.clear()
        return outcomes

    async def _run_meanwhile(self) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()


MEMORY, SQLITE = "memory", "sqlite"
ONE = pytest.param("jetstream", marks=pytest.mark.integration)
THREE = pytest.param("jetstream-3", marks=pytest.mark.integration)
USUAL = (MEMORY, SQLITE, ONE)
EVERY = (MEMORY, SQLITE, ONE, THREE)


@pytest.fixture(params=USUAL)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """The usual implementations; parametrize it with `EVERY` and ``indirect=True`` for all."""
    bus: Bus | None = None
    made: World
    if request.param == "memory":
        made = MemoryWorld()
    elif request.param == "sqlite":
        made = SqliteWorld(tmp_path / "log.sqlite")
    elif request.param == "jetstream":
        server: BrokerProcess = request.getfixturevalue("shared_broker")
        bus = await connect(server.url, name="conformance")
        made = JetStreamWorld(bus)
    else:
        cluster: BrokerCluster = request.getfixturevalue("broker_cluster")
        bus = await connect(cluster.urls, name="conformance")
        made = JetStreamWorld(bus, replicas=3)
    yield made
    await made.close()
    if bus is not None:
        await bus.close()


@pytest.fixture(params=[ONE, THREE])
async def wire_world(request: pytest.FixtureRequest) -> AsyncIterator[JetStreamWorld]:
    """JetStream, whose wire can fail: one server and three."""
    if request.param == "jetstream":
        servers: Any = request.getfixturevalue("shared_broker").url
    else:
        servers = request.getfixturevalue("broker_cluster").urls
    async with await connect(servers, name="conformance") as bus:
        made = JetStreamWorld(bus, replicas=1 if request.param == "jetstream" else 3)
        yield made
        await made.close()
