"""Whole clusters of real processes on loopback, to use and to harm.

`Cluster` starts NATS servers, coordinators and workers, each of which can be killed, frozen and
started again; `Dev` is one `flowctl dev`. Both run `flowctl` as users do. All files lie in one
folder; logs are shown when a test fails (see `show_logs`); whatever was started is ended by its
process id, the steps of killed workers too: every process carries a mark in its environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from headrace.bus import BrokerCluster, BrokerProcess, free_port
from headrace.client import Client
from headrace.errors import Busy, NotFound, Unavailable, Unreachable
from headrace.messages import ServerInfo
from support.broker import in_thread
from support.processes import (
    EXAMPLES,
    POLL_S,
    START_S,
    STOP_S,
    TESTS,
    Machine,
    Program,
    Ran,
    free_ports,
    http_get,
    logs_shown,
    until,
    wait_for,
)

__all__ = [
    "EXAMPLES",
    "POLL_S",
    "START_S",
    "STOP_S",
    "TESTS",
    "Cluster",
    "Dev",
    "Machine",
    "Program",
    "Ran",
    "free_ports",
    "http_get",
    "kept",
    "lent",
    "logs_shown",
    "running",
    "shared",
    "shared_dev",
    "until",
    "wait_for",
]


class Cluster(Machine):
    """NATS servers, coordinators and workers. Use: ``async with running(Cluster(folder))``."""

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        coordinators: int = 1,
        workers: int = 1,
        shards: int = 2,
        slots: int = 16,
        labels: Sequence[str] = ("default", "linux"),
        apps: Sequence[str] = (),
        archive: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """*archive*: by default SQLite for a coordinator that is alone, else JetStream."""
        # A test has no half minute for a worker to finish its steps.
        quick = {"HEADRACE_CFG_WORKER__GRACE_MS": "2000", "HEADRACE_CFG_WORKER__KILL_MS": "500"}
        super().__init__(folder, env={**quick, **(env or {})})
        self._nats = BrokerCluster(folder / "nats", servers=brokers) if brokers > 1 else None
        self.brokers: list[BrokerProcess] = (
            self._nats.servers if self._nats else [BrokerProcess(folder / "nats")]
        )
        self.shards, self.slots = shards, slots
        self._labels, self._apps = tuple(labels), tuple(apps)
        self._archive = archive or ("sqlite" if coordinators == 1 else "jetstream")
        self._names = tuple(f"c{number}" for number in range(coordinators))
        self._workers_wanted = workers
        self.coordinators: list[Program] = []
        self.workers: list[Program] = []
        self.ports: dict[str, int] = {}
        """Name of a process -> port of its metrics, health and readiness."""

    @property
    def servers(self) -> str:
        """Addresses as users give them."""
        return ",".join(broker.url for broker in self.brokers)

    async def start(self) -> None:
        """Start everything and return once it works."""
        if self._nats is not None:
            await self._nats.start()
        else:
            await self.brokers[0].start()
        self.env["FLOWCTL_SERVER"] = self.servers
        for name in self._names:
            self.coordinators.append(self._coordinator(name))
        for number in range(self._workers_wanted):
            self.workers.append(self.worker(f"w{number}"))
        for program in (*self.coordinators, *self.workers):
            program.start()
        await self.ready()

    def _addresses(self) -> list[str]:
        return [part for broker in self.brokers for part in ("--server", broker.url)]

    def _metrics(self, name: str) -> list[str]:
        self.ports[name] = free_port()
        return ["--metrics-port", str(self.ports[name])]

    def _coordinator(self, name: str) -> Program:
        alone = len(self._names) == 1
        arguments = ["coordinator", *self._addresses(), "--id", name, *self._metrics(name)]
        arguments += ["--shards", str(self.shards), "--data-dir", str(self.folder / name)]
        arguments += ["--archive", self._archive]
        arguments += ["--replicas", str(min(len(self.brokers), 3))]
        arguments += ["--monitor", self.brokers[0].monitor_url]
        for peer in () if alone else self._names:
            arguments += ["--peer", peer]
        return self.add(name, *arguments)

    def worker(self, name: str, *extra: str, labels: Sequence[str] | None = None) -> Program:
        """Return a new worker; it is not started."""
        arguments = ["worker", *self._addresses(), "--id", name, *self._metrics(name)]
        arguments += ["--slots", str(self.slots), "--data-dir", str(self.folder / name)]
        for label in self._labels if labels is None else labels:
            arguments += ["-c", label]
        for app in self._apps:
            arguments += ["--app", app]
        return self.add(name, *arguments, *extra)

    async def client(self, *, within_s: float = START_S, **options: Any) -> Client:
        """Return a client, once somebody answers; the caller closes it."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                return await Client.connect(self.servers, **options)
            except (Unreachable, Unavailable):
                if time.monotonic() > deadline:
                    raise

    async def ready(self, *, within_s: float = START_S) -> ServerInfo:
        """Wait until every shard is served and every running worker is known."""
        alive = sum(program.running for program in self.workers)
        coordinators = sum(program.running for program in self.coordinators)

        def works(info: ServerInfo) -> bool:
            online = [w for w in info.workers if w.state in ("Online", "Busy")]
            owners = {shard.owner for shard in info.shards}
            return (
                all(shard.epoch for shard in info.shards)
                and len(online) >= alive
                # Shards are spread before tests begin to count takeovers.
                and len(owners) == min(coordinators, self.shards)
            )

        return await self.info_when(works, within_s=within_s, what="the cluster to be ready")

    async def info_when(
        self, fits: Callable[[ServerInfo], bool], *, within_s: float, what: str
    ) -> ServerInfo:
        """Return what the cluster says of itself once it *fits*."""
        info: ServerInfo | None = None
        deadline = time.monotonic() + within_s
        async with await self.client(within_s=within_s) as client:
            while time.monotonic() < deadline:
                try:
                    info = await client.info(workers=True)
                except (Unreachable, Busy):
                    continue
                if fits(info):
                    return info
                await asyncio.sleep(POLL_S)
        raise AssertionError(f"waited {within_s} s for {what}; last seen: {info}")

    async def mend(self) -> None:
        """Thaw and start whatever a test has harmed, end what it has added; return once ready."""
        for program in self.programs.values():
            if program not in self.coordinators and program not in self.workers:
                program.kill()
        for broker in self.brokers:
            broker.resume()
            if not broker.running:
                await broker.start(wait=False)
        for broker in self.brokers:
            assert await broker.wait_ready(START_S), broker.name
        for program in (*self.coordinators, *self.workers):
            program.thaw()
            if not program.running:
                program.start()
        await self.ready()

    async def close(self) -> None:
        """End everything; steps of killed workers too."""
        for program in self.programs.values():
            program.thaw()
        for program in self.workers:
            program.send(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while any(program.running for program in self.workers) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        for program in self.programs.values():
            program.kill()
        for broker in self.brokers:
            broker.resume()
            await broker.stop(grace_s=1.0)
        self.sweep()


class Dev(Machine):
    """One `flowctl dev` in a folder of its own."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, env=env)
        self.port, self.metrics = free_port(), free_ports(2)
        self.program = self.add(
            "dev",
            *("dev", "--dir", str(folder / "data"), "--port", str(self.port)),
            *("--metrics-port", str(self.metrics), *options),
        )

    @property
    def url(self) -> str:
        """Address of its NATS server."""
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start and return once runs are taken and a worker is online."""
        self.program.start()
        await self.ready()

    async def ready(self, *, within_s: float = START_S) -> None:
        """Wait until it works."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            assert self.program.running, f"dev ended:\n{self.program.said()}"
            try:
                async with await Client.connect(self.url, timeout_s=1.0) as client:
                    info = await client.info(workers=True)
            except (Unreachable, Unavailable, NotFound, Busy):
                await asyncio.sleep(POLL_S)
                continue
            online = [worker for worker in info.workers if worker.state == "Online"]
            if online and all(shard.epoch for shard in info.shards):
                return
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"dev is not ready within {within_s} s:\n{self.program.said()}")

    def roles(self) -> dict[str, int]:
        """Return the processes that `dev` started: `nats-server`, `coordinator`, `worker` …"""
        found: dict[str, int] = {}
        marked = self.marked()
        for pid, command in marked.items():
            words = command.split()
            if words[0].endswith("nats-server"):
                found["nats-server"] = pid
            elif "headrace.local.child" in words and marked.get(_parent(pid)) != command:
                # The child of a worker bears its words until it becomes a step's program.
                role = words[words.index("headrace.local.child") + 1]
                found[role if role not in found else f"{role}-{pid}"] = pid
        return found

    async def close(self) -> None:
        """Ctrl-C, then whatever is left."""
        self.program.thaw()
        self.program.send(signal.SIGINT)
        deadline = time.monotonic() + STOP_S
        while self.program.running and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        self.program.kill()
        self.sweep()


def _parent(pid: int) -> int:
    """Return the pid of a process' parent; 0: it has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


# -- fixtures --------------------------------------------------------------------------------------

Made = TypeVar("Made", Cluster, Dev)


@contextlib.asynccontextmanager
async def lent(made: Made) -> AsyncIterator[Made]:
    """Lend it as it is, and end it; its logs are shown when a test fails."""
    with logs_shown(made):
        try:
            yield made
        finally:
            await made.close()


@contextlib.asynccontextmanager
async def running(made: Made) -> AsyncIterator[Made]:
    """Start it, lend it, and end it."""
    async with lent(made):
        await made.start()
        yield made


@contextlib.contextmanager
def shared(made: Made) -> Iterator[Made]:
    """The same for a fixture that outlives a test's event loop."""
    with logs_shown(made):
        try:
            in_thread(made.start())
            yield made
        finally:
            in_thread(made.close())


class Kept:
    """A cluster that the tests of a module harm one after the other, mended in between.

    Starting one takes seconds. After a test that fails the next one has a cluster of its own, so
    that one failure is one failure.
    """

    def __init__(self, make: Callable[[], Cluster]) -> None:
        self._make = make
        self._cluster: Cluster | None = None

    @contextlib.asynccontextmanager
    async def whole(self, session: pytest.Session) -> AsyncIterator[Cluster]:
        """Lend the cluster to a test; shows its logs when that has failed."""
        failed = session.testsfailed
        if self._cluster is None:
            self._cluster = self._make()
            await self._cluster.start()
        cluster = self._cluster
        with logs_shown(cluster):
            await cluster.mend()
            yield cluster
        if session.testsfailed > failed:
            await self.close()

    async def close(self) -> None:
        """End it."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.close()


@contextlib.contextmanager
def kept(make: Callable[[], Cluster]) -> Iterator[Kept]:
    """For a fixture of a module: *make* says which cluster."""
    made = Kept(make)
    try:
        yield made
    finally:
        in_thread(made.close())


@pytest.fixture(scope="session")
def shared_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    """One `flowctl dev` with the handlers of the examples, for tests that do no harm to it."""
    folders = (EXAMPLES / "sdk", EXAMPLES / "ai")
    path = os.pathsep.join(map(str, (EXAMPLES, *folders, TESTS)))
    modules = sorted(file.stem for folder in folders for file in folder.glob("*.py"))
    apps = [word for module in ("handlers", *modules) for word in ("--app", f"{module}:app")]
    made = Dev(tmp_path_factory.mktemp("dev"), *apps, env={"PYTHONPATH": path})
    with shared(made):
        yield made
