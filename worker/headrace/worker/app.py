"""A worker's process around its life: configuration, identity, folders, logs, metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from headrace.bus import Bus, Pull
from headrace.config import Config
from headrace.messages import ResultStatus, StepResult, subjects
from headrace.telemetry import Clock, SystemClock, Tracer, WorkerMetrics, new_registry
from headrace.worker.artifacts import BusArtifacts
from headrace.worker.broker import BusBlobs, BusLogs, BusRequests
from headrace.worker.builtin import builtin_registry
from headrace.worker.consumer import LanePull
from headrace.worker.core import Assignments, Identity
from headrace.worker.executor import Executor
from headrace.worker.handlers import Registry
from headrace.worker.identity import (
    DataDirLock,
    new_incarnation,
    release,
    stable_id,
    worker_folder,
)
from headrace.worker.life import Life, Terms, Watch
from headrace.worker.parked import ParkedFunctions
from headrace.worker.payloads import Payloads
from headrace.worker.plugins import Plugins
from headrace.worker.ports import ValueSource
from headrace.worker.reloading import Reloading
from headrace.worker.reporter import Reporter
from headrace.worker.sources import secrets_at, variables_at
from headrace.worker.steplog import LogLimits
from headrace.worker.traces import Attempts
from headrace.worker.turns import Turns
from headrace.worker.workspaces import WorkspaceLimits, Workspaces

log = logging.getLogger(__name__)

SWEEP_S: Final = 600.0
PULL_S: Final = 6.0
"""A request for tasks stands so long; asked for again, as long as there is room. In a cluster of
servers that of a worker that was killed still takes tasks until then, and they are lost; and one
that drains waits for it."""
_OUTCOMES: Final = {
    ResultStatus.COMPLETED: "completed",
    ResultStatus.FAILED: "failed",
    ResultStatus.CANCELLED: "cancelled",
    ResultStatus.RETURNED: "returned",
    ResultStatus.SKIPPED: "skipped",
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
        plugins: Plugins | None = None,
        reloading: Reloading | None = None,
        metrics: WorkerMetrics | None = None,
        secrets: ValueSource | None = None,
        variables: ValueSource | None = None,
        clock: Clock | None = None,
        tracer: Tracer | None = None,
        lock: DataDirLock | None = None,
    ) -> None:
        """*lock*: of the data folder, if it was taken already. Raises `Conflict` if it has one."""
        settings = config.worker
        self._bus, self._config = bus, config
        self._tracer = tracer
        self._clock: Clock = clock or SystemClock()
        self._metrics = metrics or WorkerMetrics(new_registry())
        self._ends: dict[tuple[int, int], int] = {}
        """(status, time in ms) of attempts that ended since the last heartbeat -> how many."""
        self._registry = registry or builtin_registry()
        self._watchers = [watcher for watcher in (plugins, reloading) if watcher is not None]
        """Of code that may change while we live."""
        self.data_dir = worker_folder(settings.data_dir)
        self._lock = lock or DataDirLock(self.data_dir)
        self._lock.acquire()
        self.identity = self._identify()
        self._build(
            secrets or secrets_at(settings.secrets_path),
            variables or variables_at(settings.vars_path),
        )

    def _identify(self) -> Identity:
        settings = self._config.worker
        return Identity(
            id=stable_id(settings.id, self.data_dir),
            incarnation=new_incarnation(),
            namespace=settings.namespace,
            capabilities=(*settings.capabilities, *self._registry.apps),
            release=release(),
            host=socket.gethostname() or platform.node(),
            pid=os.getpid(),
            started_ms=self._clock.now_ms(),
        )

    def _build(self, secrets: ValueSource, variables: ValueSource) -> None:
        config, identity = self._config, self.identity
        limits, settings = config.limits, config.worker
        self._workspaces = Workspaces(self.data_dir, identity.incarnation, WorkspaceLimits())
        self._logs = BusLogs(
            self._bus,
            on_lines=lambda stream, count: self._metrics.log_lines.inc(stream, by=count),
            on_dropped=lambda count: self._metrics.log_lines_dropped.inc(by=count),
        )

        self._blobs = BusBlobs(self._bus)
        self._parked = ParkedFunctions(bytes_max=limits.parked_bytes_max)

        def executor(
            assignments: Assignments, reporter: Reporter, on_freed: Callable[[], None]
        ) -> Executor:
            payloads = Payloads(
                self._blobs,
                inline_bytes=limits.payload_inline_bytes,
                bytes_max=limits.payload_bytes_max,
            )
            turns = Turns(
                reporter,
                payloads,
                worker=identity.id,
                incarnation=identity.incarnation,
                clock=self._clock,
                parked=self._parked,
            )
            return Executor(
                registry=self._registry,
                results=reporter,
                assignments=assignments,
                workspaces=self._workspaces,
                payloads=payloads,
                turns=turns,
                claims=reporter,
                logs=self._logs,
                log_limits=LogLimits(line_bytes_max=limits.log_line_bytes_max),
                secrets=secrets,
                variables=variables,
                artifacts=BusArtifacts(self._bus, bytes_max=limits.payload_bytes_max),
                clock=self._clock,
                observe=self._ended,
                traces=Attempts(identity.id, self._tracer),
                on_freed=on_freed,
            )

        self.life = Life(
            self._bus,
            BusRequests(self._bus),
            identity,
            Terms(
                slots=settings.slots,
                queue_max=2 * settings.slots + 64,
                outbox_bytes_max=limits.outbox_bytes_max,
                heartbeat_s=config.dispatch.heartbeat_ms / 1_000,
                grace_s=settings.grace_ms / 1_000,
                kill_s=settings.kill_ms / 1_000 + 1,
            ),
            make_executor=executor,
            open_pull=self._open_pull,
            handlers=self._registry.describe(),
            clock=self._clock,
            watch=_Metered(self, self._metrics),
        )
        self.reporter = self.life.reporter
        for watcher in self._watchers:
            watcher.on_change = self._offer_handlers

    # -- from outside --------------------------------------------------------------------------

    @property
    def ready(self) -> tuple[bool, list[str]]:
        """Whether work can reach this worker, and if not, why not."""
        reasons: list[str] = []
        if not self._bus.connected:
            reasons.append("not connected to the broker")
        elif not self.life.heartbeats.sent_s:
            reasons.append("no heartbeat has been sent yet")
        if not self.life.consumer.ready:
            reasons.append("a lane has not answered a pull recently")
        if self.life.draining:
            reasons.append("draining")
        return not reasons, reasons

    def drain(self, *, grace_ms: int | None = None) -> None:
        """Take no more steps, finish what runs within the grace, then let `run` return.

        Without *grace_ms* it is the configured one. Asked again, the earlier end counts.
        """
        self.life.drain(grace_s=None if grace_ms is None else grace_ms / 1_000)

    async def run(self) -> None:
        """Work until drained. Raises `Unreachable` when the broker cannot be subscribed to."""
        identity, life = self.identity, self.life
        life.listen()
        if self._watchers:
            self._offer_handlers()
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
            await self._bus.flush()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(life.heartbeats.run(), name="worker-heartbeats"),
                    group.create_task(self._sweep(), name="worker-sweep"),
                ]
                for watcher in self._watchers:
                    tasks.append(group.create_task(watcher.run(), name="worker-watch"))
                await life.drained()
                for task in tasks:
                    task.cancel()
        finally:
            await life.stop(flush_logs=self._logs.flush)
            self._tell_ends()
            self._lock.release()
            if self._tracer is not None:
                await asyncio.to_thread(self._tracer.close)
            log.info("worker stopped", extra={"worker": identity.id})

    # -- inside --------------------------------------------------------------------------------

    def _offer_handlers(self) -> None:
        self.life.offer_handlers(self._registry.describe(), self._problems)

    @property
    def _problems(self) -> list[str]:
        return [problem for watcher in self._watchers for problem in watcher.problems]

    def _ended(self, result: StepResult) -> None:
        """Add up; the families hear of it with the next heartbeat: they cost more than a step."""
        key = (result.status, result.ended_ms - result.started_ms)
        self._ends[key] = self._ends.get(key, 0) + 1

    def _tell_ends(self) -> None:
        ends, self._ends = self._ends, {}
        outcomes: Counter[int] = Counter()
        seconds: Counter[float] = Counter()
        for (status, took_ms), count in ends.items():
            outcomes[status] += count
            seconds[took_ms / 1_000] += count
        for status, count in outcomes.items():
            self._metrics.steps_ended.inc(_OUTCOMES[status], by=count)
        self._metrics.step_seconds.observe_many(seconds)

    def _open_pull(self, consumer: str, on_message: Callable[[Any], None]) -> LanePull:
        return Pull(
            self._bus,
            subjects.TASK_STREAM,
            consumer,
            on_message,
            demand=1,
            expires_s=PULL_S,
            heartbeat_s=PULL_S / 2,
        )

    def _ticked(self) -> None:
        """A regular heartbeat has left: bring the figures up to date."""
        life, metrics = self.life, self._metrics
        assignments = life.assignments
        self._tell_ends()
        self._logs.flush()
        metrics.slots.set(assignments.slots)
        metrics.slots_used.set(min(assignments.running + assignments.queued, assignments.slots))
        metrics.steps_running.set(assignments.running)
        metrics.parked_functions.set(len(self._parked))
        metrics.parked_bytes.set(self._parked.bytes)
        metrics.outbox_bytes.set(life.outbox.bytes)
        metrics.outbox_results.set(len(life.outbox))
        metrics.lanes.set(len(life.consumer.lanes))
        metrics.steps_queued.set(assignments.queued)
        full = life.draining or life.outbox.full
        used = assignments.running + assignments.queued
        metrics.credit.set(0 if full else max(assignments.slots - used, 0))
        metrics.task_messages.raise_to(life.consumer.messages)
        metrics.handlers.set(life.handlers)
        metrics.plugin_problems.set(len(self._problems))
        metrics.heartbeats.raise_to(life.heartbeats.sent)
        metrics.stalls.raise_to(life.stalls)
        for kind, count in life.orders.items():
            metrics.orders.raise_to(count, kind)
        metrics.log_backlog_bytes.set(self._logs.backlog_bytes)
        metrics.blobs_stored.raise_to(self._blobs.stored)
        metrics.blobs_stored_bytes.raise_to(self._blobs.stored_bytes)
        metrics.blobs_fetched.raise_to(self._blobs.fetched)
        metrics.blobs_fetched_bytes.raise_to(self._blobs.fetched_bytes)

    async def _sweep(self) -> None:
        """Delete old workspaces, at start and then every `SWEEP_S`."""
        while True:
            in_use = {
                self._workspaces.job_folder(assignment.task.options.workspace)
                for assignment in self.life.assignments
                if assignment.task.options is not None and assignment.task.options.workspace
            }
            deleted = await asyncio.to_thread(
                self._workspaces.sweep, now_ms=self._clock.now_ms(), in_use=in_use
            )
            if deleted:
                log.info("old workspaces deleted", extra={"folders": deleted})
            await asyncio.sleep(SWEEP_S)


class _Metered(Watch):
    """Counts what happens in a life."""

    def __init__(self, worker: Worker, metrics: WorkerMetrics) -> None:
        self._worker, self._metrics = worker, metrics

    def received(self, count: int) -> None:
        self._metrics.tasks_received.inc(by=count)

    def dropped(self, reason: str, count: int) -> None:
        self._metrics.tasks_dropped.inc(reason, by=count)

    def refused(self, count: int) -> None:
        self._metrics.results_refused.inc(by=count)

    def sent(self, count: int, again: bool) -> None:
        (self._metrics.results_resent if again else self._metrics.results_sent).inc(by=count)

    def drains(self) -> None:
        self._metrics.draining.set(1)

    def ticked(self) -> None:
        self._worker._ticked()
