"""Clients: submit, signal, pause, resume, cancel and look, again and again until answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.errors import Unreachable
from headrace.messages import (
    CancelRun,
    ClientBatch,
    CreateSchedule,
    DeleteSchedule,
    GetExplanation,
    GetHistory,
    GetPlan,
    GetRun,
    HasRuns,
    ListRuns,
    PauseRun,
    PauseSchedule,
    ReplyBatch,
    ResolveStep,
    ResumeRun,
    ScheduleSpec,
    SignalRun,
    StorePlan,
    SubmitRun,
    encode,
    subjects,
)
from headrace.plan import Plan, encode_plan, plan_digest
from support.sim.bus import SimBus
from support.sim.net import SimClock
from support.sim.plans import signals_needed
from support.sim.schedules import PERIODS_MS

if TYPE_CHECKING:
    from support.sim.world import World

TRY_S = 0.7
PATIENCE_MS = 6_000
"""How long one mutation is sent again."""
_AGAIN = ("busy", "not-owner", "unavailable", "unreachable")
_decode, _encode = msgspec.msgpack.Decoder().decode, msgspec.msgpack.Encoder().encode
_replies = msgspec.msgpack.Decoder(ReplyBatch)


class SimClient:
    """All users, in one process that never fails."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.process = world.process("client")
        self.bus = SimBus(world, self.process, "client")
        self.clock = SimClock(self.process)
        self._requests = 0
        self.busy = 0
        """Users that have not done all they want to."""

    def start(self, run: str, plan: Plan, at_s: float) -> None:
        """A user will submit *plan* as *run*, and look after it."""
        self.busy += 1
        self.process.spawn(self._user(run, plan, at_s))

    def decide(self) -> None:
        """Somebody will say, now and then, what became of steps that are UNKNOWN."""
        self.process.spawn(self._decide())

    def start_schedule(self, name: str, plan: Plan, at_s: float, until_s: float) -> None:
        """A user will create a schedule, and delete it in the end."""
        self.busy += 1
        self.process.spawn(self._schedule(name, plan, at_s, until_s))

    async def _schedule(self, name: str, plan: Plan, at_s: float, until_s: float) -> None:
        rng = self.world.rng
        await asyncio.sleep(at_s)
        spec = ScheduleSpec(
            cron=rng.choice(list(PERIODS_MS)),
            catch_up=rng.choice(["none", "one", "all", "all"]),
            overlap=rng.choice(["allow", "skip", "queue", "cancel-previous"]),
            jitter_ms=rng.choice([0, 0, 300]),
        )
        content = {"spec": spec, "plan": encode_plan(plan)}
        await self._mutate_schedule(name, CreateSchedule, **content)
        if self.world.extras.rng.random() < 0.3:
            await self._mutate_schedule(name, CreateSchedule, **content, replace=True)
        await asyncio.sleep(max(until_s - self.world.loop.now_s, 0.0) * rng.random())
        if rng.random() < 0.4:
            await self._mutate_schedule(name, PauseSchedule)
            await asyncio.sleep(rng.random() * 2.0)
            await self._mutate_schedule(name, PauseSchedule, paused=False)
        await asyncio.sleep(max(until_s - self.world.loop.now_s, 0.0))
        await self._mutate_schedule(name, DeleteSchedule)
        self.busy -= 1

    async def _mutate_schedule(self, name: str, kind: type[Any], **fields: Any) -> None:
        while True:
            request = kind(name=name, **fields, **self.request())
            shard = self.world.layout.home(subjects.schedule_home(f"default/{name}"))
            reply = await self.insist(request, shard)
            if reply is not None and not reply.code:
                return
            if reply is not None and kind is DeleteSchedule and reply.code == "not-found":
                # An answer was lost, and so it was asked for anew.
                return
            if reply is not None and reply.code != "too-late":
                self.world.violation(f"{kind.__name__} refused: {reply.code} {reply.message}")
                return

    async def _decide(self) -> None:
        rng = self.world.rng
        while True:
            await asyncio.sleep(0.3)
            for run, path in self.world.oracle.undecided():
                await asyncio.sleep(rng.random())
                resolution = rng.choice(["completed", "failed", "retry"])
                output = self.world.record.decided(run, resolution)
                await self.mutate(run, ResolveStep, step=path, resolution=resolution, output=output)

    async def _user(self, run: str, plan: Plan, at_s: float) -> None:
        rng = self.world.rng
        await asyncio.sleep(at_s)
        explicit = rng.random() < 0.3
        if await self.submit(run, plan, explicit=explicit):
            jobs = [self._signals(run, plan)]
            draw = rng.random()
            if draw < 0.1:
                jobs.append(self._cancel(run))
            elif draw < 0.25:
                jobs.append(self.pause(run))
            if rng.random() < 0.4:
                jobs.append(self.look(run))
            await asyncio.gather(*jobs)
            if self.world.extras.has("reruns") and self.world.extras.rng.random() < 0.5:
                await self._again(run, plan)
        self.busy -= 1

    async def _again(self, run: str, plan: Plan) -> None:
        """Once a run has ended, begin another one that takes over some of its results."""
        for _ in range(100):
            reply = await self.insist(GetRun(run=run, wait_ms=600), self.home(run), limit_s=2.0)
            view = _decode(reply.result) if reply is not None and not reply.code else {}
            if view.get("state") in ("COMPLETED", "FAILED", "CANCELLED"):
                break
            if reply is not None and reply.code:
                return
        else:
            return
        rng = self.world.extras.rng
        done = {
            step["path"]: _encode(step.get("outputs") or {})
            for step in view["steps"]
            if step["state"] == "COMPLETED" and step.get("kind", "task") == "task"
        }
        carried = {path: data for path, data in done.items() if rng.random() < 0.7}
        name = f"{run}-again"
        if await self.submit(name, plan, explicit=False, again=(run, carried)):
            await self._signals(name, plan)

    # -- requests ------------------------------------------------------------------------------

    def request(self) -> dict[str, Any]:
        """Return what every request has that changes something."""
        self._requests += 1
        return {
            "request_id": f"q{self._requests}",
            "not_after_ms": self.clock.now_ms() + PATIENCE_MS,
        }

    def home(self, run: str) -> int:
        """Return the shard of a run."""
        return self.world.layout.home(subjects.run_key("default", run))

    async def send(self, shard: int, *requests: Any) -> Any:
        """Send once; return the last reply. Raises `Unreachable`."""
        payload = encode(ClientBatch(1, "default", list(requests)))
        answer = await self.bus.request(
            subjects.command("default", shard), payload, timeout_s=TRY_S
        )
        return _replies.decode(answer.data).replies[-1]

    async def insist(self, request: Any, shard: int, *, limit_s: float = 0.0) -> Any:
        """Send until there is an answer, or the time of the request is over (of one without:
        *limit_s*): then None."""
        pause_s = 0.02
        last_ms = getattr(request, "not_after_ms", 0) or self.clock.now_ms() + int(limit_s * 1_000)
        while self.clock.now_ms() < last_ms:
            try:
                reply = await self.send(shard, request)
                if reply.code not in _AGAIN:
                    return reply
            except Unreachable:
                pass
            await asyncio.sleep(pause_s * self.world.rng.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, 0.5)
        return None

    async def mutate(self, run: str, kind: type[Any], **fields: Any) -> Any:
        """Insist with new requests until there is a final answer."""
        while True:
            request = kind(run=run, **fields, **self.request())
            reply = await self.insist(request, self.home(run))
            if reply is not None and reply.code != "too-late":
                if not reply.code:
                    self.world.record.acknowledge(run, request)
                return reply

    async def submit(
        self,
        run: str,
        plan: Plan,
        *,
        explicit: bool,
        again: tuple[str, dict[str, bytes]] | None = None,
        given: dict[str, Any] | None = None,
    ) -> bool:
        """Submit, with *given* as its input; False when nobody knows what became of it."""
        digest, home = plan_digest(plan), self.home(run)
        more = self.world.extras.submitted()
        if given is not None:
            more["input"] = given
        if again:
            more |= {"rerun_of": again[0], "carried": again[1]}
        while True:
            request = SubmitRun(run=run, plan=digest, explicit=explicit, **more, **self.request())
            reply = await self.insist(request, home)
            while reply is not None and reply.code == "unknown-plan":
                try:
                    await self.send(home, StorePlan(plan=encode_plan(plan)))
                except Unreachable:
                    await asyncio.sleep(0.1)
                reply = await self.insist(request, home)
            if reply is not None and reply.code in ("", "archived"):
                self.world.record.acknowledge(run, request)
                return True
            if reply is not None and reply.code != "too-late":
                self.world.violation(f"submit of {run} refused: {reply.code} {reply.message}")
                return False
            if not explicit:
                # The id is not to be used again; whether there is a run is not known.
                return True

    async def _signals(self, run: str, plan: Plan) -> None:
        for (name, key), count in signals_needed(plan).items():
            if not await self.signal(run, name, key, count):
                return

    async def signal(self, run: str, name: str, key: str, count: int) -> bool:
        """Send signals of one name; False when the run takes none any more."""
        for number in range(count):
            if not await self._signal(run, name, key, number):
                return False
        return True

    async def _signal(self, run: str, name: str, key: str, number: int) -> bool:
        await asyncio.sleep(self.world.rng.random() * 0.6)
        what = {"name": name, "correlation_key": key, "payload": {"v": number}}
        reply = await self.mutate(run, SignalRun, **what)
        return reply.code not in ("conflict", "not-found")

    async def _cancel(self, run: str) -> None:
        await asyncio.sleep(self.world.rng.random() * 2)
        await self.mutate(run, CancelRun, reason="not wanted")

    async def pause(self, run: str) -> None:
        """Pause a run for a while."""
        rng = self.world.rng
        await asyncio.sleep(rng.random() * 1.0)
        reply = await self.mutate(run, PauseRun)
        await asyncio.sleep(rng.random() * 2.0)
        if not reply.code:
            await self.mutate(run, ResumeRun)

    def _rarer(self, run: str) -> Any:
        rng = self.world.extras.rng
        requests = (
            GetPlan(run=run),
            GetRun(run=run, plan=True),
            GetRun(run=run, steps=False),
            GetRun(run=run, at_event=rng.randint(1, 5)),
            GetRun(run=run, at_ms=self.clock.now_ms() - rng.randint(0, 800)),
            GetHistory(run=run, after=2, limit=3),
            HasRuns(runs=[run, "nobody"]),
            ListRuns(states=["RUNNING"], limit=2),
            ListRuns(since_ms=self.clock.now_ms() - 1_000, workflow="p1"),
        )
        return rng.choice(requests)

    async def look(self, run: str) -> None:
        """Ask all sorts of things; the oracle compares every answer with the log."""
        rng = self.world.rng
        for _ in range(rng.randint(1, 6)):
            await asyncio.sleep(rng.random() * 1.2)
            draw = rng.random()
            request: Any = GetRun(run=run, wait_ms=rng.choice([0, 150, 600]))
            if draw < 0.15:
                request = GetExplanation(run=run)
            elif draw < 0.3:
                request = GetHistory(run=run)
            elif draw < 0.35:
                request = ListRuns()
            elif draw < 0.5:
                request = self._rarer(run)
            try:
                await self.send(self.home(run), request)
            except Unreachable:
                continue
