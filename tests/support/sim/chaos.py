"""Faults: what may befall a world, when, and what ends it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from support.sim.world import World

WORKERS_SAFE = frozenset(("calm", "owners", "stores", "broker"))
"""Profiles in which no worker is ever lost, or cut off while others are not."""
PAUSES_S = (0.02, 0.1, 0.3, 0.8, 2.0, 4.0)


class Chaos:
    """Draws faults and does them."""

    PROFILES: ClassVar[dict[str, tuple[str, ...]]] = {
        "calm": (),
        "owners": ("move", "move", "two-owners", "kill-coordinator"),
        "workers": ("kill-worker", "freeze-worker", "drain-worker", "kill-worker", "move"),
        "broker": ("silence", "silence", "broker-restart", "broker-loss", "move", "full"),
        "cuts": ("cut-coordinator", "cut-worker", "freeze-coordinator", "move", "two-owners"),
        "stores": ("archive", "snapshots", "rot", "kill-coordinator", "move"),
        "net": ("net", "net", "move", "kill-worker"),
    }
    """What may happen in a world; "all" is everything."""

    def __init__(self, world: World, profile: str) -> None:
        self._world, self._rng = world, world.rng
        self.profile = profile
        if profile == "all":
            names = sorted({name for faults in self.PROFILES.values() for name in faults})
            self._faults: tuple[str, ...] = (*names, "clock")
        else:
            self._faults = self.PROFILES[profile]

    @classmethod
    def draw(cls, rng: random.Random) -> str:
        """Return a profile's name."""
        return rng.choice([*cls.PROFILES, "all", "all", "all", "owners", "cuts"])

    def plan(self, until_s: float) -> None:
        """Let some faults happen before *until_s*."""
        if not self._faults:
            return
        rng = self._rng
        for _ in range(rng.randint(1, 9)):
            name = rng.choice(self._faults)
            self._world.later(0.1 + rng.random() * until_s, self._do, name)

    def _do(self, name: str) -> None:
        if self._world.healed:
            return
        self._world.tell(f"** {name}")
        method: Callable[[], None] = getattr(self, "_" + name.replace("-", "_"))
        method()

    def _end(self, undo: Callable[[], None]) -> None:
        self._world.later(self._rng.choice(PAUSES_S) * (0.5 + self._rng.random()), undo)

    # -- owners --------------------------------------------------------------------------------

    def _move(self) -> None:
        world, rng = self._world, self._rng
        shard = rng.choice(list(world.layout.shards))
        target = rng.choice(sorted(world.coordinators))
        for name in sorted(world.coordinators):
            if name != target and world.modes.get((name, shard)) == "leading":
                after = rng.choice(["", "standby"])
                world.later(rng.choice([0.0, 0.0, 0.05, 1.0]), world.assign, name, shard, after)
        world.later(rng.choice([0.0, 0.0, 0.05, 1.0]), world.assign, target, shard, "leading")

    def _two_owners(self) -> None:
        world = self._world
        shard = self._rng.choice(list(world.layout.shards))
        for name in sorted(world.coordinators):
            world.assign(name, shard, "leading")

    def _kill_coordinator(self) -> None:
        world = self._world
        name = self._rng.choice(sorted(world.coordinators))
        world.kill_coordinator(name)
        self._end(lambda: world.start_coordinator(name))

    def _freeze_coordinator(self) -> None:
        one = self._world.coordinators[self._rng.choice(sorted(self._world.coordinators))]
        one.process.freeze()
        self._end(one.process.thaw)

    def _cut_coordinator(self) -> None:
        bus = self._world.coordinators[self._rng.choice(sorted(self._world.coordinators))].bus
        bus.cut()
        self._end(bus.mend)

    # -- workers -------------------------------------------------------------------------------

    def _kill_worker(self) -> None:
        world = self._world
        name = self._rng.choice(sorted(world.workers))
        world.workers[name].kill()
        self._end(lambda: world.start_worker(name))

    def _freeze_worker(self) -> None:
        process = self._world.workers[self._rng.choice(sorted(self._world.workers))].process
        process.freeze()
        self._end(process.thaw)

    def _cut_worker(self) -> None:
        bus = self._world.workers[self._rng.choice(sorted(self._world.workers))].bus
        bus.cut()
        self._end(bus.mend)

    def _drain_worker(self) -> None:
        world = self._world
        name = self._rng.choice(sorted(world.workers))
        world.workers[name].drain()
        self._end(lambda: world.start_worker(name))

    # -- the broker ----------------------------------------------------------------------------

    def _silence(self) -> None:
        """A stream loses its leader for a while."""
        world = self._world
        streams = [s for name, s in sorted(world.broker.streams.items())]
        if streams:
            stream = self._rng.choice(streams)
            stream.silent_until_s = world.loop.now_s + self._rng.choice(PAUSES_S)

    def _broker_restart(self) -> None:
        self._restart(forget=False)

    def _broker_loss(self) -> None:
        self._restart(forget=True)

    def _restart(self, *, forget: bool) -> None:
        broker = self._world.broker
        broker.restart(forget=forget)
        for bus in list(broker.buses):
            self._world.later(0.05 + self._rng.random() * 0.5, bus.mend)

    def _full(self) -> None:
        world = self._world
        logs = [s for name, s in sorted(world.broker.streams.items()) if "LOG" in name]
        if logs:
            stream = self._rng.choice(logs)
            stream.full = True

            def room() -> None:
                stream.full = False

            self._end(room)

    def _net(self) -> None:
        self._world.net.trouble()
        self._end(self._world.net.calm)

    # -- stores and clocks ---------------------------------------------------------------------

    def _archive(self) -> None:
        archive = self._world.archive
        archive.trouble = self._rng.choice([0.3, 1.0])

        def well() -> None:
            archive.trouble = 0.0

        self._end(well)

    def _snapshots(self) -> None:
        store = self._world.snapshots
        store.trouble = self._rng.choice([0.0, 0.2, 1.0])
        store.tears = self._rng.choice([0.3, 1.0])

        def well() -> None:
            store.trouble = store.tears = 0.0

        self._end(well)

    def _rot(self) -> None:
        self._world.snapshots.damage()

    def _clock(self) -> None:
        """A clock is set, forwards or back."""
        world = self._world
        everybody = [*world.coordinators.values(), *world.workers.values(), world.client]
        one = self._rng.choice(everybody)
        one.clock.skew_ms = self._rng.choice([-2_000, -300, 300, 2_000])
