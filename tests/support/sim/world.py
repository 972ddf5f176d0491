"""A world: coordinators, workers, clients and a broker, all from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from headrace.coordinator.core import ShardState, entries, explain, keys, schedules
from headrace.coordinator.core.requests import schedules as requests_schedules
from headrace.coordinator.dispatch import dispatcher
from headrace.coordinator.runtime import archiver, leading, snapshots
from headrace.coordinator.runtime.layout import Layout
from headrace.coordinator.shardlog import jetstream
from headrace.worker import reporter
from support.sim import schedules as calendar
from support.sim.broker import Broker
from support.sim.chaos import Chaos
from support.sim.clients import SimClient
from support.sim.coordinators import SimCoordinator
from support.sim.loop import Process, SimLoop, Stuck
from support.sim.net import Net
from support.sim.oracle import Oracle
from support.sim.plans import PlanMaker, drawn
from support.sim.record import Record
from support.sim.stores import SimArchive, SimSnapshots
from support.sim.workers import SimWorker

HEALED_S = 60.0
"""How long a world may take to finish everything once nothing fails any more."""
LOOK_S = 0.1
COORDINATORS = ("c0", "c1", "c2")
WORKERS = {"w0": (), "w1": ("gpu",), "w2": ("gpu",)}


class Violation(Exception):
    """Something that must hold does not."""


class World:
    """``World(seed).run()`` returns what was violated: an empty list, if all is well."""

    def __init__(self, seed: int, *, story: bool = False, profile: str = "") -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.story: list[str] | None = [] if story else None
        self.violations: list[str] = []
        self.loop = SimLoop()
        self.net = Net(self.rng)
        self.broker = Broker(self)
        self.healed = False
        self._lives = 0
        rng = self.rng
        self.profile = profile or Chaos.draw(rng)
        self.layout = Layout(journal=rng.choice([1, 2, 2, 3]), snapshot=0, memory=0)
        self.share = 1.0
        self.log_replicas = rng.choice([1, 3])
        self.snapshot_touches = rng.choice([5, 20, 60])
        self.part_bytes_max = rng.choice([300, 2_000, 512 * 1024])
        self.segment_bytes = rng.choice([600, 256 * 1024])
        self.archive, self.snapshots = SimArchive(self), SimSnapshots(self)
        self.record = Record(self)
        self.oracle = Oracle(self)
        self.coordinators: dict[str, SimCoordinator] = {}
        self.workers: dict[str, SimWorker] = {}
        self._mishaps = random.Random(f"mishaps of {seed}")
        self.forgotten = self._mishaps.choice([0.0, 0.0, 0.5])
        """How many releases of keys are lost for good, as after a bug: audits find them out."""
        self.modes: dict[tuple[str, int], str] = {}
        """(coordinator, shard) -> what it was told to do."""
        self.chaos = Chaos(self, self.profile)

    # -- the whole -----------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Live through the world; return what was violated."""
        with self._patched():
            asyncio.set_event_loop(self.loop)
            try:
                self.loop.run_until_complete(self._live())
            except Violation:
                pass
            except Stuck as error:
                self.violations.append(str(error))
            finally:
                self._clean_up()
        return self.violations

    async def _live(self) -> None:
        self._end = self.loop.create_future()
        directing = self.loop.create_task(self._direct())
        await asyncio.wait({directing, self._end}, return_when=asyncio.FIRST_COMPLETED)
        if directing.done():
            directing.result()
        directing.cancel()

    async def _direct(self) -> None:
        rng = self.rng
        self.client = SimClient(self)
        for name in COORDINATORS[: rng.choice([1, 2, 2, 3])]:
            self.start_coordinator(name)
        for name in list(WORKERS)[: rng.choice([2, 2, 3])]:
            self.start_worker(name)
        self._settle_owners()
        until_s = rng.choice([2.0, 4.0, 7.0])
        maker = PlanMaker(
            rng,
            keys=rng.random() < 0.6,
            jobs=rng.random() < 0.5,
            sagas=rng.random() < 0.4,
            generations=rng.choice([0, 0, 1, 1, 2]),
            locks=random.Random(f"locks {self.seed}") if self.seed % 4 == 3 else None,
        )
        plans = [maker.plan(f"p{number}") for number in range(rng.randint(1, 3))]
        for number in range(rng.randint(2, 6)):
            plan = rng.choice(plans)
            name = self._name(number)
            self.tell(f"{name} will be of plan {plan.name}")
            self.client.start(name, plan, rng.random() * until_s * 0.7)
        if rng.random() < 0.2:
            self._schedule(until_s)
        self.client.decide()
        for plan in plans if self.story is not None else ():
            self.tell(drawn(plan))
        self.chaos.plan(until_s)
        self.tell(f"seed {self.seed}: {self.profile}, {len(self.layout.shards)} shards")
        await self._housekeep(until_s)
        self._heal()
        await self._finish()

    def _name(self, number: int) -> str:
        """Return the id of a run; ids that differ in their end alone have one home."""
        letters = self.rng.choices("abcdefghijklmnopqrstuvwxyz", k=2)
        return f"{''.join(letters)}-r{number}"

    def _schedule(self, until_s: float) -> None:
        """Somebody wants runs to begin by themselves."""
        rng = self.rng
        maker = PlanMaker(rng, keys=False, jobs=False, patient=False, nodes_max=2)
        plan, name = maker.plan("scheduled"), self._name(0) + "-s"
        self.tell(f"schedule {name}: {drawn(plan)}")
        self.client.start_schedule(name, plan, rng.random() * until_s * 0.3, until_s)

    async def _housekeep(self, until_s: float) -> None:
        while self.loop.now_s < until_s:
            await asyncio.sleep(0.5)
            self.broker.redeliver()
            self._check_errors()

    async def _finish(self) -> None:
        deadline_s = self.loop.now_s + HEALED_S
        rounds = 0
        while self.client.busy or self.oracle.unfinished() or not self._quiet():
            if self.loop.now_s > deadline_s:
                self.violation(f"not finished {HEALED_S:g} s after the last fault: {self._why()}")
                return
            await asyncio.sleep(LOOK_S)
            rounds += 1
            if rounds % 5 == 0:
                self.broker.redeliver()
            self._check_errors()
        self.oracle.final()

    def _quiet(self) -> bool:
        """Owners lead, and hold nothing that is not logged."""
        for shard in self.layout.shards:
            leaders = [
                one.shards[shard].owner
                for one in self.coordinators.values()
                if shard in one.shards and one.shards[shard].owner is not None
            ]
            if len(leaders) != 1 or leaders[0] is None or not leaders[0].leading.is_set():
                return False
            state = leaders[0].machine.state if leaders[0].machine is not None else None
            if state is None or state.outbox or not leaders[0].settled:
                return False
        return True

    def _check_errors(self) -> None:
        for context in self.loop.errors:
            error = context.get("exception")
            self.violation(f"unhandled: {context.get('message')}: {error!r}", error)

    # -- processes -----------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        """Return a new process."""
        return Process(self.loop, name)

    def later(self, delay_s: float, action: Callable[..., Any], *args: Any) -> None:
        """Let something happen, outside of every process."""
        self.loop.call_at(self.loop.now_s + delay_s, action, *args, context=self._outside)

    def _skew_ms(self) -> int:
        return self.rng.choice([0, 0, -40, 60, 500, -500]) if self.profile == "all" else 0

    def start_coordinator(self, name: str) -> None:
        """Start a coordinator in a new life; it leads what its last life was told to."""
        old = self.coordinators.get(name)
        if old is not None and old.process.alive:
            return
        self._lives += 1
        one = self.coordinators[name] = SimCoordinator(self, name, self._lives, self._skew_ms())
        self.tell(f"{one.process.name} starts")
        for (owner, shard), mode in self.modes.items():
            if owner == name:
                one.tell(shard, mode)

    def kill_coordinator(self, name: str) -> None:
        """SIGKILL."""
        self.tell(f"{self.coordinators[name].process.name} is killed")
        self.coordinators[name].kill()

    def assign(self, name: str, shard: int, mode: str) -> None:
        """Tell a coordinator what to do with a shard."""
        if self.healed:
            return
        self.tell(f"{name} is told: shard {shard} {mode or 'leave'}")
        self.modes[name, shard] = mode
        if self.coordinators[name].process.alive:
            self.coordinators[name].tell(shard, mode)

    def start_worker(self, name: str) -> None:
        """Start a worker in a new life."""
        old = self.workers.get(name)
        if old is not None and not old.gone:
            if not self.healed or not old.leaving:
                return
            old.kill()
        self._lives += 1
        self.workers[name] = SimWorker(
            self,
            name,
            self._lives,
            capabilities=WORKERS[name],
            slots=self.rng.choice([1, 2, 4]),
            skew_ms=self._skew_ms(),
        )
        self.tell(f"{name}.{self._lives} starts")

    def forgets(self, subject: str, payload: bytes) -> bool:
        """Tell whether a message between shards is confirmed and comes to nothing."""
        if self.healed or not self.forgotten or not subject.startswith("headrace.peer."):
            return False
        if b"release:" not in payload or self._mishaps.random() >= self.forgotten:
            return False
        self.tell(f"forgotten: {payload!r}")
        return True

    # -- the end of faults ---------------------------------------------------------------------

    def _settle_owners(self) -> None:
        rng = self.rng
        names = sorted(self.coordinators)
        for shard in self.layout.shards:
            leader = rng.choice(names)
            for name in names:
                standby = "standby" if rng.random() < 0.4 else ""
                self.assign(name, shard, "leading" if name == leader else standby)

    def _heal(self) -> None:
        """Nothing fails from here on."""
        self.tell("** healed")
        self.net.calm()
        self.archive.trouble = self.snapshots.trouble = self.snapshots.tears = 0.0
        for stream in self.broker.streams.values():
            stream.full, stream.silent_until_s = False, 0.0
        for name in sorted(self.coordinators):
            self.start_coordinator(name)
        self._settle_owners()
        self.healed = True
        for name in sorted(self.workers):
            self.start_worker(name)
        for process in self.loop.processes:
            if process.alive and process.frozen:
                process.thaw()
        for bus in list(self.broker.buses):
            bus.mend()

    # -- findings ------------------------------------------------------------------------------

    def violation(self, text: str, error: BaseException | None = None) -> None:
        """Note what must not be, and end the world."""
        if error is not None:
            text += "\n" + "".join(traceback.format_exception(error)[-6:])
        self.violations.append(f"[{self.loop.now_s:.3f} s] {text}")
        self.tell(f"VIOLATION {text}")
        if not self._end.done():
            self._end.set_result(None)

    def tell(self, text: str) -> None:
        """Add to the story, if anybody listens."""
        if self.story is not None:
            self.story.append(f"{self.loop.now_s:9.4f}  {text}")

    def replicas_of(self, shard: int) -> Iterator[tuple[str, ShardState]]:
        """Return every state that follows a shard's log."""
        for one in self.coordinators.values():
            held = one.shards.get(shard)
            if held is None:
                continue
            if held.owner is not None and held.owner.machine is not None:
                yield f"the owner {one.process.name}", held.owner.machine.state
            if held.follower is not None and held.follower.state is not None:
                yield f"the standby {one.process.name}", held.follower.state

    def _why(self) -> str:
        lines = self.oracle.unfinished()
        lines.append(f"users busy: {self.client.busy}, quiet: {self._quiet()}")
        for one in self.coordinators.values():
            for shard in one.shards.values():
                if shard.owner is None or shard.owner.machine is None:
                    continue
                for run in shard.owner.machine.state.runs.values():
                    facts = shard.dispatch.facts() if shard.dispatch is not None else None
                    found = explain(shard.owner.machine.state, run, facts)
                    lines.append(f"{one.name} {run.key}: {found.summary}")
                lines.append(
                    f"{one.name} outbox {list(shard.owner.machine.state.outbox)} "
                    f"settled {shard.owner.settled} leading {shard.owner.leading.is_set()}"
                )
        return "\n    ".join(lines)

    # -- inside --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _patched(self) -> Iterator[None]:
        """Give chance, ids and some limits into the world's hands."""
        rng = self.rng
        state = random.getstate()
        random.seed(self.seed)
        ids = SimpleNamespace(token_hex=lambda size: f"{rng.getrandbits(8 * size):0{2 * size}x}")
        noise = SimpleNamespace(
            urandom=lambda size: rng.getrandbits(8 * size).to_bytes(size, "big")
        )
        with (
            mock.patch.object(leading, "secrets", ids),
            mock.patch.object(jetstream, "os", noise),
            mock.patch.object(leading, "feed", _no_feed),
            mock.patch.object(leading, "PEER_TIMEOUT_S", 0.5),
            mock.patch.object(dispatcher, "RETURN_MS", 2_500),
            mock.patch.object(dispatcher, "UNHELD_MS", 1_000),
            mock.patch.object(keys, "AUDIT_MS", 3_000),
            mock.patch.object(schedules, "calendar", calendar),
            mock.patch.object(requests_schedules, "calendar", calendar),
            mock.patch.object(schedules, "ON_TIME_MS", calendar.ON_TIME_MS),
            mock.patch.object(schedules, "PAUSE_MS", calendar.PAUSE_MS),
            mock.patch.object(entries, "PART_BYTES_MAX", self.part_bytes_max),
            mock.patch.object(archiver, "SEGMENT_BYTES", self.segment_bytes),
            mock.patch.object(snapshots, "COPY_TIMEOUT_S", 3.0),
            mock.patch.object(reporter, "TIMEOUT_S", 1.0),
        ):
            self._outside = Process(self.loop, "outside").context
            handler = _Story(self) if self.story is not None else None
            if handler is not None:
                logging.getLogger("headrace").addHandler(handler)
            try:
                yield
            finally:
                if handler is not None:
                    logging.getLogger("headrace").removeHandler(handler)
                random.setstate(state)

    def _clean_up(self) -> None:
        self.story = None if self.story is None else list(self.story)
        told, self.story = self.story, None
        found = list(self.violations)
        for bus in list(self.broker.buses):
            bus.connected = False
        with contextlib.suppress(Stuck):
            self.loop.shut_down()
        asyncio.set_event_loop(None)
        self.story, self.violations = told, found


async def _no_feed(*_: object) -> None:
    return


class _Story(logging.Handler):
    """Puts what the code logs into the story."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        from support.sim.loop import _current

        process = _current.get(None)
        known = ("shard", "epoch", "reason", "error", "worker", "run", "step", "attempt", "token")
        more = {name: getattr(record, name) for name in known if hasattr(record, name)}
        name = process.name if process is not None else "-"
        self._world.tell(f"{name}: {record.getMessage()} {more or ''}")


def run_seed(seed: int, *, story: bool = False) -> tuple[list[str], list[str]]:
    """Live through one world; return (violations, story)."""
    world = World(seed, story=story)
    violations = world.run()
    told = world.story or []
    del world
    return violations, told
