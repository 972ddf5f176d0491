"""A worker process: the real life of a worker, on a simulated broker; steps that only wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from headrace.errors import HeadraceError
from headrace.messages import Claim, ResultBatch, ResultReply, TurnReport, decode
from headrace.worker.broker import BusRequests
from headrace.worker.core import Assignment, Assignments, Identity
from headrace.worker.executor import Executor
from headrace.worker.handlers import Context, Handler, HandlerError, Registry
from headrace.worker.life import Life, Terms
from headrace.worker.parked import ParkedFunctions
from headrace.worker.payloads import Payloads
from headrace.worker.reporter import Reporter
from headrace.worker.turns import Turns
from support.sim.bus import SimBus
from support.sim.fragile import SLOW
from support.sim.functions import APP, turn_now, worker_now
from support.sim.net import SimClock
from support.sim.plans import HANDLER
from support.sim.pulls import SimPull

if TYPE_CHECKING:
    from support.sim.world import World

HEARTBEAT_S = 0.4
RESTART_S = 0.5
_worker_request = msgspec.msgpack.Decoder(ResultBatch | Claim | TurnReport)


class Requests(BusRequests):
    """Tells the world which results were confirmed, from what goes over the wire."""

    def __init__(self, bus: SimBus) -> None:
        super().__init__(bus)  # type: ignore[arg-type]
        self._record = bus.world.record

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        answer = await super().request(subject, payload, timeout_s=timeout_s)
        asked = _worker_request.decode(payload)
        if isinstance(asked, ResultBatch):
            self._record.answered(asked, decode(ResultReply, answer))
        return answer


class SimTurns(Turns):
    """Turns whose steps know in which one they run."""

    world: World

    async def run(
        self, workflow: Any, context: Context, assignment: Assignment, inputs: msgspec.Raw
    ) -> None:
        task = assignment.task
        worker = f"{self._worker}.{self._incarnation}"
        self.world.record.started(worker, task, assignment.token)
        turn_now.set((task.run, task.attempt))
        await super().run(workflow, context, assignment, inputs)


class NoFolders:
    """In the place of `headrace.worker.workspaces.Workspaces`."""

    def close(self) -> None:
        pass


class SimWorker:
    """A worker's process: `headrace.worker.app.Worker` without files and metrics."""

    def __init__(
        self,
        world: World,
        name: str,
        life: int,
        *,
        capabilities: tuple[str, ...],
        slots: int,
        skew_ms: int,
    ) -> None:
        self.world, self.name = world, name
        self.process = world.process(f"{name}.{life}")
        self.bus = SimBus(world, self.process, name)
        self.clock = SimClock(self.process)
        self.clock.skew_ms = skew_ms
        self.capabilities, self.slots = capabilities, slots
        self.identity = Identity(
            id=name,
            incarnation=f"{life:04d}",
            namespace="default",
            capabilities=capabilities,
            started_ms=self.clock.now_ms(),
        )
        self.worker = f"{name}.{life:04d}"
        world.record.workers.add(self.worker)
        self.leaving = False
        """It was sent SIGTERM; a frozen process drains only once it is thawed."""
        self.gone = False
        self.life = self._build()
        self.process.spawn(self._main())

    def _build(self) -> Life:
        registry = Registry([Handler(HANDLER, self._run_step, builtin=True)])
        if APP.capability in self.capabilities:
            registry.serve(APP)
            self.process.context.run(worker_now.set, self)

        def executor(
            assignments: Assignments, reporter: Reporter, on_freed: Callable[[], None]
        ) -> Executor:
            payloads, (name, life) = Payloads(None), self.worker.split(".")
            turns = SimTurns(
                reporter,
                payloads,
                worker=name,
                incarnation=life,
                clock=self.clock,
                parked=ParkedFunctions(count_max=3),
            )
            turns.world = self.world
            return Executor(
                registry=registry,
                results=reporter,
                assignments=assignments,
                workspaces=cast("Any", NoFolders()),
                payloads=payloads,
                claims=reporter,
                turns=turns,
                clock=self.clock,
                on_freed=on_freed,
            )

        return Life(
            cast("Any", self.bus),
            Requests(self.bus),
            self.identity,
            Terms(
                slots=self.slots,
                queue_max=2 * self.slots + 8,
                outbox_bytes_max=1 << 20,
                heartbeat_s=HEARTBEAT_S,
                grace_s=1.0,
                kill_s=1.0,
            ),
            make_executor=executor,
            open_pull=lambda name, receive: SimPull(self.bus, name, receive),
            handlers=registry.describe(),
            clock=self.clock,
        )

    # -- what the world does -------------------------------------------------------------------

    def kill(self) -> None:
        """It dies, between any two steps."""
        self.process.kill()
        self.bus.close()
        self.gone = True

    def drain(self) -> None:
        """SIGTERM."""
        if not self.leaving:
            self.leaving = True
            self.process.call_later(0.0, self.life.drain)

    # -- a step --------------------------------------------------------------------------------

    async def _run_step(self, ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        world, rng = self.world, self.world.rng
        execution = world.record.started(self.worker, ctx.task, ctx.token)
        world.oracle.reads(ctx.task, inputs)
        kind = inputs.get("kind", "")
        draw = rng.random()
        if kind == "instant":
            pass
        elif kind == SLOW:
            await asyncio.sleep(0.4 + draw * 1.2)
        elif draw < 0.75:
            await asyncio.sleep(0.002 + rng.random() * 0.08)
        elif draw < 0.95:
            await asyncio.sleep(rng.random() * 0.8)
        else:
            await asyncio.sleep(rng.random() * 4)
        if kind == "flaky" and rng.random() < 0.5:
            raise HandlerError("flaky", "by chance", retryable=True)
        if kind == "broken":
            raise HandlerError("broken", "always", retryable=False)
        if kind == "decides":
            resolution = rng.choice(["completed", "failed", "retry", "retry", "?"])
            return {"x": execution, "resolution": resolution}
        return {"x": execution, "list": [1, 2, 3]}

    # -- its life ------------------------------------------------------------------------------

    async def _main(self) -> None:
        """As `Worker.run` does."""
        life = self.life
        life.listen()
        try:
            await self.bus.flush()
        except HeadraceError:
            # A process ends then, and whoever watches it starts another one.
            self.world.tell(f"{self.process.name} cannot begin")
            self._restart()
            return
        heartbeats = self.process.spawn(life.heartbeats.run())
        await life.drained()
        heartbeats.cancel()
        await life.stop()
        self.kill()

    def _restart(self) -> None:
        self.kill()
        self.world.later(RESTART_S, self.world.start_worker, self.name)
