"""One coordinator process: election and registry, its shards, and the questions it answers."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from headrace.bus import Bus, JetStreamBusy, JetStreamMissing, Message, ObjectBucket
from headrace.config import Config
from headrace.coordinator.archive.store import Archive
from headrace.coordinator.control import ControlOptions, ControlPlane, PlacementPolicy, Policy
from headrace.coordinator.core import Limits, Refusal
from headrace.coordinator.dispatch import Dispatcher, Settings
from headrace.coordinator.dispatch.lanes import Lanes
from headrace.coordinator.runtime.archives import open_archive
from headrace.coordinator.runtime.arrivals import IncomingStream
from headrace.coordinator.runtime.blobs import BlobSweep, asking, keep_sweeping
from headrace.coordinator.runtime.census import Census
from headrace.coordinator.runtime.closed import Pages, answer
from headrace.coordinator.runtime.ending import first_of
from headrace.coordinator.runtime.evidence import Notary
from headrace.coordinator.runtime.feed import ensure_feed, ensure_step_logs
from headrace.coordinator.runtime.holding import Holding
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of, short_pages
from headrace.coordinator.runtime.layout import Layout
from headrace.coordinator.runtime.leading import WRONG_NAMESPACE, Shard
from headrace.coordinator.runtime.levels import common_level
from headrace.coordinator.runtime.neighbours import Neighbours
from headrace.coordinator.runtime.observe import Observer
from headrace.coordinator.runtime.replies import Replies
from headrace.coordinator.runtime.skew import Skew, SteadyClock
from headrace.coordinator.runtime.slices import Slices
from headrace.coordinator.runtime.stored import Stored
from headrace.coordinator.runtime.surroundings import Surroundings
from headrace.coordinator.runtime.survey import Survey
from headrace.coordinator.shardlog import FEATURE_LEVEL, ObjectSnapshotStore
from headrace.coordinator.shardlog.jetstream import check_level, last_epoch
from headrace.coordinator.traces import Traces
from headrace.errors import HeadraceError, InvalidConfig, InvalidRequest, Unreachable
from headrace.evidence import Signer
from headrace.language import BUILTIN_HANDLERS
from headrace.messages import ClientBatch, GetInfo, decode, subjects
from headrace.telemetry import Clock, CoordinatorMetrics, SystemClock, Tracer, new_registry

log = logging.getLogger(__name__)

UPKEEP_S = 0.25
RETENTION_S = 60.0
RETENTION_RUNS = 1_000
START_RETRY_S = 1.0
QUERIES_MAX = 64
"""Questions to the archive answered at the same time; the next ones wait."""


def release() -> str:
    """Return the version of the installed distribution."""
    try:
        return importlib.metadata.version("headrace")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class CoordinatorServer:
    """A coordinator on an open connection, which stays the caller's: ``await server.run()``."""

    def __init__(
        self,
        bus: Bus,
        config: Config,
        *,
        metrics: CoordinatorMetrics | None = None,
        tracer: Tracer | None = None,
        clock: Clock | None = None,
        synced: bool = False,
        warnings: tuple[str, ...] = (),
        redial: Callable[[], Any] | None = None,
    ) -> None:
        """*synced*: the broker is known to fsync before it acknowledges."""
        settings = config.coordinator
        self.bus, self.config = bus, config
        self.clock = SteadyClock(clock or SystemClock())
        self.incarnation = secrets.token_hex(4)
        self.layout = Layout.of(settings)
        self.warnings = warnings
        self.synced = synced
        self.metrics = metrics or CoordinatorMetrics(new_registry())
        self._traces = Traces(tracer, settings.id, self.clock) if tracer is not None else None
        self._traced = tracer.share if tracer is not None else 0.0
        self.observer = Observer(self.metrics, self._traces)
        self._survey = Survey(self.observer)
        self.asked: Counter[str] = Counter()
        """Questions so far: `info`, `archive`."""
        self.skew = Skew(
            self.clock.wall,
            self._broker_ms,
            ms_max=settings.clock_skew_ms_max,
            changed=lambda: self._changed.set(),
            agreed=self.clock.follow,
        )
        self.builtin = frozenset(BUILTIN_HANDLERS)
        self.shards: dict[int, Shard] = {}
        self.archive: Archive | None = None
        key_file = settings.evidence_key_file
        setting = "coordinator.evidence_key_file"
        signer = Signer.load(Path(key_file), setting=setting) if key_file else None
        self.notary = Notary(signer, self.clock)
        self.slices, self._pages = Slices(), Pages()
        self.dispatcher: Dispatcher | None = None
        self._changed = asyncio.Event()
        self._redial = redial
        self.control = ControlPlane(
            bus,
            coordinator_id=settings.id,
            peers=settings.peers or (settings.id,),
            incarnation=self.incarnation,
            clock=self.clock,
            shards=self.layout.shards,
            release=release(),
            feature_level=FEATURE_LEVEL,
            archive=settings.archive,
            on_assignments=lambda *_: self._changed.set(),
            on_rival=self._on_rival,
            redial=redial,
            options=ControlOptions(
                policy=Policy(placement=PlacementPolicy(skew_max_ms=settings.clock_skew_ms_max))
            ),
        )
        self.replies = Replies(bus, self.clock, settings.id)
        self.stored = Stored(bus, object_bytes_max=config.limits.payload_bytes_max)
        self.census = Census(self)
        self.holding = Holding(self, release=release())
        self._queries = asyncio.Semaphore(QUERIES_MAX)
        self._asking: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- life -------------------------------------------------------------------------------------

    @property
    def ready(self) -> tuple[bool, list[str]]:
        """Tell whether the process does its work, and what is in the way."""
        reasons = []
        if not self.bus.connected:
            reasons.append("not connected to the broker")
        if self.archive is None:
            reasons.append("starting")
        for shard in self.control.owned:
            found = self.shards.get(shard)
            if found is None or found.owner is None or not found.owner.leading.is_set():
                reasons.append(f"shard {shard} is not served yet")
            elif found.problem:
                reasons.append(f"shard {shard}: {found.problem}")
        return not reasons, reasons

    async def run(self) -> None:
        """Serve until cancelled; shards are given up in order then."""
        around = await self._start()
        subscriptions = [
            self.bus.subscribe(subjects.INFO, self._on_info, queue="info"),
            self.bus.subscribe(subjects.everybody(subjects.INFO), self._on_info),
            self.bus.subscribe(subjects.archive("*"), self._on_archive, queue="archive"),
            self.bus.subscribe(subjects.everybody(subjects.archive("*")), self._on_archive),
            self.bus.subscribe(subjects.BACKUP, self.holding.on_message),
            *self.census.subscribe(),
        ]
        self.replies.start()
        self.stored.start()
        self.control.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reconcile(around), name="assignments")
                group.create_task(self._watch(), name="watch")
                group.create_task(self._upkeep(), name="upkeep")
                group.create_task(self.skew.run(), name="clock-skew")
                group.create_task(self._retention(), name="retention")
                group.create_task(self._sweep_blobs(), name="blobs")
                group.create_task(self._until_broken(), name="until-broken")
        except BaseExceptionGroup as errors:
            if (refused := errors.subgroup(InvalidConfig)) is not None:
                raise first_of(refused) from None
            raise
        finally:
            for subscription in subscriptions:
                subscription.close()
            for shard in self.shards.values():
                await shard.become("")
            self.replies.close()
            self.stored.close()
            await self.control.stop()
            if self.dispatcher is not None:
                self.dispatcher.close()
            if self.archive is not None:
                await self.archive.close()

    async def _start(self) -> Surroundings:
        """Make the streams and open the archive; wait for the broker as long as it takes."""
        settings, limits = self.config.coordinator, self.config.limits
        lanes = Lanes(self.bus, self.clock, replicas=settings.replicas)
        snapshots = ObjectSnapshotStore(self.bus)
        neighbours = Neighbours(self.bus)
        await self._make_streams(lanes, snapshots)
        await neighbours.check(archive=settings.archive)
        await self._check_level()
        self.archive = await open_archive(self.bus, self.config)
        dispatch = self.config.dispatch
        self.dispatcher = Dispatcher(
            self.bus,
            self.clock,
            lanes,
            Settings(
                dispatch.lease_ms,
                dispatch.window_extra,
                dispatch.batch_tasks_max,
                dispatch.batch_bytes_max,
                dispatch.batch_work_ms,
                dispatch.lanes_max,
            ),
        )
        self.dispatcher.share = self.census.share
        self.dispatcher.traces = self._traces
        self.dispatcher.on_results = self.observer.results
        self.dispatcher.on_lapsed = self.observer.lapsed
        await self.skew.measure()
        return Surroundings(
            bus=self.bus,
            clock=self.clock,
            dispatcher=self.dispatcher,
            archive=self.archive,
            snapshots=snapshots,
            layout=self.layout,
            builtin=self.builtin,
            limits=Limits(
                runs=limits.runs_max,
                plan_bytes=limits.plan_bytes_max,
                signals=limits.run_signals_max,
                nodes=limits.run_steps_max,
                events=limits.run_events_max,
                labels=limits.labels_max,
                label_bytes=limits.label_bytes_max,
                append_bytes=limits.append_bytes_max,
            ),
            page_runs_max=limits.page_runs_max,
            coordinator=settings.id,
            incarnation=self.incarnation,
            replicas=settings.replicas,
            synced=self.synced,
            log_bytes_max=limits.log_bytes_max,
            inbox_bytes_max=limits.inbox_bytes_max,
            backlog_ms=limits.backlog_ms_max,
            snapshot_touches=settings.snapshot_events,
            snapshot_ms=int(settings.snapshot_minutes * 60_000),
            observe=self.observer.shard,
            traced=self._traced,
            refused=self.observer.refused,
            respond=self.replies.respond,
            skewed=self.skew.note,
            views=self.control,
            broken=self._on_broken,
            incoming=self._incoming(),
            feature_level=self.common_level,
            release=release(),
            notary=self.notary,
            slices=self.slices,
        )

    def common_level(self) -> int:
        """Return the feature level that all coordinators have."""
        settings = self.config.coordinator
        peers = settings.peers or (settings.id,)
        return common_level(FEATURE_LEVEL, peers, self.control.view.coordinators)

    def _incoming(self) -> IncomingStream:
        return IncomingStream(
            self.bus,
            replicas=self.config.coordinator.replicas,
            bytes_max=self.config.limits.incoming_bytes_max,
            age_ms=int(self.config.coordinator.incoming_days * 86_400_000),
        )

    async def _make_streams(self, lanes: Lanes, snapshots: ObjectSnapshotStore) -> None:
        """Make every stream and bucket but the logs, however long the broker takes."""
        replicas = self.config.coordinator.replicas
        waited = False
        while True:
            try:
                await lanes.start()
                await ensure_feed(self.bus, replicas=replicas)
                await ensure_step_logs(self.bus, replicas=replicas)
                await self._incoming().open()
                await snapshots.ensure(replicas=replicas)
                await ObjectBucket(self.bus, subjects.BLOB_BUCKET).ensure(replicas=replicas)
                return
            except (Unreachable, JetStreamBusy) as error:
                # A cluster that has just begun answers "busy" until it has a leader.
                level = logging.DEBUG if waited else logging.WARNING
                log.log(level, "broker not ready", extra={"error": str(error)})
                waited = True
                await asyncio.sleep(START_RETRY_S)

    async def _check_level(self) -> None:
        """Raise `NeedsNewerRelease` before anybody gives us a shard that we cannot own."""
        for shard in range(self.layout.journal):
            while True:
                try:
                    _, record = await last_epoch(self.bus, shard)
                except JetStreamMissing:
                    break  # nobody has ever owned it
                except (Unreachable, JetStreamBusy):
                    await asyncio.sleep(START_RETRY_S)
                    continue
                check_level(shard, record, FEATURE_LEVEL)
                break

    async def _broker_ms(self) -> int:
        return (await self.bus.js.stream_info(subjects.TASK_STREAM)).time_ms

    def _on_broken(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    def _on_rival(self) -> None:
        name = self.config.coordinator.id
        reason = f"another coordinator runs as {name!r}: give each an id of its own, or stop it"
        self._on_broken(InvalidConfig("coordinator.id", reason))

    async def _until_broken(self) -> None:
        await self._broken

    # -- loops ------------------------------------------------------------------------------------

    async def _reconcile(self, around: Surroundings) -> None:
        """Make the shards here what the control plane's view says."""
        while True:
            self._changed.clear()
            # The control plane takes a skewed coordinator's shards away; this is quicker.
            owned = {} if self.skew.excessive else self.control.owned
            standby = self.control.standby
            for number in self.layout.shards:
                mode = "leading" if number in owned else "standby" if number in standby else ""
                shard = self.shards.get(number)
                if shard is None:
                    if not mode:
                        continue
                    shard = self.shards[number] = Shard(number, around)
                await shard.become(mode)
            await self._changed.wait()

    async def _watch(self) -> None:
        """What must not wait for the broker: who lives, what we tell of ourselves."""
        assert self.dispatcher is not None
        while True:
            slept = self.clock.monotonic()
            await asyncio.sleep(UPKEEP_S)
            self.observer.stalled(self.clock.monotonic() - slept - UPKEEP_S)
            self.dispatcher.expire()
            self.control.advertise(backlog=self.census.backlog(), skew_ms=self.skew.ms)
            self._survey.look(self)

    async def _upkeep(self) -> None:
        """Streams that were lost, publishes without a receipt, steps that nobody has."""
        assert self.dispatcher is not None
        seen = self.bus.generation
        while True:
            await asyncio.sleep(UPKEEP_S)
            try:
                generation = self.bus.generation
                if self.bus.connected and generation != seen:
                    await self.dispatcher.lanes.start()
                    await ensure_feed(self.bus, replicas=self.config.coordinator.replicas)
                    seen = generation
                await self.dispatcher.look_after()
            except HeadraceError as error:
                log.info("upkeep will try again", extra={"error": str(error)})

    async def _retention(self) -> None:
        """Delete closed runs after their time, a piece at a time, on the controller only."""
        assert self.archive is not None
        days = self.config.coordinator.retention_days
        while True:
            await asyncio.sleep(RETENTION_S)
            if not days or not self.control.is_controller:
                continue
            before_ms = self.clock.now_ms() - int(days * 86_400_000)
            try:
                expired = RETENTION_RUNS
                while expired == RETENTION_RUNS:
                    expired = await self.archive.expire(before_ms=before_ms, limit=RETENTION_RUNS)
                    self.observer.expired(expired)
            except HeadraceError as error:
                log.warning("retention will try again", extra={"error": str(error)})

    async def _sweep_blobs(self) -> None:
        """Delete the large values of runs that are no more, on the controller only."""
        assert self.archive is not None
        margin_ms = int(self.config.coordinator.blob_margin_minutes * 60_000)
        bucket = ObjectBucket(self.bus, subjects.BLOB_BUCKET)
        await keep_sweeping(
            BlobSweep(bucket, self.archive, asking(self.bus), self.layout, margin_ms=margin_ms),
            now_ms=self.clock.now_ms,
            may=lambda: self.control.is_controller,
            swept=self.observer.swept,
            failed=self.observer.not_swept,
        )

    # -- questions --------------------------------------------------------------------------------

    @property
    def questions_open(self) -> int:
        """Questions that are not answered yet."""
        return len(self._asking)

    def _on_info(self, message: Message) -> None:
        self.asked["info"] += 1
        self._ask(self._answer_info(message))

    def _on_archive(self, message: Message) -> None:
        self.asked["archive"] += 1
        self._ask(self._answer_archive(message))

    def _ask(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # One question that we cannot answer: the asker hears nothing, the others go on.
            log.error("question not answered", exc_info=error)

    def _pending(self, message: Message) -> PendingBatch | None:
        try:
            batch = decode(ClientBatch, message.data)
        except InvalidRequest as error:
            log.warning("request not understood", extra={"error": str(error)})
            return None

        respond = partial(self.replies.respond, message)
        requests = short_pages(batch.requests, self.config.limits.page_runs_max)
        return PendingBatch(batch.namespace, requests, respond, len(message.data))

    async def _answer_info(self, message: Message) -> None:
        pending = self._pending(message)
        if pending is None:
            return
        for index, request in enumerate(pending.requests):
            if isinstance(request, GetInfo):
                info = await self.census.info(workers=request.workers)
                pending.answer(index, reply_of(info))
            else:
                refusal = Refusal("invalid-request", "only GetInfo is answered here")
                pending.answer(index, reply_of(refusal))

    async def _answer_archive(self, message: Message) -> None:
        pending = self._pending(message)
        if pending is None or self.archive is None:
            return
        if pending.namespace != message.subject.rpartition(".")[2]:
            # Permissions on subjects mean something only if the payload agrees.
            pending.refuse(WRONG_NAMESPACE)
            return
        async with self._queries:
            for index, request in enumerate(pending.requests):
                if request is not None:
                    found = await answer(
                        self.archive,
                        self.builtin,
                        pending.namespace,
                        request,
                        self.notary,
                        self.slices,
                        self._pages,
                    )
                    pending.answer(index, reply_of(found))
