"""A worker process: the real consumer, executor, reporter and heartbeats; steps that only wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec

from headrace.messages import (
    CancelStep,
    Claim,
    DrainWorker,
    EpochNotice,
    LaneOffer,
    ResultBatch,
    ResultReply,
    WorkerHeartbeat,
    WorkerOrder,
    decode,
    subjects,
)
from headrace.worker.broker import BusRequests
from headrace.worker.consumer import Consumer
from headrace.worker.core import Assignments, Credit, Identity, Outbox, Stop, heartbeat
from headrace.worker.executor import Executor
from headrace.worker.handlers import Context, Handler, HandlerError, Registry
from headrace.worker.heartbeats import Heartbeats
from headrace.worker.payloads import Payloads
from headrace.worker.reporter import Reporter
from support.sim.bus import SimBus
from support.sim.net import SimClock
from support.sim.plans import HANDLER
from support.sim.pulls import SimPull

if TYPE_CHECKING:
    from support.sim.world import World

HEARTBEAT_S = 0.4
QUEUE_WAIT_MS_MAX = 1_000
_worker_request = msgspec.msgpack.Decoder(ResultBatch | Claim)
_orders: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(cast("Any", WorkerOrder))


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


class SimWorker:
    """One life of a worker, as `headrace.worker.app.Worker` puts it together."""

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
        self.world, self.name, self.life = world, name, life
        self.process = world.process(f"{name}.{life}")
        self.bus = SimBus(world, self.process)
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
        self.leaving = False
        """It was sent SIGTERM; a frozen process drains only once it is thawed."""
        self.draining = False
        self.gone = False
        self._stopped = False
        self._build()
        self.process.spawn(self._main())

    def _build(self) -> None:
        queue_max = 2 * self.slots + 8
        self.assignments = Assignments(slots=self.slots, queue_max=queue_max)
        self.outbox = Outbox(bytes_max=1 << 20, batch_bytes_max=1 << 18)
        self.reporter = Reporter(
            Requests(self.bus),
            self.outbox,
            worker=self.identity.id,
            incarnation=self.identity.incarnation,
            on_room=self._made_room,
        )
        self.executor = Executor(
            registry=Registry([Handler(HANDLER, self._run_step, builtin=True)]),
            results=self.reporter,
            assignments=self.assignments,
            workspaces=cast("Any", None),
            payloads=Payloads(None),
            claims=self.reporter,
            clock=self.clock,
        )
        self.consumer = Consumer(
            identity=self.identity,
            executor=self.executor,
            outbox=self.outbox,
            credit=Credit(slots=self.slots, queue_max=queue_max),
            open_pull=lambda name, receive: SimPull(self.bus, name, receive),
        )
        self.heartbeats = Heartbeats(
            make=lambda complete: self._heartbeat(complete=complete),
            publish=lambda data: self.bus.publish(
                subjects.heartbeat("worker", self.identity.id), data
            ),
            interval_s=HEARTBEAT_S,
            on_tick=self._tick,
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
            self.process.spawn(self._drain())

    # -- a step --------------------------------------------------------------------------------

    async def _run_step(self, ctx: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        world, rng = self.world, self.world.rng
        execution = world.record.started(self.worker, ctx.task, ctx.token)
        kind = inputs.get("kind", "")
        draw = rng.random()
        if kind == "instant":
            pass
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
        return {"x": execution, "list": [1, 2, 3]}

    # -- its life ------------------------------------------------------------------------------

    async def _main(self) -> None:
        self.bus.subscribe(
            subjects.worker_orders(self.identity.id, self.identity.incarnation), self._order
        )
        self.bus.on_up(self._back)
        await self.heartbeats.run()

    async def _drain(self) -> None:
        """As `Worker._drain` and `_stop` do."""
        self.draining = True
        self.consumer.stop()
        self.executor.hand_back()
        self.heartbeats.kick()
        for grace_s in (1.0, 1.0):
            try:
                async with asyncio.timeout(grace_s):
                    await self.executor.wait_idle()
                break
            except TimeoutError:
                for assignment in list(self.assignments):
                    self.executor.stop(assignment, Stop("shutdown", "the worker stops"))
        try:
            async with asyncio.timeout(2.0):
                await self.reporter.drained()
        except TimeoutError:
            pass
        self.consumer.close()
        self._stopped = True
        self.heartbeats.send(complete=True)
        await asyncio.sleep(0.0)
        self.kill()

    def _order(self, message: Any) -> None:
        order = _orders.decode(message.data)
        if isinstance(order, LaneOffer):
            if self.consumer.offer(order):
                self.heartbeats.kick()
        elif isinstance(order, CancelStep):
            self.executor.cancel(order.run, order.step, order.attempt, order.reason)
        elif isinstance(order, DrainWorker):
            self.drain()
        else:
            assert isinstance(order, EpochNotice)
            self.assignments.note_epoch(order.shard, order.epoch)
            self.heartbeats.kick()

    def _back(self) -> None:
        self.heartbeats.kick()
        self.reporter.hurry()

    def _made_room(self) -> None:
        if not self.draining:
            self.consumer.adjust()

    def _tick(self) -> None:
        if self.assignments.queued:
            self.executor.hand_back_overdue(QUEUE_WAIT_MS_MAX)
        if not self.draining:
            self.consumer.adjust()

    def _heartbeat(self, *, complete: bool) -> WorkerHeartbeat:
        return heartbeat(
            self.identity,
            self.assignments,
            self.outbox,
            now_ms=self.clock.now_ms(),
            lanes=self.consumer.lanes,
            handlers={},
            draining=self.draining,
            stopped=self._stopped,
            complete=complete,
        )
