"""A shard on this coordinator: its owner or standby, and the subjects that reach the owner."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import Any

import msgspec

from headrace.bus import Message, Subscription
from headrace.coordinator.core import (
    BrokenLog,
    Machine,
    Outgoing,
    OutMessage,
    Refusal,
)
from headrace.coordinator.dispatch import ShardDispatch
from headrace.coordinator.runtime.archiver import Archiver
from headrace.coordinator.runtime.arrivals import Reader
from headrace.coordinator.runtime.explicit import check_explicit, needs_check
from headrace.coordinator.runtime.feed import feed
from headrace.coordinator.runtime.follower import Follower
from headrace.coordinator.runtime.holding import Standstill
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of, short_pages
from headrace.coordinator.runtime.levels import keep_level
from headrace.coordinator.runtime.owner import Owner
from headrace.coordinator.runtime.postbox import BUSY
from headrace.coordinator.runtime.retreat import Retreat
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.runtime.surroundings import Surroundings
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.shardlog import (
    FEATURE_LEVEL,
    Fenced,
    MemoryLog,
    MemoryLogStore,
    MemorySnapshotStore,
    NeedsNewerRelease,
    ShardLog,
)
from headrace.coordinator.shardlog.jetstream import JetStreamLog
from headrace.coordinator.shardlog.log import LogLost
from headrace.errors import HeadraceError, InvalidRequest
from headrace.events import SettingsChanged
from headrace.messages import (
    UNREADABLE,
    ClientBatch,
    ResultBatch,
    TurnReport,
    WorkerRequest,
    decode,
    encode,
    subjects,
)

log = logging.getLogger(__name__)

PAUSE_S = 0.3
PAUSE_MAX_S = 5.0
LAST_SNAPSHOT_S = 5.0
SETTINGS_S = 2.0
"""Settings that are not in the log after this are stated again."""
MEMORY_LOG_BYTES = 8 * 1024 * 1024
GATHER_S = 0.1
"""Ended runs wait so long for others: each transaction of the archive, and each eviction after it,
costs an fsync, beside those of runs that somebody waits for."""
SNAPSHOT_LEVEL_MS = 2_000
"""At level snapshot so much may be lost."""
PEER_TIMEOUT_S = 2.0
_requests: msgspec.msgpack.Decoder[WorkerRequest] = msgspec.msgpack.Decoder(WorkerRequest)
WRONG_NAMESPACE = Refusal("invalid-request", "the batch names another namespace than its subject")


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """An outbox message on `headrace.peer.<shard>`; the answer means "logged"."""

    version: int
    message: str
    content: OutMessage


class Shard:
    """One shard on this process. `lead`, `stand_by` and `leave` may be called in any order."""

    def __init__(self, shard: int, around: Surroundings) -> None:
        self.shard, self._around = shard, around
        self.level = around.layout.level(shard)
        self.owner: Owner | None = None
        self.follower: Follower | None = None
        self.dispatch: ShardDispatch | None = None
        self.log: ShardLog | None = None
        self.problem = ""
        self.standstill = Standstill()
        self._task: asyncio.Task[None] | None = None
        self._mode = ""
        self._changing = asyncio.Lock()
        self._subscriptions: list[Subscription] = []
        self._background: set[asyncio.Task[None]] = set()
        self._served = False
        """This ownership has led."""
        self._sending: set[str] = set()
        """Outbox messages that wait for an answer."""
        self._checking_bytes = 0

    @property
    def mode(self) -> str:
        """`leading`, `standby` or nothing."""
        return self._mode

    async def become(self, mode: str) -> None:
        """Lead, stand by, or leave (""); a standby's state is handed on to the owner."""
        async with self._changing:
            await self._become(mode)

    async def _become(self, mode: str) -> None:
        if mode == self._mode:
            return
        follower = self.follower
        if self.level == "snapshot" and self.owner is not None:
            # Nobody can read our log: what we leave behind is our last snapshot.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_SNAPSHOT_S):
                    await self.owner.snapshot()
        await self._stop()
        self._mode = mode
        if mode == "leading":
            self._task = asyncio.create_task(self._lead(follower), name=f"shard-{self.shard}")
        elif mode == "standby" and self.level == "journal":
            self._task = asyncio.create_task(self._follow(), name=f"standby-{self.shard}")
        if self._task is not None:
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._around.broken(error)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self.follower = None
        self._mode = ""

    # -- standing by ----------------------------------------------------------------------------

    def _make_log(self) -> ShardLog:
        around = self._around
        if self.level != "journal":
            # Nothing is ever rebuilt from it: it holds what the feed has yet to read.
            # Positions and epochs go on from those of any earlier life: feed and workers know them.
            past = around.clock.now_ms() * 1_000
            return MemoryLog(self.shard, MemoryLogStore(bytes_kept=MEMORY_LOG_BYTES, last=past))
        watch = around.observe(self.shard)
        return JetStreamLog(
            around.bus,
            self.shard,
            on_resolved=watch.resolved if watch is not None else None,
            replicas=around.replicas,
            max_bytes=around.log_bytes_max,
            synced=around.synced,
            feature_level=FEATURE_LEVEL,
            stamp=around.feature_level,
            release=around.release,
        )

    def _make_snapshots(self) -> Snapshots:
        around = self._around
        if self.level == "memory":
            # Nothing survives a restart: what would a snapshot be for?
            return Snapshots(MemorySnapshotStore(), around.clock, every_touches=0)
        weak = self.level == "snapshot"
        return Snapshots(
            around.snapshots,
            around.clock,
            every_touches=around.snapshot_touches,
            every_ms=SNAPSHOT_LEVEL_MS if weak else around.snapshot_ms,
            survives=not weak,
        )

    async def _follow(self) -> None:
        shard_log = self._make_log()
        around = self._around
        self.follower = Follower(shard_log, self._make_snapshots(), around.builtin, around.clock)
        while True:
            try:
                await self.follower.run()
            except BrokenLog as error:
                # A replica that cannot read the log must not pretend to be warm.
                self.problem = str(error)
                log.error("standby stopped", extra={"shard": self.shard, "error": str(error)})
                self.follower = None
                return
            finally:
                await shard_log.close()

    # -- leading ----------------------------------------------------------------------------------

    async def _lead(self, follower: Follower | None) -> None:
        """Own the shard until cancelled; a fenced ownership is given up and taken anew later."""
        folder = follower.folder if follower is not None else None
        pause_s, retreat = PAUSE_S, Retreat(self._around.views, random.random)
        while True:
            self._served = fenced = False
            try:
                await self._own(folder)
            except Fenced as error:
                fenced = True
                watch = self._around.observe(self.shard)
                if watch is not None:
                    watch.fenced()
                log.warning("shard lost", extra={"shard": self.shard, "error": str(error)})
            except NeedsNewerRelease:
                raise  # no other try will do, and whoever can is to have the shard: we end
            except (BrokenLog, LogLost) as error:
                self.problem = str(error)
                log.critical("log cannot be read", extra={"shard": self.shard, "error": str(error)})
            except HeadraceError as error:
                # A broker without a leader, a full disk: it passes, and others may serve.
                self.problem = str(error)
                log.warning("shard not served", extra={"shard": self.shard, "error": str(error)})
            folder = None
            if fenced:
                await retreat.wait()
            # What fails at once is tried less and less often: each try reads the whole log.
            pause_s = PAUSE_S if self._served else min(pause_s * 2, PAUSE_MAX_S)
            await asyncio.sleep(pause_s)

    async def _own(self, folder: object) -> None:
        around = self._around
        shard_log = self._make_log()
        self.log = shard_log
        archive, notary, watch = around.archive, around.notary, around.observe(self.shard)
        dispatch = ShardDispatch(around.dispatcher, self.shard, self._wake)
        self.dispatch = dispatch
        owner = Owner(
            shard_log=shard_log,
            identity=f"{around.coordinator}.{around.incarnation}.{secrets.token_hex(4)}",
            clock=around.clock,
            chance=random.random,
            new_id=_new_id,
            home=around.layout.home,
            dispatch=dispatch,
            peers=self,
            snapshots=self._make_snapshots(),
            archiver=Archiver(archive, self.shard, notary, gather_s=GATHER_S, watch=watch),
            builtin=around.builtin,
            limits=around.limits,
            traced=around.traced,
            inbox_bytes_max=around.inbox_bytes_max,
            backlog_ms=around.backlog_ms,
            folder=folder,  # type: ignore[arg-type]
            watch=watch,
            taken=dispatch.take_over,
            slices=around.slices,
        )
        dispatch.on_failed = lambda results: owner.post_results(
            ResultBatch(1, around.coordinator, around.incarnation, results), None, 0
        )
        dispatch.on_deposed = owner.doubt
        self.owner = owner
        serving = asyncio.create_task(self._serve(owner, shard_log), name=f"serve-{self.shard}")
        serving.add_done_callback(self._ended)
        try:
            await owner.run()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            for subscription in self._subscriptions:
                subscription.close()
            self._subscriptions.clear()
            self.owner = self.dispatch = self.log = None
            dispatch.close()

    def _wake(self) -> None:
        if self.owner is not None:
            self.owner.wake()

    async def _serve(self, owner: Owner, shard_log: ShardLog) -> None:
        """Open the subjects once the shard is taken; then tail the log into the feed."""
        await owner.leading.wait()
        self.problem = ""
        self._served = True
        if isinstance(shard_log, JetStreamLog) and shard_log.taken_at_ms:
            # Logged time is to go on from the broker's: compared at each takeover.
            past_ms = int((asyncio.get_running_loop().time() - shard_log.taken_s) * 1_000)
            self._around.skewed(self._around.clock.now_ms() - past_ms - shard_log.taken_at_ms)
        bus, shard = self._around.bus, self.shard
        self._subscriptions = [
            bus.subscribe(subjects.command("*", shard), self._on_command),
            bus.subscribe(subjects.result("*", shard, "*"), self._on_worker),
            bus.subscribe(subjects.peer(shard), self._on_peer),
        ]
        if self.dispatch is not None:
            self.dispatch.announce()
        async with contextlib.AsyncExitStack() as beside:
            rising = keep_level(owner, shard_log, self._around.feature_level)
            await beside.enter_async_context(self._beside(rising, "feature level"))
            if shard == subjects.SYSTEM_SHARD:
                settings = self._settings_kept(owner)
                await beside.enter_async_context(self._beside(settings, "settings"))
                if self._around.incoming is not None:
                    watch = self._around.observe(shard) or Watch()
                    events = Reader(self._around.incoming, owner, watch).run()
                    await beside.enter_async_context(self._beside(events, "events"))
            await feed(bus, shard_log, self._around.observe(shard))

    @contextlib.asynccontextmanager
    async def _beside(self, work: Coroutine[Any, Any, None], name: str) -> AsyncGenerator[None]:
        """Do *work* meanwhile."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _settings_kept(self, owner: Owner) -> None:
        """Have the settings in the log: a tick that cannot be logged takes them with it."""
        logged = asyncio.Event()
        while not logged.is_set():
            owner.post_logged(self._keep_settings, logged.set)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTINGS_S):
                    await logged.wait()

    def _keep_settings(self, machine: Machine) -> None:
        """The system shard remembers the layout: ids already hash to it."""
        wanted = self._around.layout.settings()
        stored = machine.state.settings.get("layout")
        if stored is None:
            machine.emit_shard(SettingsChanged({"layout": wanted}))
        elif stored != wanted:
            self.problem = (
                f"the cluster was made with shards {stored}, and {wanted} is configured: "
                "set coordinator.shards_* back"
            )
            log.critical("shard layout differs", extra={"stored": stored, "wanted": wanted})

    # -- messages --------------------------------------------------------------------------------

    def _on_command(self, message: Message) -> None:
        owner = self.owner
        if owner is None:
            return
        respond = self._responder(message)
        namespace = message.subject.split(".")[2]
        try:
            batch = decode(ClientBatch, message.data)
        except InvalidRequest as error:
            pending = PendingBatch(namespace, [None], respond, 0)  # type: ignore[list-item]
            pending.answer(0, reply_of(Refusal.of(error)))
            return
        requests = short_pages(batch.requests, self._around.page_runs_max)
        pending = PendingBatch(namespace, requests, respond, len(message.data))
        if batch.namespace != namespace:
            pending.refuse(WRONG_NAMESPACE)
        elif needs_check(pending):
            if self._checking_bytes + pending.size > self._around.inbox_bytes_max:
                pending.refuse(BUSY)
            else:
                self._spawn(self._post_checked(owner, pending))
        else:
            owner.post_requests(pending)

    def _responder(self, message: Message) -> Callable[[bytes], object]:
        return partial(self._around.respond or self._around.bus.respond, message)

    async def _post_checked(self, owner: Owner, pending: PendingBatch) -> None:
        self._checking_bytes += pending.size
        try:
            await check_explicit(self._around.archive, owner, pending)
        finally:
            self._checking_bytes -= pending.size
        owner.post_requests(pending)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(self._ended)

    def _on_worker(self, message: Message) -> None:
        owner = self.owner
        if owner is None:
            self._around.refused("not_owner")
            return
        try:
            request = _requests.decode(message.data)
        except UNREADABLE as error:
            self._around.refused("malformed")
            log.warning("result not understood", extra={"error": str(error)})
            return
        _, _, namespace, _, worker = message.subject.split(".")
        if request.worker != worker or not _all_of(request, f"{namespace}/"):
            # Permissions on subjects mean something only if the payload agrees.
            self._around.refused("malformed")
            log.warning(
                "result refused: wrong subject",
                extra={"worker": request.worker, "subject": message.subject},
            )
            return
        respond = self._responder(message)
        if isinstance(request, ResultBatch):
            owner.post_results(request, respond, len(message.data))
        elif isinstance(request, TurnReport):
            owner.post_turn(request, respond, len(message.data))
        else:
            owner.post_claim(request, respond)

    def _on_peer(self, message: Message) -> None:
        if self.owner is None or self.standstill.on:
            return  # it is sent again
        try:
            delivery = decode(Delivery, message.data)
        except InvalidRequest as error:
            log.warning("peer message not understood", extra={"error": str(error)})
            return
        self.owner.post_delivery(delivery.message, delivery.content, self._responder(message))

    def send(self, outgoing: Outgoing, logged: Callable[[str], None]) -> None:
        """See `Peers.send`."""
        if (name := outgoing.message) in self._sending:
            return
        self._sending.add(name)

        async def deliver() -> None:
            data = encode(Delivery(1, outgoing.message, outgoing.content))
            bus, subject = self._around.bus, subjects.peer(outgoing.shard)
            try:
                await bus.request(subject, data, timeout_s=PEER_TIMEOUT_S)
            except HeadraceError as error:
                # The owner hands it out again until it is cleared.
                log.debug("peer not reached", extra={"error": str(error)})
                return
            finally:
                self._sending.discard(name)
            if not self.standstill.on:
                logged(name)

        self._spawn(deliver())


def _all_of(request: WorkerRequest, prefix: str) -> bool:
    """Tell whether *request* is about runs of one namespace (*prefix*: its name and a slash)."""
    if not isinstance(request, ResultBatch):
        return request.run.startswith(prefix)
    return all(result.run.startswith(prefix) for result in request.results)


def _new_id() -> str:
    return secrets.token_hex(8)
