"""A world: coordinators, workers, clients and a broker, all from one seed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from headrace.coordinator.core import ShardState, explain
from headrace.coordinator.runtime.layout import Layout
from support.sim.agreement import Agreement
from support.sim.allowance import OVERDUE, Overdue, allowed
from support.sim.broker import Broker
from support.sim.callers import Callers
from support.sim.chaos import Chaos
from support.sim.clients import SimClient
from support.sim.coordinators import SKEW_MS_MAX, SimCoordinator
from support.sim.extras import Extras
from support.sim.fragile import fragile
from support.sim.functions import APP, Effects
from support.sim.loop import Process, SimLoop, Stuck
from support.sim.net import BROKER, Net
from support.sim.oracle import Oracle
from support.sim.people import People
from support.sim.plans import PlanMaker, drawn
from support.sim.recipe import Recipe
from support.sim.record import Record
from support.sim.stores import SimArchive, SimSnapshots
from support.sim.surroundings import patched
from support.sim.workers import SimWorker

CLOCKS_WRONG = frozenset(("all", "only", "clocks"))
"""Profiles in which clocks may disagree."""
WRONG_S_MAX = 3.0
"""So soon a coordinator has found out that its clock is wrong, and has stopped to write."""
DOOMED_S = 0.5
"""How long who is killed by the recipe stays away."""
HEALED_S = 60.0
"""How long a world may take to finish everything once nothing fails any more."""
LOOK_S = 0.1
FRAGILE = 0.2
"""So many worlds have a run that is hurt by the loss of a worker."""
PATIENCE_MS, FRAGILE_PATIENCE_MS = 2_500, 600
"""How long a lost worker is waited for; the latter where a run is hurt by its loss."""
COORDINATORS = ("c0", "c1", "c2")
ABLE = "w1"
WORKERS = {"w0": (), "w1": ("gpu",), "w2": ("gpu",)}


class Violation(Exception):
    """Something that must hold does not."""


class World:
    """``World(recipe).run()`` returns what was violated: an empty list, if all is well."""

    def __init__(self, recipe: Recipe | int, *, story: bool = False) -> None:
        self.recipe = recipe = Recipe(recipe) if isinstance(recipe, int) else recipe
        seed = self.seed = recipe.seed
        self.rng = random.Random(seed)
        """What happens while the world lives."""
        self.shape = random.Random(f"shape of {seed}")
        """What there is at all: the same, whatever is left out."""
        self.tally: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        """What it is made of (`features`), and how often."""
        """What really befell this world, and how often."""
        self.parts: list[str] = []
        """What could be left out of it."""
        self.story: list[str] | None = [] if story else None
        self.violations: list[str] = []
        self.loop = SimLoop()
        self.net = Net(self.rng, self.tally)
        self.broker = Broker(self)
        self.healed = False
        self.steps_at_heal: dict[str, int] = {}
        """Process -> steps of its first life until then."""
        self._lives = 0
        rng = self.shape
        self.chaos = Chaos(self)
        self.profile = self.chaos.profile
        self.layout = Layout(journal=rng.choice([1, 2, 2, 3]), snapshot=0, memory=0)
        self.log_replicas = rng.choice([1, 3])
        self.snapshot_touches = rng.choice([5, 20, 60])
        self.part_bytes_max = rng.choice([300, 2_000, 512 * 1024])
        self.segment_bytes = rng.choice([600, 256 * 1024])
        self.archive, self.snapshots = SimArchive(self), SimSnapshots(self)
        self.record, self.effects = Record(self), Effects(self)
        self.callers = Callers(seed)
        self.oracle = Oracle(self)
        self.agreement = Agreement(self)
        self.coordinators: dict[str, SimCoordinator] = {}
        self.workers: dict[str, SimWorker] = {}
        self.extras = Extras(seed, skewed=self.clocks_wrong)
        self._mishaps = random.Random(f"mishaps of {seed}")
        hurt = random.Random(f"loss of {seed}").random() < FRAGILE
        self.patience_ms = FRAGILE_PATIENCE_MS if hurt else PATIENCE_MS
        self.forgotten = self._mishaps.choice([0.0, 0.0, 0.5])
        """How many releases of keys are lost for good, as after a bug: audits find them out."""
        self._peers: tuple[str, ...] = ()
        self._led: dict[int, str] = {}
        """Shard -> the life that led it last."""
        self._controller = ""

    # -- the whole -----------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Live through the world; return what was violated."""
        with allowed(), patched(self):
            self._outside = Process(self.loop, "outside").context
            asyncio.set_event_loop(self.loop)
            try:
                self.loop.run_until_complete(self._live())
            except Violation:
                pass
            except Stuck as error:
                self.violations.append(str(error))
            except Overdue as error:
                self.violations.append(f"[{self.loop.now_s:.3f} s] {OVERDUE}: {error}")
                self.tell(f"VIOLATION {self.violations[-1]}")
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
        rng = self.shape
        self.client = SimClient(self)
        coordinators = COORDINATORS[: rng.choice([1, 2, 2, 3, 3])]
        self._peers = tuple(name for name in coordinators if self.takes_part(name))
        for name in self._peers or COORDINATORS[:1]:
            self.start_coordinator(name)
        workers = list(WORKERS)[: rng.choice([2, 2, 3])]
        for name in workers:
            # Somebody must be able to run every step.
            if name == ABLE or self.takes_part(name):
                self.start_worker(name)
        until_s = rng.choice([3.0, 5.0, 8.0])
        maker = PlanMaker(
            rng,
            keys=rng.random() < 0.6,
            jobs=rng.random() < 0.5,
            sagas=rng.random() < 0.4,
            generations=rng.choice([0, 0, 1, 1, 2]),
            locks=random.Random(f"locks {self.seed}") if self.seed % 4 == 3 else None,
            extras=self.extras,
        )
        plans = [maker.plan(f"p{number}") for number in range(rng.randint(1, 3))]
        for number in range(rng.randint(2, 6)):
            plan = rng.choice(plans)
            name = self._name(number)
            at_s = rng.random() * until_s * 0.7
            if self.takes_part(f"run-{number}"):
                self.tell(f"{name} will be of plan {plan.name}")
                self.client.start(name, plan, at_s)
        if rng.random() < 0.2 and self.takes_part("schedule"):
            self._schedule(until_s)
        if self.patience_ms < PATIENCE_MS and self.takes_part("fragile"):
            lost = random.Random(f"fragile {self.seed}")
            self.client.start("fragile", fragile(lost), lost.random() * until_s * 0.4)
        self.people = People(self.client, self.extras.rng, until_s)
        self.people.start()
        self.callers.start(self.client, until_s)
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
        letters = self.shape.choices("abcdefghijklmnopqrstuvwxyz", k=2)
        return f"{''.join(letters)}-r{number}"

    def _schedule(self, until_s: float) -> None:
        """Somebody wants runs to begin by themselves."""
        rng = self.shape
        maker = PlanMaker(
            rng, keys=False, jobs=False, patient=False, nodes_max=2, extras=self.extras
        )
        plan, name = maker.plan("scheduled"), self._name(0) + "-s"
        self.tell(f"schedule {name}: {drawn(plan)}")
        self.client.start_schedule(name, plan, rng.random() * until_s * 0.3, until_s)

    def takes_part(self, part: str) -> bool:
        """Note something that could be left out; tell whether it is there."""
        self.parts.append(part)
        return part not in self.recipe.omit

    async def _housekeep(self, until_s: float) -> None:
        while self.loop.now_s < until_s:
            await asyncio.sleep(0.5)
            self._look_around()

    def _look_around(self) -> None:
        self.broker.redeliver()
        self._check_errors()
        for one in self.coordinators.values():
            if one.controls and one.process.name != self._controller:
                self.tally["controller-changed"] += bool(self._controller)
                self._controller = one.process.name

    def led(self, shard: int, life: str) -> None:
        """A life of a coordinator has taken a shard."""
        self.tally["shard-moved"] += self._led.get(shard, life) != life
        self._led[shard] = life

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
                self._look_around()
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
        skew_ms = self.rng.choice([0, 0, -40, 60, 500, -500]) if self.clocks_wrong else 0
        self.tally["clock-skewed"] += skew_ms != 0
        return skew_ms

    @property
    def clocks_wrong(self) -> bool:
        """Clocks of this world may disagree."""
        return self.profile in CLOCKS_WRONG

    def set_clock(self, one: Any, skew_ms: int) -> None:
        """Set a process's clock."""
        kind = "clock-forward" if skew_ms > one.clock.skew_ms else "clock-back"
        self.tally[kind] += 1
        self.tell(f"   a clock shows {skew_ms - one.clock.skew_ms} ms more")
        one.clock.skew_ms = skew_ms
        if isinstance(one, SimCoordinator):
            wrong = abs(skew_ms) > SKEW_MS_MAX
            one.wrong_since_s = min(one.wrong_since_s, self.loop.now_s) if wrong else float("inf")

    def logs(self, name: str, subject: str) -> None:
        """A process writes to a stream: of a log only if its clock can be trusted."""
        one = self.coordinators.get(name)
        if one is None or not self.chaos.clocks_alone or not subject.startswith("headrace.log."):
            return
        if self.loop.now_s > one.wrong_since_s + WRONG_S_MAX:
            self.violation(
                f"{one.process.name} writes to {subject} with a clock that is "
                f"{one.clock.skew_ms} ms off since {one.wrong_since_s:.3f} s"
            )

    def parts_of_the_net(self) -> list[str]:
        """Return the names of all that can be parted from each other."""
        return [*sorted(self.coordinators), *sorted(self.workers), self.client.bus.name, BROKER]

    def start_coordinator(self, name: str) -> None:
        """Start a coordinator in a new life."""
        old = self.coordinators.get(name)
        if old is not None and old.process.alive:
            return
        self._lives += 1
        peers = self._peers or (name,)
        one = self.coordinators[name] = SimCoordinator(
            self, name, self._lives, peers=peers, skew_ms=self._skew_ms()
        )
        self._begun(one, first=old is None)

    def _begun(self, one: SimCoordinator | SimWorker, *, first: bool) -> None:
        self.tell(f"{one.process.name} starts")
        self.tally["restarted"] += not first
        if first and one.name == self.recipe.kill[0]:
            self.doom(one, self.recipe.kill[1], DOOMED_S)

    def kill_coordinator(self, one: SimCoordinator) -> None:
        """SIGKILL."""
        self._killed(one.process)
        one.kill()

    def kill_worker(self, one: SimWorker) -> None:
        """SIGKILL."""
        self._killed(one.process)
        one.kill()

    def _killed(self, process: Process) -> None:
        if process.alive:
            self.tell(f"{process.name} is killed")
            self.tally["killed"] += 1

    def doom(self, one: SimCoordinator | SimWorker, steps: int, pause_s: float) -> None:
        """Kill a process right before one of its coming steps; it starts again after a pause."""
        start = self.start_coordinator if isinstance(one, SimCoordinator) else self.start_worker

        def dying() -> None:
            if self.healed:
                return
            self.tell(f"{one.process.name} is killed at step {one.process.steps}")
            self.tally["killed-at-step"] += 1
            one.kill()
            self.later(pause_s, start, one.name)

        one.process.die_at(one.process.steps + steps, dying)

    def believe(self, name: str, shard: int, led: bool | None) -> None:
        """Have a coordinator act on an old view of a shard; None: on the newest one again."""
        one = self.coordinators[name]
        if one.process.alive:
            words = {True: "takes itself for the owner of", False: "does not know that it owns"}
            self.tell(f"{one.process.name} {words.get(led, 'learns who owns')} shard {shard}")
            one.believe(shard, led)

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
            capabilities=WORKERS[name] + ((APP.capability,) if self.callers.there else ()),
            slots=self.rng.choice([1, 2, 4]),
            skew_ms=self._skew_ms(),
        )
        self._begun(self.workers[name], first=old is None)

    def forgets(self, subject: str, payload: bytes) -> bool:
        """Tell whether a message between shards is confirmed and comes to nothing."""
        if self.healed or not self.forgotten or not subject.startswith("headrace.peer."):
            return False
        if b"release:" not in payload or self._mishaps.random() >= self.forgotten:
            return False
        self.tell(f"forgotten: {payload!r}")
        self.tally["release-forgotten"] += 1
        return True

    # -- the end of faults ---------------------------------------------------------------------

    def _heal(self) -> None:
        """Nothing fails from here on."""
        self.tell("** healed")
        for process in reversed(self.loop.processes):
            self.steps_at_heal[process.name.partition(".")[0]] = process.steps
        self.healed = True
        self.net.calm()
        self.net.walls.clear()
        self.archive.trouble = self.snapshots.trouble = self.snapshots.tears = 0.0
        self.broker.full, self.broker.disk_s = False, 0.0
        for stream in self.broker.streams.values():
            stream.full, stream.silent_until_s = False, 0.0
        for name, one in sorted(self.coordinators.items()):
            if one.stopping:
                one.kill()
            self.start_coordinator(name)
            if one.server is not None:
                for shard in list(one.server.control.beliefs):
                    one.believe(shard, None)
        for name in sorted(self.workers):
            self.start_worker(name)
        for anybody in (*self.coordinators.values(), *self.workers.values(), self.client):
            anybody.clock.skew_ms = 0
        for one in self.coordinators.values():
            one.wrong_since_s = float("inf")
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

    def _clean_up(self) -> None:
        self.story = None if self.story is None else list(self.story)
        told, self.story = self.story, None
        found = list(self.violations)
        for bus in list(self.broker.buses):
            bus.connected = False
        with contextlib.suppress(Stuck, Overdue):
            self.loop.shut_down()
        asyncio.set_event_loop(None)
        self.story, self.violations = told, found
