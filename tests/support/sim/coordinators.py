"""A coordinator process: the real server and its control plane, with the world's stores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec

from headrace.config import Config
from headrace.config import Coordinator as Settings
from headrace.coordinator.control import Cadence, ControlOptions, ControlPlane, RegistryPolicy
from headrace.coordinator.control.raft import RaftTimings
from headrace.coordinator.core import Limits, ParkingPolicy
from headrace.coordinator.dispatch import Dispatcher
from headrace.coordinator.dispatch.dispatcher import Settings as DispatchSettings
from headrace.coordinator.dispatch.lanes import Lanes
from headrace.coordinator.runtime import parker
from headrace.coordinator.runtime.leading import Shard
from headrace.coordinator.runtime.observe import Observer
from headrace.coordinator.runtime.server import CoordinatorServer
from headrace.coordinator.runtime.surroundings import Surroundings
from headrace.coordinator.shardlog import ShardLog
from headrace.coordinator.shardlog.jetstream import JetStreamLog
from headrace.errors import HeadraceError, Unreachable
from headrace.messages import subjects
from headrace.telemetry import CoordinatorMetrics, new_registry
from support.sim.bus import SimBus
from support.sim.net import SimClock
from support.sim.plans import HANDLER
from support.sim.stores import CoordinatorArchive, CoordinatorSnapshots

if TYPE_CHECKING:
    from support.sim.world import World

LEASE_MS = 1_500
SKEW_MS_MAX = 5_000
TIMINGS = RaftTimings(election_min_s=0.4, election_max_s=0.8, append_period_s=0.12, fallback_s=1.0)
CADENCE = Cadence(heartbeat_s=0.3, decide_s=0.1)
_METRICS = CoordinatorMetrics(new_registry())
"""Nobody reads them: one for all worlds."""
parker.POLICY = ParkingPolicy(free=0, round_ms=100, near_ms=0)
# Worlds are small and short: whatever waits is parked soon.


class SimShard(Shard):
    """A shard whose log gives up sooner than a real one, so that worlds are short."""

    def _make_log(self) -> ShardLog:
        found = super()._make_log()
        assert isinstance(found, JetStreamLog)
        found._append_timeout_s, found._resolve_timeout_s, found._take_timeout_s = 0.3, 1.5, 4.0
        return found


class SimControl(ControlPlane):
    """The real control plane, at half its pace; its process may hold an old view for a while."""

    def __init__(self, *args: Any, **options: Any) -> None:
        set_by_server: ControlOptions = options["options"]
        registry = RegistryPolicy(coordinator_expire_s=4 * CADENCE.heartbeat_s)
        options["options"] = msgspec.structs.replace(
            set_by_server,
            policy=msgspec.structs.replace(set_by_server.policy, registry=registry),
            cadence=CADENCE,
            timings=TIMINGS if len(options["peers"]) > 1 else None,
        )
        super().__init__(*args, **options)
        self.beliefs: dict[int, bool] = {}
        """What it takes for true of a shard, whatever the controller says: led here, or not."""

    @property
    def owned(self) -> dict[int, int]:
        """See `ControlPlane`."""
        told = super().owned
        for shard, led in self.beliefs.items():
            if led:
                told.setdefault(shard, 0)
            else:
                told.pop(shard, None)
        return told


class _Unwatched(Observer):
    """Counts nothing."""

    def stalled(self, late_s: float) -> None:
        """See `Observer`."""

    def state(self, server: CoordinatorServer) -> None:
        """See `Observer`."""


class SimServer(CoordinatorServer):
    """The real server: election, registry, assignments, skew, replies; other stores and limits."""

    control: SimControl

    def __init__(self, one: SimCoordinator, peers: tuple[str, ...]) -> None:
        world = self._world = one.world
        settings = Settings(
            id=one.name,
            peers=peers,
            shards_journal=world.layout.journal,
            shards_snapshot=0,
            shards_memory=0,
            clock_skew_ms_max=SKEW_MS_MAX,
            retention_days=0.0,
        )
        super().__init__(
            cast("Any", one.bus), Config(coordinator=settings), metrics=_METRICS, clock=one.clock
        )
        self._one = one
        self.observer = _Unwatched(_METRICS)

    async def _start(self) -> Surroundings:
        world, one = self._world, self._one
        lanes = Lanes(self.bus, self.clock, replicas=1, new_secret=str)
        while True:
            try:
                await lanes.start()
                break
            except (Unreachable, HeadraceError):
                await asyncio.sleep(0.2)
        self.archive = CoordinatorArchive(world.archive, one.bus)
        self.dispatcher = Dispatcher(
            self.bus, self.clock, lanes, DispatchSettings(lease_ms=LEASE_MS)
        )
        self.dispatcher.share = self.census.share
        await self.skew.measure()
        return Surroundings(
            bus=self.bus,
            clock=self.clock,
            dispatcher=self.dispatcher,
            archive=self.archive,
            snapshots=CoordinatorSnapshots(world.snapshots, one.bus),
            layout=self.layout,
            builtin=frozenset({HANDLER}),
            limits=Limits(),
            coordinator=one.name,
            incarnation=str(one.life),
            replicas=world.log_replicas,
            synced=True,
            log_bytes_max=0,
            inbox_bytes_max=64 * 1024 * 1024,
            backlog_ms=250,
            snapshot_touches=world.snapshot_touches,
            snapshot_ms=3_000,
            observe=lambda *_: None,
            respond=self.replies.respond,
            skewed=self.skew.note,
            views=self.control,
            incoming=self._incoming() if world.extras.has("events") else None,
            broken=one.broken,
        )

    async def _broker_ms(self) -> int:
        return (await self.bus.js.stream_info(subjects.TASK_STREAM, timeout_s=1.0)).time_ms

    async def _sweep_blobs(self) -> None:
        """There is no bucket of large values."""


class SimCoordinator:
    """One life of a coordinator."""

    def __init__(
        self, world: World, name: str, life: int, *, peers: tuple[str, ...], skew_ms: int
    ) -> None:
        self.world, self.name, self.life = world, name, life
        self.process = world.process(f"{name}.{life}")
        self.bus = SimBus(world, self.process, name)
        self.clock = SimClock(self.process)
        self.clock.skew_ms = skew_ms
        self._peers = peers
        self.wrong_since_s = float("inf")
        """Since when its clock has been off by more than an owner's may be."""
        self.stopping = False
        """It was sent SIGTERM; a frozen process ends only once it is thawed."""
        self.server: SimServer | None = None
        self._task = self.process.spawn(self._main())

    @property
    def shards(self) -> dict[int, Shard]:
        """The shards that it leads, keeps warm, or has left."""
        return self.server.shards if self.server is not None else {}

    @property
    def controls(self) -> bool:
        """It is the elected controller, as far as it knows."""
        server = self.server
        return self.process.alive and server is not None and server.control.is_controller

    def believe(self, shard: int, led: bool | None) -> None:
        """Have it act on an old view of a shard; None: on the newest one again."""
        server = self.server
        if server is None or not self.process.alive:
            return
        if led is None:
            server.control.beliefs.pop(shard, None)
        else:
            server.control.beliefs[shard] = led
        self.process.call_later(0.0, server._changed.set)

    def kill(self) -> None:
        """It dies, between any two steps."""
        self.process.kill()
        self.bus.close()

    def stop(self) -> None:
        """SIGTERM: it says good-bye, gives its shards up in order, and ends."""
        if not self.stopping:
            self.stopping = True
            self.process.call_later(0.0, self._task.cancel)

    def broken(self, error: BaseException) -> None:
        """What nobody expected has happened in it."""
        self.world.violation(f"coordinator {self.process.name} is broken: {error!r}", error)

    async def _main(self) -> None:
        self.server = SimServer(self, self._peers)
        try:
            await self.server.run()
        except asyncio.CancelledError:
            if self.stopping:
                self.kill()
            raise
