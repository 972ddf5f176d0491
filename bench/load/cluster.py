"""Real processes for a benchmark: NATS servers, coordinators, workers, on loopback."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from headrace.bus import BrokerCluster, BrokerProcess, Bus, connect
from headrace.errors import HeadraceError
from headrace.messages import (
    ClientBatch,
    GetInfo,
    ReplyBatch,
    ServerInfo,
    decode,
    encode,
    subjects,
)


class Process:
    """One process of ours and what it has used."""

    def __init__(self, name: str, arguments: list[str], directory: Path) -> None:
        self.name, self.arguments, self.directory = name, arguments, directory
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, its output in a file."""
        with (self.directory / f"{self.name}.log").open("ab") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "headrace.local.child", *self.arguments],
                stdout=out,
                stderr=out,
                cwd=self.directory,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self.popen is None or self.popen.poll() is not None:
            return
        self.popen.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid


def cpu_seconds(pid: int) -> float:
    """Return user and system seconds of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return a process's resident memory in MB."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Cluster:
    """NATS (1 or 3 servers, fsync always), coordinators (as many, unless told), workers."""

    def __init__(
        self,
        directory: Path,
        *,
        size: int = 1,
        workers: int = 1,
        slots: int = 256,
        coordinators: int = 0,
        shards: int = 0,
    ) -> None:
        """*shards* given: the archive is in the broker, as several coordinators need it."""
        self.size = size
        self._coordinator_count, self._shards = coordinators or size, shards
        self.directory = directory
        if size == 1:
            broker = BrokerProcess(directory / "nats")
            self.brokers = [broker]
            self._group: BrokerCluster | None = None
        else:
            self._group = BrokerCluster(directory / "nats")
            self.brokers = list(self._group.servers)
        self.coordinators: list[Process] = []
        self.workers: list[Process] = []
        self._worker_count, self._slots = workers, slots
        self.bus: Bus | None = None

    async def start(self) -> None:
        """Start everything and wait until a coordinator serves every shard."""
        if self._group is not None:
            await self._group.start()
        else:
            await self.brokers[0].start()
        servers = [argument for b in self.brokers for argument in ("--server", b.url)]
        peers = [f"coordinator-{n}" for n in range(self._coordinator_count)]
        for name in peers:
            arguments = ["coordinator", *servers, "--id", name]
            arguments += ["--data-dir", str(self.directory / name)]
            arguments += ["--monitor", self.brokers[0].monitor_url]
            if self._shards:
                arguments += ["--archive", "jetstream", "--shards", str(self._shards)]
                arguments += [part for peer in peers for part in ("--peer", peer)]
            elif self.size == 1:
                arguments += ["--archive", "sqlite", "--shards", "1"]
            else:
                arguments += ["--archive", "jetstream", "--shards", "3", "--replicas", "3"]
                arguments += [part for peer in peers for part in ("--peer", peer)]
            process = Process(name, arguments, self.directory)
            process.start()
            self.coordinators.append(process)
        for number in range(self._worker_count):
            arguments = ["worker", *servers, "--id", f"worker-{number}"]
            arguments += ["--slots", str(self._slots), "-c", "default"]
            arguments += ["--data-dir", str(self.directory / f"worker-{number}")]
            process = Process(f"worker-{number}", arguments, self.directory)
            process.start()
            self.workers.append(process)
        self.bus = await connect([b.url for b in self.brokers], name="bench")
        deadline = time.monotonic() + 60
        while True:
            info = await self.info()
            served = [shard for shard in info.shards if shard.epoch]
            if info.shards and len(served) == len(info.shards) and info.workers:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster is not ready: {info}")
            await asyncio.sleep(0.2)

    async def info(self) -> ServerInfo:
        """Return the cluster's description."""
        assert self.bus is not None
        empty = ServerInfo(version=0, release="")
        try:
            message = await self.bus.request(
                subjects.INFO,
                encode(ClientBatch(1, "default", [GetInfo(workers=True)])),
                timeout_s=3,
            )
        except HeadraceError:
            return empty
        reply = decode(ReplyBatch, message.data).replies[0]
        return empty if reply.code else decode(ServerInfo, bytes(reply.result))

    def pids(self) -> dict[str, int]:
        """Return role -> pid of every process."""
        found = {f"nats-{n}": broker.pid for n, broker in enumerate(self.brokers)}
        found.update({process.name: process.pid for process in self.coordinators})
        found.update({process.name: process.pid for process in self.workers})
        found["client"] = os.getpid()
        return found

    async def stop(self) -> None:
        """End every process that was started here."""
        if self.bus is not None:
            await self.bus.close()
        for process in (*self.workers, *self.coordinators):
            process.stop()
        for broker in self.brokers:
            await broker.stop()


def own_signal() -> None:
    """Let Ctrl-C end the benchmark in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
