"""What each kind of fault does to a world; most return what ends it again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from support.sim.instances import DISPATCHED
from support.sim.net import BROKER, CONTROL

if TYPE_CHECKING:
    from support.sim.broker import Stream
    from support.sim.bus import SimBus
    from support.sim.coordinators import SimCoordinator
    from support.sim.loop import Process
    from support.sim.workers import SimWorker
    from support.sim.world import World

Undo: TypeAlias = "Callable[[], None] | None"
STEPS_MAX = 400
"""How many steps a process may still do that is to die at one of them."""
JUMPS_MS = (50, 300, 2_000, 4_000, 8_000)
"""Past 5 s a coordinator owns nothing."""
PAUSES_S = (0.02, 0.3, 1.0, 3.0)
ROT_S = 0.4
LOOK_S = 0.002
LOOKS_MAX = 500
BUSY_LOOK_S = 0.05
BUSY_LOOKS_MAX = 60
LOST_S = 3.5
"""Who comes back so late is not waited for where that matters (`World.patience_ms`)."""
"""Tasks are in the broker for some milliseconds only."""


class Mishaps:
    """Does faults to one world. *rng* is the fault's own."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _coordinator(self, rng: random.Random) -> SimCoordinator:
        return self._world.coordinators[rng.choice(sorted(self._world.coordinators))]

    def _worker(self, rng: random.Random) -> SimWorker:
        return self._world.workers[rng.choice(sorted(self._world.workers))]

    def _controller(self, rng: random.Random) -> SimCoordinator:
        for one in self._world.coordinators.values():
            if one.controls:
                return one
        return self._coordinator(rng)

    # -- processes -----------------------------------------------------------------------------

    def _kill(self, one: SimCoordinator) -> Undo:
        self._world.kill_coordinator(one)
        return lambda: self._world.start_coordinator(one.name)

    def kill_coordinator(self, rng: random.Random) -> Undo:
        """SIGKILL, and a new life later."""
        return self._kill(self._coordinator(rng))

    def kill_controller(self, rng: random.Random) -> Undo:
        """SIGKILL to the one that was elected."""
        return self._kill(self._controller(rng))

    def kill_coordinator_at(self, rng: random.Random) -> Undo:
        """SIGKILL right before a step to come: an await, or something that it sends."""
        self._at(rng, self._coordinator(rng))
        return None

    def kill_worker(self, rng: random.Random) -> Undo:
        """SIGKILL, and a new life later."""
        one = self._worker(rng)
        self._world.kill_worker(one)
        return lambda: self._world.start_worker(one.name)

    def lose_worker(self, rng: random.Random, patience: int = BUSY_LOOKS_MAX) -> Undo:
        """SIGKILL to a worker in the middle of a job, or of what may run once, if there is one
        soon; it comes back when it is waited for no more."""
        world = self._world
        busy = sorted(self._at_risk())
        if world.healed:
            return None
        if not busy and patience:
            world.later(BUSY_LOOK_S, self.lose_worker, rng, patience - 1)
            return None
        one = world.workers[rng.choice(busy or sorted(world.workers))]
        world.kill_worker(one)
        world.later(LOST_S, world.start_worker, one.name)
        return None

    def _at_risk(self) -> Iterator[str]:
        """Yield the workers in the middle of something that should not be begun twice."""
        world = self._world
        for execution in world.record.executions:
            run = world.oracle.run(execution.run)
            step = run.instances[execution.step] if run is not None else None
            if step is None or (step.state, step.attempt) != (DISPATCHED, execution.attempt):
                continue
            job = step.parent is not None and getattr(step.parent.node, "affinity", False)
            name, _, _ = execution.worker.partition(".")
            one = world.workers[name]
            if (job or execution.once) and one.process.alive and one.worker == execution.worker:
                yield name

    def kill_worker_at(self, rng: random.Random) -> Undo:
        """SIGKILL right before a step to come."""
        self._at(rng, self._worker(rng))
        return None

    def _at(self, rng: random.Random, one: SimCoordinator | SimWorker) -> None:
        self._world.doom(one, rng.randint(1, STEPS_MAX), rng.choice(PAUSES_S))

    def stop_coordinator(self, rng: random.Random) -> Undo:
        """SIGTERM, and a new life later: what a rolling restart does."""
        world, one = self._world, self._coordinator(rng)
        if one.process.alive:
            world.tally["stopped"] += 1
            one.stop()
        return lambda: world.start_coordinator(one.name)

    def drain_worker(self, rng: random.Random) -> Undo:
        """SIGTERM, and a new life later."""
        world, one = self._world, self._worker(rng)
        world.tally["stopped"] += 1
        one.drain()
        return lambda: world.start_worker(one.name)

    def _freeze(self, process: Process) -> Undo:
        world = self._world
        if not process.alive:
            return None
        world.tally["frozen"] += 1
        process.freeze()

        def thaw() -> None:
            world.tally["thawed"] += process.alive and bool(process.held)
            process.thaw()

        return thaw

    def freeze_coordinator(self, rng: random.Random) -> Undo:
        """SIGSTOP, SIGCONT."""
        return self._freeze(self._coordinator(rng).process)

    def freeze_controller(self, rng: random.Random) -> Undo:
        """SIGSTOP to the one that was elected, SIGCONT."""
        return self._freeze(self._controller(rng).process)

    def freeze_worker(self, rng: random.Random) -> Undo:
        """SIGSTOP, SIGCONT."""
        return self._freeze(self._worker(rng).process)

    # -- who owns what -------------------------------------------------------------------------

    def _believe(self, names: list[str], shard: int, *, led: bool) -> Undo:
        world = self._world
        for name in names:
            world.believe(name, shard, led)

        def learn() -> None:
            for name in names:
                world.believe(name, shard, None)

        return learn

    def old_view(self, rng: random.Random) -> Undo:
        """A coordinator acts on an old view: it leads what it should not, or does not yet."""
        self._world.tally["old-view"] += 1
        shard, name = rng.choice(list(self._world.layout.shards)), self._coordinator(rng).name
        return self._believe([name], shard, led=rng.random() < 0.7)

    def two_owners(self, rng: random.Random) -> Undo:
        """Every coordinator takes itself for the owner of a shard."""
        self._world.tally["two-owners"] += len(self._world.coordinators) > 1
        shard = rng.choice(list(self._world.layout.shards))
        return self._believe(sorted(self._world.coordinators), shard, led=True)

    # -- the network ---------------------------------------------------------------------------

    def _cut(self, bus: SimBus) -> Undo:
        self._world.tally["cut"] += bus.connected
        bus.cut()
        return bus.mend

    def cut_coordinator(self, rng: random.Random) -> Undo:
        """Its connection breaks, and is made again."""
        return self._cut(self._coordinator(rng).bus)

    def cut_controller(self, rng: random.Random) -> Undo:
        """The connection of the one that was elected breaks."""
        return self._cut(self._controller(rng).bus)

    def cut_worker(self, rng: random.Random) -> Undo:
        """Its connection breaks, and is made again."""
        return self._cut(self._worker(rng).bus)

    def _part(self, pairs: list[tuple[str, str]]) -> Callable[[], None]:
        world = self._world
        world.tally["partition"] += 1
        world.tell(f"   no way between {', '.join('>'.join(pair) for pair in pairs)}")
        for pair in pairs:
            world.net.part(*pair, 1)

        def join() -> None:
            for pair in pairs:
                world.net.part(*pair, -1)

        return join

    def partition(self, rng: random.Random) -> Undo:
        """Nothing gets from one part to another, in one direction or both; nobody is told."""
        one, other = rng.sample(self._world.parts_of_the_net(), 2)
        return self._part([(one, other), (other, one)][: rng.choice([1, 2, 2])])

    def split(self, rng: random.Random) -> Undo:
        """The network falls into two halves; the broker answers in one of them."""
        names = [name for name in self._world.parts_of_the_net() if name != BROKER]
        away = rng.sample(names, rng.randint(1, len(names)))
        near = [name for name in names if name not in away] + [BROKER]
        return self._part([pair for a in away for b in near for pair in ((a, b), (b, a))])

    def no_control(self, rng: random.Random) -> Undo:
        """A coordinator does not hear of the control plane, or is not heard there, or both; logs,
        workers and clients it reaches as ever."""
        name = self._coordinator(rng).name
        deaf, mute = (CONTROL, name), (name, CONTROL)
        join = self._part(rng.choice([[deaf], [mute], [deaf, mute], [deaf, mute]]))
        # It takes some time until somebody else has its shards, and some more until it comes back.
        self._world.later(rng.choice([1.0, 6.0, 6.0]), join)
        return None

    def net(self, rng: random.Random) -> Undo:
        """Some mix of troubles with messages."""
        net = self._world.net
        net.loss = rng.choice([0.0, 0.0, 0.02, 0.1])
        net.copies = rng.choice([0.0, 0.02, 0.1])
        net.slow = rng.choice([0.0, 0.02, 0.1])
        net.failures = rng.choice([0.0, 0.05, 0.15, 0.3])
        net.lag = rng.choice([0.0, 0.1, 0.5])
        net.in_order = rng.random() < 0.6
        return net.calm

    def loss(self, rng: random.Random) -> Undo:
        """Messages are lost."""
        self._world.net.loss = rng.choice([0.05, 0.2, 0.6])
        return self._world.net.calm

    def copies(self, rng: random.Random) -> Undo:
        """Messages and requests come twice."""
        self._world.net.copies = rng.choice([0.1, 0.5])
        return self._world.net.calm

    def delays(self, rng: random.Random) -> Undo:
        """Messages are late, and overtake each other."""
        net = self._world.net
        net.slow, net.in_order = rng.choice([0.1, 0.3]), False
        return net.calm

    def reorder(self, rng: random.Random) -> Undo:
        """Messages overtake each other, and few are late."""
        net = self._world.net
        net.in_order, net.slow = False, rng.choice([0.0, 0.02])
        return net.calm

    def requests(self, rng: random.Random) -> Undo:
        """What became of a request is not known: it is lost, its answer is, or it comes late."""
        net = self._world.net
        net.failures, net.lag = rng.choice([0.15, 0.4]), rng.choice([0.0, 0.5])
        return net.calm

    # -- the broker ----------------------------------------------------------------------------

    def _stream(self, rng: random.Random, name: str = "") -> Stream | None:
        found = [s for key, s in sorted(self._world.broker.streams.items()) if name in key]
        return rng.choice(found) if found else None

    def silence(self, rng: random.Random) -> Undo:
        """A stream loses its leader for a while."""
        stream = self._stream(rng)
        if stream is not None:
            stream.silent_until_s = self._world.loop.now_s + rng.choice(PAUSES_S)
        return None

    def broker_restart(self, rng: random.Random) -> Undo:
        """Every connection breaks, and is made again."""
        return self._restart(rng, forget=False)

    def broker_loss(self, rng: random.Random, patience: int = LOOKS_MAX) -> Undo:
        """The broker loses what it has in memory, if possible while that is something."""
        world = self._world
        if world.healed:
            return None
        if patience and not world.broker.holds_in_memory():
            world.later(LOOK_S, self.broker_loss, rng, patience - 1)
            return None
        return self._restart(rng, forget=True)

    def _restart(self, rng: random.Random, *, forget: bool) -> Undo:
        world = self._world
        world.tally["broker-restart"] += 1
        world.broker.restart(forget=forget)
        for bus in list(world.broker.buses):
            world.later(0.05 + rng.random() * 0.5, bus.mend)
        return None

    def full_stream(self, rng: random.Random) -> Undo:
        """A log is as large as it may be, for a while."""
        stream = self._stream(rng, "LOG")
        if stream is None:
            return None
        stream.full = True

        def room() -> None:
            self._world.tally["disk-freed"] += 1
            stream.full = False

        return room

    def full_disk(self, _: random.Random) -> Undo:
        """Nothing that lasts can be stored, for a while."""
        broker = self._world.broker
        broker.full = True

        def room() -> None:
            self._world.tally["disk-freed"] += 1
            broker.full = False

        return room

    def slow_disk(self, rng: random.Random) -> Undo:
        """Each write waits for a slow disk, and for those before it."""
        broker = self._world.broker
        broker.disk_s = rng.choice([0.05, 0.3, 1.0])

        def well() -> None:
            broker.disk_s = 0.0

        return well

    # -- stores and clocks ---------------------------------------------------------------------

    def archive(self, rng: random.Random) -> Undo:
        """The archive fails, before or after it did what was asked."""
        archive = self._world.archive
        archive.trouble = rng.choice([0.3, 1.0])

        def well() -> None:
            archive.trouble = 0.0

        return well

    def snapshots(self, rng: random.Random) -> Undo:
        """The store of snapshots fails, and tears what it is given."""
        store = self._world.snapshots
        store.trouble = rng.choice([0.0, 0.2, 1.0])
        store.tears = rng.choice([0.3, 1.0])

        def well() -> None:
            store.trouble = store.tears = 0.0

        return well

    def rot(self, rng: random.Random) -> Undo:
        """The newest snapshot of a shard is damaged, once there is one; then it may be needed."""
        world = self._world
        if world.healed:
            return None
        if not world.snapshots.damage(rng):
            world.later(ROT_S, self.rot, rng)
        elif rng.random() < 0.7:
            return self.kill_coordinator(rng)
        return None

    def clock_forward(self, rng: random.Random) -> Undo:
        """A clock is set forwards."""
        return self._jump(rng, 1)

    def clock_back(self, rng: random.Random) -> Undo:
        """A clock is set back."""
        return self._jump(rng, -1)

    def _jump(self, rng: random.Random, sign: int) -> Undo:
        world = self._world
        everybody = [*world.coordinators.values(), *world.workers.values(), world.client]
        one, by_ms = rng.choice(everybody), sign * rng.choice(JUMPS_MS)
        world.set_clock(one, one.clock.skew_ms + by_ms)
        return None


MISHAPS: dict[str, Callable[[Mishaps, random.Random], Undo]] = {
    name.replace("_", "-"): deed
    for name, deed in vars(Mishaps).items()
    if callable(deed) and not name.startswith("_")
}
