"""A coordinator process without its control plane: the world tells it which shards to lead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from headrace.coordinator.core import Limits
from headrace.coordinator.dispatch import Dispatcher
from headrace.coordinator.dispatch.dispatcher import Settings
from headrace.coordinator.dispatch.lanes import Lanes
from headrace.coordinator.runtime.leading import Shard, Surroundings
from headrace.coordinator.shardlog import ShardLog
from headrace.coordinator.shardlog.jetstream import JetStreamLog
from headrace.errors import HeadraceError, Unreachable
from support.sim.bus import SimBus
from support.sim.net import SimClock
from support.sim.plans import HANDLER

if TYPE_CHECKING:
    from support.sim.world import World

UPKEEP_S = 0.25
LEASE_MS = 1_500


class SimShard(Shard):
    """A shard whose log gives up sooner than a real one, so that worlds are short."""

    def _make_log(self) -> ShardLog:
        around = self._around
        return JetStreamLog(
            around.bus,
            self.shard,
            replicas=around.replicas,
            append_timeout_s=0.3,
            resolve_timeout_s=1.5,
            take_timeout_s=4.0,
        )


class SimCoordinator:
    """One life of a coordinator."""

    def __init__(self, world: World, name: str, life: int, skew_ms: int) -> None:
        self.world, self.name, self.life = world, name, life
        self.process = world.process(f"{name}.{life}")
        self.bus = SimBus(world, self.process)
        self.clock = SimClock(self.process)
        self.clock.skew_ms = skew_ms
        self.shards: dict[int, Shard] = {}
        self.wanted: dict[int, str] = {}
        self._changed = asyncio.Event()
        self.process.spawn(self._main())

    def tell(self, shard: int, mode: str) -> None:
        """Have it lead (`leading`), follow (`standby`) or leave a shard ("")."""
        self.wanted[shard] = mode
        self.process.call_later(0.0, self._changed.set)

    def kill(self) -> None:
        """It dies, between any two steps."""
        self.process.kill()
        self.bus.close()

    def _surroundings(self, lanes: Lanes) -> Surroundings:
        world = self.world
        dispatcher = Dispatcher(self.bus, self.clock, lanes, Settings(lease_ms=LEASE_MS))  # type: ignore[arg-type]
        self.dispatcher = dispatcher
        dispatcher.share = lambda: world.share
        return Surroundings(
            bus=self.bus,  # type: ignore[arg-type]
            clock=self.clock,
            dispatcher=dispatcher,
            archive=world.archive,
            snapshots=world.snapshots,
            layout=world.layout,
            builtin=frozenset({HANDLER}),
            limits=Limits(),
            coordinator=self.name,
            incarnation=str(self.life),
            replicas=world.log_replicas,
            synced=True,
            log_bytes_max=0,
            inbox_bytes_max=64 * 1024 * 1024,
            snapshot_touches=world.snapshot_touches,
            snapshot_ms=3_000,
            observe=lambda *_: None,
            broken=self._broken,
        )

    def _broken(self, error: BaseException) -> None:
        self.world.violation(f"coordinator {self.process.name} is broken: {error!r}", error)

    async def _main(self) -> None:
        lanes = Lanes(self.bus, self.clock, replicas=1)  # type: ignore[arg-type]
        while True:
            try:
                await lanes.start()
                break
            except (Unreachable, HeadraceError):
                await asyncio.sleep(0.2)
        around = self._surroundings(lanes)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reconcile(around))
            group.create_task(self._upkeep(around.dispatcher))

    async def _reconcile(self, around: Surroundings) -> None:
        """As `CoordinatorServer` does, with the world in place of the control plane."""
        while True:
            self._changed.clear()
            for number, mode in list(self.wanted.items()):
                shard = self.shards.get(number)
                if shard is None:
                    if not mode:
                        continue
                    shard = self.shards[number] = SimShard(number, around)
                await shard.become(mode)
            await self._changed.wait()

    async def _upkeep(self, dispatcher: Dispatcher) -> None:
        generation = self.bus.generation
        while True:
            await asyncio.sleep(UPKEEP_S)
            dispatcher.expire()
            try:
                if self.bus.connected and self.bus.generation != generation:
                    seen = self.bus.generation
                    await dispatcher.lanes.start()
                    generation = seen
                await dispatcher.look_after()
            except HeadraceError:
                continue
