"""The worker: everything put together, from connecting to the last heartbeat."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from headrace.bus import Bus, Message, Pull
from headrace.config import Config
from headrace.errors import HeadraceError
from headrace.messages import (
    CancelStep,
    DrainWorker,
    EpochNotice,
    LaneOffer,
    ResultStatus,
    StepResult,
    WorkerHeartbeat,
    WorkerOrder,
    encode,
    subjects,
)
from headrace.telemetry import Clock, SystemClock, WorkerMetrics, new_registry
from headrace.worker.broker import BusBlobs, BusLogs, BusRequests
from headrace.worker.builtin import builtin_registry
from headrace.worker.consumer import Consumer, LanePull
from headrace.worker.core import Assignments, Credit, Identity, Outbox, Stop, heartbeat
from headrace.worker.deferred import EnvironmentSecrets
from headrace.worker.executor import Executor
from headrace.worker.handlers import Registry
from headrace.worker.heartbeats import Heartbeats
from headrace.worker.identity import DataDirLock, new_incarnation, release, stable_id
from headrace.worker.payloads import Payloads
from headrace.worker.ports import SecretSource
from headrace.worker.reporter import Reporter
from headrace.worker.steplog import LogLimits
from headrace.worker.workspaces import WorkspaceLimits, Workspaces

log = logging.getLogger(__name__)

BATCH_BYTES_MAX: Final = 512 * 1024
"""Of one message with results."""
QUEUE_WAIT_MS_MAX: Final = 1_000
"""A task that waits longer for a slot here is handed back: another worker may have one free."""
NEWS_MS: Final = 100
SWEEP_S: Final = 600.0
FAREWELL_S: Final = 2.0
"""For the last results and log lines to reach their owners."""

_ORDERS: Final[msgspec.msgpack.Decoder[WorkerOrder]] = msgspec.msgpack.Decoder(
    cast("Any", WorkerOrder)
)
_OUTCOMES: Final = {
    ResultStatus.COMPLETED: "completed",
    ResultStatus.FAILED: "failed",
    ResultStatus.CANCELLED: "cancelled",
    ResultStatus.RETURNED: "returned",
}


class Worker:
    """One life of a worker on an open connection, which stays the caller's.

    ``await worker.run()`` returns after a drain (`drain`, or an order of the coordinator), and
    leaves nothing running. Cancelling it kills the steps.
    """

    def __init__(
        self,
        bus: Bus,
        config: Config,
        *,
        registry: Registry | None = None,
        metrics: WorkerMetrics | None = None,
        secrets: SecretSource | None = None,
        clock: Clock | None = None,
    ) -> None:
        settings = config.worker
        self._bus, self._config = bus, config
        self._clock: Clock = clock or SystemClock()
        self._metrics = metrics or WorkerMetrics(new_registry())
        self._registry = registry or builtin_registry()
        self.data_dir = Path(settings.data_dir).absolute() / "worker"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = DataDirLock(self.data_dir)
        self._lock.acquire()
        self.identity = self._identify()
        self._drain_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._end_s = float("inf")
        """The loop's time at which what runs is killed."""
        self._draining = False
        self._build(secrets or EnvironmentSecrets())

    def _identify(self) -> Identity:
        settings = self._config.worker
        return Identity(
            id=stable_id(settings.id, self.data_dir),
            incarnation=new_incarnation(),
            namespace=settings.namespace,
            capabilities=settings.capabilities,
            release=release(),
            host=socket.gethostname() or platform.node(),
            pid=os.getpid(),
            started_ms=self._clock.now_ms(),
        )

    def _build(self, secrets: SecretSource) -> None:
        config, identity = self._config, self.identity
        limits, slots = config.limits, config.worker.slots
        queue_max = 2 * slots + 64
        assignments = Assignments(slots=slots, queue_max=queue_max)
        self._workspaces = Workspaces(self.data_dir, identity.incarnation, WorkspaceLimits())
        self._outbox = Outbox(bytes_max=limits.outbox_bytes_max, batch_bytes_max=BATCH_BYTES_MAX)
        self._logs = BusLogs(
            self._bus,
            on_lines=lambda stream, count: self._metrics.log_lines.inc(stream, by=count),
            on_dropped=lambda count: self._metrics.log_lines_dropped.inc(by=count),
        )
        self.reporter = Reporter(
            BusRequests(self._bus),
            self._outbox,
            worker=identity.id,
            incarnation=identity.incarnation,
            on_room=self._made_room,
            on_refused=lambda count: self._metrics.results_refused.inc(by=count),
            on_sent=self._sent,
        )
        self.executor = Executor(
            registry=self._registry,
            results=self.reporter,
            assignments=assignments,
            workspaces=self._workspaces,
            payloads=Payloads(
                BusBlobs(self._bus),
                inline_bytes=limits.payload_inline_bytes,
                bytes_max=limits.payload_bytes_max,
            ),
            claims=self.reporter,
            logs=self._logs,
            log_limits=LogLimits(line_bytes_max=limits.log_line_bytes_max),
            secrets=secrets,
            clock=self._clock,
            observe=self._ended,
        )
        self.consumer = Consumer(
            identity=identity,
            executor=self.executor,
            outbox=self._outbox,
            credit=Credit(slots=slots, queue_max=queue_max),
            open_pull=self._open_pull,
            handlers=self._registry.describe(),
            on_dropped=lambda reason, count: self._metrics.tasks_dropped.inc(reason, by=count),
            on_received=self._received,
        )
        self._handlers = self._registry.describe()
        self._listed_ms = 0
        self.heartbeats = Heartbeats(
            make=self._heartbeat,
            publish=lambda data: self._bus.publish(subjects.heartbeat("worker", identity.id), data),
            interval_s=config.dispatch.heartbeat_ms / 1000,
            on_tick=self._tick,
            news=self._has_news,
        )

    # -- from outside --------------------------------------------------------------------------

    @property
    def ready(self) -> tuple[bool, list[str]]:
        """Whether work can reach this worker, and if not, why not."""
        reasons: list[str] = []
        if not self._bus.connected:
            reasons.append("not connected to the broker")
        elif not self.heartbeats.sent_s:
            reasons.append("no heartbeat has been sent yet")
        if not self.consumer.ready:
            reasons.append("a lane has not answered a pull recently")
        if self._draining:
            reasons.append("draining")
        return not reasons, reasons

    def drain(self, *, grace_ms: int | None = None) -> None:
        """Take no more steps, finish what runs within the grace, then let `run` return.

        Without *grace_ms* it is the configured one. Asked again, the earlier end counts.
        """
        grace_s = (self._config.worker.grace_ms if grace_ms is None else grace_ms) / 1_000
        self._end_s = min(self._end_s, asyncio.get_running_loop().time() + grace_s)
        self._drain_asked.set()
        if self._draining:
            self._hurry.set()

    async def run(self) -> None:
        """Work until drained. Raises `Unreachable` when the broker cannot be subscribed to."""
        bus, identity = self._bus, self.identity
        orders = bus.subscribe(
            subjects.worker_orders(identity.id, identity.incarnation), self._order
        )
        bus.on_up(self._back)
        log.info(
            "worker started",
            extra={
                "worker": identity.id,
                "incarnation": identity.incarnation,
                "capabilities": list(identity.capabilities),
                "slots": self._config.worker.slots,
            },
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            # Orders must be heard before the first heartbeat provokes them.
            await bus.flush()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.heartbeats.run(), name="worker-heartbeats"),
                    group.create_task(self._sweep(), name="worker-sweep"),
                ]
                await self._drain_asked.wait()
                await self._drain()
                for task in tasks:
                    task.cancel()
        finally:
            orders.close()
            self.consumer.close()
            await self._stop()
            self._lock.release()
            log.info("worker stopped", extra={"worker": identity.id})

    # -- the end -------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._draining = True
        self._metrics.draining.set(1)
        self.consumer.stop()
        returned = self.executor.hand_back()
        self.heartbeats.kick()
        loop = asyncio.get_running_loop()
        grace_ms = int((self._end_s - loop.time()) * 1_000)
        log.info("draining", extra={"returned": returned, "grace_ms": grace_ms})
        idle = asyncio.ensure_future(self.executor.wait_idle())
        try:
            while not idle.done():
                left_s = self._end_s - loop.time()
                if left_s <= 0:
                    break
                hurried = asyncio.ensure_future(self._hurry.wait())
                await asyncio.wait(
                    (idle, hurried), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                hurried.cancel()
                self._hurry.clear()
        finally:
            idle.cancel()
        for assignment in list(self.executor.assignments):
            self.executor.stop(assignment, Stop("shutdown", "the worker stops"))
        # Killing may take each step its own grace; heartbeats go on meanwhile.
        try:
            async with asyncio.timeout(self._config.worker.kill_ms / 1000 + 1):
                await self.executor.wait_idle()
        except TimeoutError:
            log.warning("steps do not end", extra={"steps": len(self.executor.assignments)})
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self.reporter.drained()
        except TimeoutError:
            log.warning("results not confirmed", extra={"results": len(self._outbox)})

    async def _stop(self) -> None:
        self._draining = True
        left = await self.executor.close(kill_s=self._config.worker.kill_ms / 1000 + 1)
        unconfirmed = await self.reporter.close()
        if left or unconfirmed:
            log.warning("stopped with loose ends", extra={"steps": left, "results": unconfirmed})
        self._logs.flush()
        farewell = self._make_heartbeat(complete=True, stopped=True)
        subject = subjects.heartbeat("worker", self.identity.id)
        try:
            self._bus.publish(subject, encode(farewell))
            await self._bus.flush(timeout_s=FAREWELL_S)
        except HeadraceError as error:
            log.info("no farewell: the broker is away", extra={"error": str(error)})

    # -- what others call ----------------------------------------------------------------------

    def _order(self, message: Message) -> None:
        try:
            order = _ORDERS.decode(message.data)
        except msgspec.MsgspecError as error:
            log.error("order not understood", extra={"error": str(error)})
            return
        if isinstance(order, LaneOffer):
            if self.consumer.offer(order):
                self.heartbeats.kick()
        elif isinstance(order, CancelStep):
            self.executor.cancel(order.run, order.step, order.attempt, order.reason)
        elif isinstance(order, DrainWorker):
            self.drain(grace_ms=order.grace_ms or None)
        else:
            assert isinstance(order, EpochNotice)
            assignments = self.executor.assignments
            if order.epoch >= assignments.epochs.get(order.shard, 0):
                # Said by an owner that can be reached; the one we wait for may be another.
                self.reporter.moved(order.shard)
            assignments.note_epoch(order.shard, order.epoch)
            self.heartbeats.kick()

    def _back(self) -> None:
        """The connection is up again."""
        self.heartbeats.kick()
        self.reporter.hurry()

    def _made_room(self) -> None:
        if not self._draining:
            self.consumer.adjust()

    def _received(self, count: int) -> None:
        self._metrics.tasks_received.inc(by=count)
        self.heartbeats.soon()

    def _has_news(self) -> bool:
        """Tell whether a step that takes longer is not listed by any heartbeat yet."""
        before_ms = self._clock.now_ms() - NEWS_MS
        return any(
            self._listed_ms < assignment.taken_ms <= before_ms
            for assignment in self.executor.assignments
        )

    def _tick(self) -> None:
        assignments, metrics = self.executor.assignments, self._metrics
        if assignments.queued:
            self.executor.hand_back_overdue(QUEUE_WAIT_MS_MAX)
        if not self._draining:
            self.consumer.adjust()
        self._logs.flush()
        metrics.slots.set(assignments.slots)
        metrics.slots_used.set(assignments.running + assignments.queued)
        metrics.steps_running.set(assignments.running)
        metrics.outbox_bytes.set(self._outbox.bytes)
        metrics.lanes.set(len(self.consumer.lanes))

    def _ended(self, result: StepResult) -> None:
        self._metrics.steps_ended.inc(_OUTCOMES[result.status])
        self._metrics.step_seconds.observe((result.ended_ms - result.started_ms) / 1000)

    def _sent(self, count: int, again: bool) -> None:
        (self._metrics.results_resent if again else self._metrics.results_sent).inc(by=count)

    def _open_pull(self, consumer: str, on_message: Callable[[Any], None]) -> LanePull:
        return Pull(self._bus, subjects.TASK_STREAM, consumer, on_message, demand=1)

    def _heartbeat(self, complete: bool) -> WorkerHeartbeat:
        return self._make_heartbeat(complete=complete, stopped=False)

    def _make_heartbeat(self, *, complete: bool, stopped: bool) -> WorkerHeartbeat:
        now_ms = self._clock.now_ms()
        self._listed_ms = now_ms
        return heartbeat(
            self.identity,
            self.executor.assignments,
            self._outbox,
            now_ms=now_ms,
            lanes=self.consumer.lanes,
            handlers=self._handlers,
            draining=self._draining,
            stopped=stopped,
            complete=complete,
        )

    async def _sweep(self) -> None:
        """Delete old workspaces, at start and then every `SWEEP_S`."""
        while True:
            in_use = {
                self._workspaces.job_folder(assignment.task.options.workspace)
                for assignment in self.executor.assignments
                if assignment.task.options is not None and assignment.task.options.workspace
            }
            deleted = await asyncio.to_thread(
                self._workspaces.sweep, now_ms=self._clock.now_ms(), in_use=in_use
            )
            if deleted:
                log.info("old workspaces deleted", extra={"folders": deleted})
            await asyncio.sleep(SWEEP_S)
