"""The cluster that is harmed: three NATS servers, three coordinators, workers in two groups.

Every process has a host of its own (see `network`). Coordinators and workers read their wall clock
through `turned`, so that one of them can be told another time while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headrace.bus import BrokerProcess, connect, free_port
from headrace.errors import Busy, HeadraceError, Unavailable, Unreachable
from headrace.messages import ServerInfo
from support.cluster import START_S, Cluster
from support.processes import POLL_S, Program
from support.rounds import turned
from support.rounds.disk import Disk
from support.rounds.network import Network, NotPossible

BROKERS = ("n1", "n2", "n3")
COORDINATORS = ("c1", "c2", "c3")
GROUPS = {"w1": ("default", "blue"), "w2": ("default", "blue", "green"), "w3": ("green", "linux")}
"""Worker -> labels; two groups, and `w2` is in both."""
SHARDS = 3
APP = "support.rounds.steps:app"
CLIENT_PORT, MONITOR_PORT, ROUTE_PORT = 4222, 8222, 6222


class Fleet(Cluster):
    """Use: ``await fleet.start()``, and ``await fleet.close()`` whatever happens."""

    def __init__(self, folder: Path, *, network: Network) -> None:
        # Snapshots and purges are to happen while the rounds last.
        env = {
            "HEADRACE_CFG_COORDINATOR__SNAPSHOT_EVENTS": "5000",
            "HEADRACE_CFG_COORDINATOR__SNAPSHOT_MINUTES": "0.5",
        }
        super().__init__(folder, shards=SHARDS, slots=24, apps=[APP], env=env, archive="jetstream")
        self.network = network
        for name in (*BROKERS, *COORDINATORS, *GROUPS):
            network.host(name)
        self.brokers = self._servers()
        self.disk: Disk | None = None
        self._no_disk = ""
        """Why the last broker has no disk of its own."""
        try:
            self.disk = Disk(self.brokers[-1].directory / "store")
        except NotPossible as error:
            self._no_disk = str(error)
        self._names = COORDINATORS
        for name in COORDINATORS:
            self.coordinators.append(self._coordinator(name))
        for name in GROUPS:
            self.workers.append(self.worker(name, labels=GROUPS[name]))

    def _servers(self) -> list[BrokerProcess]:
        alone = self.network.kind == "loopback"
        hosts = [self.network.hosts[name] for name in BROKERS]
        ports = [free_port() if alone else ROUTE_PORT for _ in hosts]
        routes = [f"nats://{h.address}:{port}" for h, port in zip(hosts, ports, strict=True)]
        return [
            BrokerProcess(
                self.folder / host.name,
                name=host.name,
                host=host.address,
                port=free_port() if alone else CLIENT_PORT,
                monitor_port=free_port() if alone else MONITOR_PORT,
                cluster="rounds",
                cluster_port=port,
                routes=routes,
                prefix=host.prefix,
            )
            for host, port in zip(hosts, ports, strict=True)
        ]

    def add(self, name: str, *arguments: str, **options: Any) -> Program:
        """Return a new program on its own host, with a clock of its own."""
        host = self.network.hosts[name]
        self.turn(name, 0)
        env = {turned.VARIABLE: str(self._clock(name))}
        first = turned.__name__
        return super().add(name, *arguments, env=env, prefix=host.prefix, first=first, **options)

    def _clock(self, name: str) -> Path:
        return self.folder / f"{name}.clock"

    def turn(self, name: str, offset_s: int) -> None:
        """Let the wall clock of a process differ by *offset_s* from the machine's, from now on."""
        turned.turn(self._clock(name), offset_s)

    def lacks(self, needs: str) -> str:
        """Return why the machine cannot give what a nemesis needs; empty: it can."""
        if needs == "namespaces" and self.network.kind == "loopback":
            return f"no network namespaces: {self.network.why}"
        if needs == "disk" and self.disk is None:
            return f"no small disk for a NATS server: {self._no_disk}"
        return ""

    def _addresses(self) -> list[str]:
        return [part for broker in self.brokers for part in ("--server", broker.url)]

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything and return once it works."""
        await self.power_on()
        self.env["FLOWCTL_SERVER"] = self.servers
        await self.ready()

    async def power_on(self) -> None:
        """Start whatever does not run, all at once."""
        for broker in self.brokers:
            if not broker.running:
                await broker.start(wait=False)
        for program in (*self.coordinators, *self.workers):
            if not program.running:
                program.start()

    async def power_off(
        self, programs: Sequence[Program], brokers: Sequence[BrokerProcess]
    ) -> None:
        """Kill all of these at once."""
        for program in programs:
            program.kill()
        await asyncio.gather(*(broker.kill() for broker in brokers))

    async def mend(self) -> None:
        """Heal the network, thaw, set clocks right and start whatever a nemesis has harmed."""
        self.network.heal()
        if self.disk is not None and self.disk.free():
            # A server whose disk was full has given up JetStream until it is started again.
            await self.brokers[-1].stop()
        for broker in self.brokers:
            broker.resume()
        for program in (*self.coordinators, *self.workers):
            program.thaw()
            self.turn(program.name, 0)
        await self.power_on()

    async def close(self) -> None:
        """End everything, and take the disk away."""
        await super().close()
        if self.disk is not None:
            self.disk.close()

    async def whole(self, *, within_s: float) -> ServerInfo:
        """Return what the mended cluster says of itself once every part of it works again."""
        deadline = time.monotonic() + within_s
        for broker in self.brokers:
            if not await broker.wait_ready(max(deadline - time.monotonic(), 0.1)):
                raise AssertionError(f"NATS server {broker.name} is not healthy in {within_s} s")
        return await self.ready(within_s=max(deadline - time.monotonic(), 0.1))

    # -- who leads -------------------------------------------------------------------------------

    async def stream_leader(self, stream: str, *, within_s: float = 10.0) -> BrokerProcess:
        """Return the NATS server that leads a stream."""
        deadline = time.monotonic() + within_s
        async with await connect([b.url for b in self.brokers], name="rounds", wait_s=5.0) as bus:
            while True:
                with contextlib.suppress(HeadraceError):
                    subject = f"$JS.API.STREAM.INFO.{stream}"
                    answer = json.loads((await bus.request(subject, b"", timeout_s=2.0)).data)
                    leader = answer.get("cluster", {}).get("leader", "")
                    for broker in self.brokers:
                        if broker.name == leader:
                            return broker
                if time.monotonic() > deadline:
                    raise AssertionError(f"nobody leads {stream} for {within_s} s")
                await asyncio.sleep(POLL_S)

    async def controller(self) -> Program:
        """Return the coordinator that leads the control plane; the first one if none is known."""
        with contextlib.suppress(Busy, Unavailable, Unreachable):
            async with await self.client(within_s=START_S) as client:
                info = await client.info()
            for program in self.coordinators:
                if program.name == info.controller:
                    return program
        return self.coordinators[0]
