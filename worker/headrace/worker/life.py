"""One life of a worker on a connection: lanes, executor, results, heartbeats and orders together.

Owns what these do with each other, from the first heartbeat to the last. Knows no files, no metrics
and no configuration: `headrace.worker.app` puts a process around it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import msgspec

from headrace.bus import Bus, Message, Subscription
from headrace.errors import HeadraceError
from headrace.messages import (
    UNREADABLE,
    CancelStep,
    DrainWorker,
    EpochNotice,
    LaneOffer,
    TurnWake,
    WorkerHeartbeat,
    WorkerOrder,
    encode,
    subjects,
)
from headrace.telemetry import Clock
from headrace.worker.consumer import Consumer, OpenPull
from headrace.worker.core import Assignments, Credit, Identity, Outbox, Stop, heartbeat
from headrace.worker.executor import Executor
from headrace.worker.heartbeats import Heartbeats
from headrace.worker.reporter import Reporter, Requests

log = logging.getLogger(__name__)

BATCH_BYTES_MAX: Final = 512 * 1024
"""Of one message with results."""
QUEUE_WAIT_MS_MAX: Final = 1_000
"""A task that waits longer for a slot here is handed back: another worker may have one free."""
NEWS_MS: Final = 100
FLUSH_S: Final = 2.0
FLUSH_PAUSE_S: Final = 0.2
FAREWELL_S: Final = 2.0
"""For the last results and log lines to reach their owners, when the grace is over."""

_ORDERS: Final[msgspec.msgpack.Decoder[WorkerOrder]] = msgspec.msgpack.Decoder(
    cast("Any", WorkerOrder)
)


class Terms(NamedTuple):
    """What a life may take on, and how long its ends may take."""

    slots: int
    queue_max: int
    outbox_bytes_max: int
    heartbeat_s: float
    grace_s: float
    """For what runs, after the order to drain."""
    kill_s: float
    """For what is killed then."""


class Watch:
    """Told what happens; does nothing by itself."""

    def received(self, count: int) -> None:
        """So many tasks came."""

    def dropped(self, reason: str, count: int) -> None:
        """So many of them are not taken."""

    def refused(self, count: int) -> None:
        """So many results came too late."""

    def sent(self, count: int, again: bool) -> None:
        """So many results left."""

    def drains(self) -> None:
        """The drain begins."""

    def ticked(self) -> None:
        """A regular heartbeat has left."""


class Life:
    """``listen``, then `heartbeats.run` in a task; ``drained`` returns after a drain; ``stop``."""

    def __init__(
        self,
        bus: Bus,
        requests: Requests,
        identity: Identity,
        terms: Terms,
        *,
        make_executor: Callable[[Assignments, Reporter, Callable[[], None]], Executor],
        open_pull: OpenPull,
        handlers: Mapping[str, dict[str, Any]],
        clock: Clock,
        watch: Watch | None = None,
    ) -> None:
        """*make_executor* gets what the executor's attempts are kept in and reported to, and whom
        to tell of those that leave nothing to report.

        *handlers* are those that are offered: name -> schema of its inputs.
        """
        self._bus, self.identity, self._terms, self._clock = bus, identity, terms, clock
        self._watch = watch or Watch()
        self._handlers = dict(handlers)
        self._problems: list[str] = []
        self.assignments = Assignments(slots=terms.slots, queue_max=terms.queue_max)
        self.outbox = Outbox(bytes_max=terms.outbox_bytes_max, batch_bytes_max=BATCH_BYTES_MAX)
        self.reporter = Reporter(
            requests,
            self.outbox,
            worker=identity.id,
            incarnation=identity.incarnation,
            on_room=self._made_room,
            on_refused=self._watch.refused,
            on_sent=self._watch.sent,
        )
        # Turns of workflow functions leave no result whose confirmation would make room.
        self.executor = make_executor(self.assignments, self.reporter, self._made_room)
        self.consumer = Consumer(
            identity=identity,
            executor=self.executor,
            outbox=self.outbox,
            credit=Credit(slots=terms.slots, queue_max=terms.queue_max),
            open_pull=open_pull,
            handlers=self._handlers,
            on_dropped=self._watch.dropped,
            on_received=self._received,
            holds_back=self._holds_back,
        )
        self._heartbeats_to = subjects.worker_heartbeat(
            identity.namespace, identity.id, identity.capabilities
        )
        self.heartbeats = Heartbeats(
            make=lambda complete: self._heartbeat(complete=complete, stopped=False),
            publish=lambda data: bus.publish(self._heartbeats_to, data),
            interval_s=terms.heartbeat_s,
            on_tick=self._tick,
            news=self._has_news,
            on_stall=self._stalled,
        )
        self._orders: Subscription | None = None
        self._listed_ms = 0
        self._catching_up: asyncio.Task[None] | None = None
        """Reads, after a freeze, what had been on its way since before it."""
        self.draining = False
        self.stalls = 0
        """Times that it stood still."""
        self.orders = {"lane": 0, "cancel": 0, "drain": 0, "epoch": 0}
        """Orders so far."""
        self._drain_asked = asyncio.Event()
        self._hurry = asyncio.Event()
        self._end_s = float("inf")
        """The loop's time at which what runs is killed."""

    @property
    def handlers(self) -> int:
        """How many handlers are offered beside the built-in ones."""
        return len(self._handlers)

    # -- from outside --------------------------------------------------------------------------

    def listen(self) -> None:
        """Hear orders. They must be heard before the first heartbeat provokes them."""
        identity = self.identity
        subject = subjects.worker_orders(
            identity.namespace, identity.id, identity.incarnation, identity.capabilities
        )
        self._orders = self._bus.subscribe(subject, self._order)
        self._bus.on_up(self._back)

    def drain(self, *, grace_s: float | None = None) -> None:
        """Take no more steps, finish what runs within the grace, then let `drained` return.

        Without *grace_s* it is that of the terms. Asked again, the earlier end counts.
        """
        if grace_s is None:
            grace_s = self._terms.grace_s
        self._end_s = min(self._end_s, asyncio.get_running_loop().time() + grace_s)
        self._drain_asked.set()
        if self.draining:
            self._hurry.set()

    async def drained(self) -> None:
        """Return when a drain was asked for and is over; heartbeats must go on meanwhile."""
        await self._drain_asked.wait()
        self.draining = True
        self._watch.drains()
        self.consumer.stop()
        returned = self.executor.hand_back()
        if self.executor.turns is not None:
            self.executor.turns.drain()
        self.heartbeats.kick()
        grace_ms = int((self._end_s - asyncio.get_running_loop().time()) * 1_000)
        log.info("draining", extra={"returned": returned, "grace_ms": grace_ms})
        # What came after our end would be held by nobody, and wait until its owner notices.
        if not await self._in_grace(self.consumer.leave()):
            log.info("tasks may be on their way", extra={"lanes": len(self.consumer.lanes)})
        await self._in_grace(self.executor.wait_idle())
        for assignment in list(self.assignments):
            self.executor.stop(assignment, Stop("shutdown", "the worker stops"))
        # Killing may take each step its own grace.
        try:
            async with asyncio.timeout(self._terms.kill_s):
                await self.executor.wait_idle()
        except TimeoutError:
            log.warning("steps do not end", extra={"steps": len(self.assignments)})
        # A result that is not confirmed is lost with us, and its step made again.
        if not await self._in_grace(self.reporter.drained(), least_s=FAREWELL_S):
            log.warning("results not confirmed", extra={"results": len(self.outbox)})

    async def stop(self, *, flush_logs: Callable[[], None] = lambda: None) -> None:
        """Stop whatever is left, and say goodbye; heartbeats have ended before."""
        if self._orders is not None:
            self._orders.close()
        self.consumer.close()
        self.draining = True
        if self._catching_up is not None:
            self._catching_up.cancel()
        left = await self.executor.close(kill_s=self._terms.kill_s)
        unconfirmed = await self.reporter.close()
        if left or unconfirmed:
            log.warning("stopped with loose ends", extra={"steps": left, "results": unconfirmed})
        flush_logs()
        farewell = self._heartbeat(complete=True, stopped=True)
        subject = self._heartbeats_to
        try:
            self._bus.publish(subject, encode(farewell))
            await self._bus.flush(timeout_s=FAREWELL_S)
        except HeadraceError as error:
            log.info("no farewell: the broker is away", extra={"error": str(error)})

    async def _in_grace(self, work: Coroutine[Any, Any, None], *, least_s: float = 0) -> bool:
        """Return True when *work* is done, False when the grace, or *least_s*, is over before."""
        loop = asyncio.get_running_loop()
        least_s += loop.time()
        ending = asyncio.ensure_future(work)
        try:
            while not ending.done():
                left_s = max(self._end_s, least_s) - loop.time()
                if left_s <= 0:
                    return False
                hurried = asyncio.ensure_future(self._hurry.wait())
                await asyncio.wait(
                    (ending, hurried), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                hurried.cancel()
                self._hurry.clear()
            ending.result()
            return True
        finally:
            ending.cancel()

    # -- what others call ----------------------------------------------------------------------

    def _order(self, message: Message) -> None:
        try:
            order = _ORDERS.decode(message.data)
        except UNREADABLE as error:
            log.error("order not understood", extra={"error": str(error)})
            return
        if isinstance(order, LaneOffer):
            self.orders["lane"] += 1
            if self.consumer.offer(order):
                self.heartbeats.kick()
        elif isinstance(order, CancelStep):
            self.orders["cancel"] += 1
            self.executor.cancel(order.run, order.step, order.attempt, order.reason)
        elif isinstance(order, DrainWorker):
            self.orders["drain"] += 1
            self.drain(grace_s=order.grace_ms / 1_000 if order.grace_ms else None)
        elif isinstance(order, TurnWake):
            if self.executor.turns is not None:
                self.executor.turns.wake(order)
        else:
            assert isinstance(order, EpochNotice)
            self.orders["epoch"] += 1
            self._owned(order)

    def _owned(self, notice: EpochNotice) -> None:
        """A shard's owner says that it is there, and wants to know what is held."""
        assignments = self.assignments
        if notice.epoch >= assignments.epochs.get(notice.shard, 0):
            # Said by an owner that can be reached; the one we wait for may be another.
            self.reporter.moved(notice.shard)
        assignments.note_epoch(notice.shard, notice.epoch, notice.round)
        self.heartbeats.kick()

    def _back(self) -> None:
        """The connection is up again."""
        self.heartbeats.kick()
        self.reporter.hurry()

    def _stalled(self) -> None:
        """This process stood still (SIGSTOP, a sleeping host) for as long as a lease, or longer.

        What waits here, and what lies in buffers, may have been given to somebody else: begun
        now, it would run twice. Its owner places it anew, or has done so.
        """
        if self._catching_up is None:
            self.stalls += 1
            returned = self.executor.hand_back()
            log.warning("stood still: steps that wait go back", extra={"returned": returned})
            self._catching_up = asyncio.create_task(self._catch_up(), name="catch-up")

    async def _catch_up(self) -> None:
        """End once all is read that was sent before now: the broker answers in order."""
        try:
            while True:
                try:
                    await self._bus.flush(timeout_s=FLUSH_S)
                    return
                except HeadraceError as error:
                    log.info("not caught up yet", extra={"error": str(error)})
                await asyncio.sleep(FLUSH_PAUSE_S)
        finally:
            self._catching_up = None

    def _holds_back(self) -> bool:
        if self.heartbeats.overdue():
            self._stalled()
        return self._catching_up is not None

    def _made_room(self) -> None:
        if not self.draining:
            self.consumer.adjust()

    def _received(self, count: int) -> None:
        self._watch.received(count)
        self.heartbeats.soon()

    def offer_handlers(
        self, handlers: Mapping[str, dict[str, Any]], problems: Sequence[str] = ()
    ) -> None:
        """Offer *handlers* from now on, and tell what is wrong with others."""
        self._handlers, self._problems = dict(handlers), list(problems)
        self.consumer.offer_handlers(self._handlers)
        self.heartbeats.kick()

    def _has_news(self) -> bool:
        """Tell whether a step that takes longer is not listed by any heartbeat yet."""
        before_ms = self._clock.now_ms() - NEWS_MS
        return any(
            self._listed_ms < assignment.taken_ms <= before_ms for assignment in self.assignments
        )

    def _tick(self) -> None:
        if self.assignments.queued:
            self.executor.hand_back_overdue(QUEUE_WAIT_MS_MAX)
        if not self.draining:
            self.consumer.adjust()
        self._watch.ticked()

    def _heartbeat(self, *, complete: bool, stopped: bool) -> WorkerHeartbeat:
        now_ms = self._clock.now_ms()
        self._listed_ms = now_ms
        return heartbeat(
            self.identity,
            self.assignments,
            self.outbox,
            now_ms=now_ms,
            lanes=self.consumer.lanes,
            handlers=self._handlers,
            problems=self._problems,
            draining=self.draining,
            stopped=stopped,
            complete=complete,
        )
