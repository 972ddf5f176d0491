"""The owner of one shard: takes the log, ticks the machine, appends, and only then acts.

One tick: drain the inbox → apply → append → replies and effects. The inbox grows while the append
is in flight: that is the group commit. Whatever depends on a tick leaves after its append.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from headrace.coordinator.core import (
    Folder,
    Limits,
    Loss,
    Machine,
    OutMessage,
    Refusal,
    ShardState,
    TickEffects,
)
from headrace.coordinator.core.ready import Lane
from headrace.coordinator.runtime.answers import RENDERED, Answers
from headrace.coordinator.runtime.archiver import Archiver
from headrace.coordinator.runtime.inbox import PendingBatch, Respond, Wake, reply_of
from headrace.coordinator.runtime.keeper import Keeper
from headrace.coordinator.runtime.ports import Dispatch, Peers
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.runtime.watch import Watch, refusal_reason
from headrace.coordinator.runtime.writer import Rebuild, Writer
from headrace.coordinator.shardlog.log import Fenced, LogFull, ShardLog
from headrace.errors import HeadraceError, Unreachable
from headrace.messages import (
    Claim,
    ClaimReply,
    GetExplanation,
    GetHistory,
    GetPlan,
    GetRun,
    HasRuns,
    ListRuns,
    ResultBatch,
    ResultReply,
    StorePlan,
    SubmitRun,
    Task,
    encode,
)
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

TICK_ITEMS_MAX = 2_000
"""Inbox items of one tick, so that an append stays short."""
TICK_BYTES_MAX = 4 * 1024 * 1024
"""And their bytes, about."""
HOUSEKEEPING_S = 0.25
RETAKE_PAUSE_S = 0.1
START_BY_MS = 30_000
RESEND_OUTBOX_MS = 1_000

BUSY = Refusal("busy", "the shard's inbox is full", 100)
MOVED = Refusal("not-owner", "another coordinator owns the shard now", 50)
_MAY_CHANGE = frozenset(("busy", "unavailable", "unknown-plan"))
"""Refusals after which the client asks again, so that a wrong one does no harm."""
NO_ROOM = Refusal("unavailable", "the log is full; it is being made smaller", 1_000)
_NEEDS_ROOM = (SubmitRun, StorePlan)
_QUESTIONS = (GetRun, GetHistory, GetExplanation, GetPlan, ListRuns, HasRuns)
_LATER = encode(ResultReply([], 1_000))


class _Work(NamedTuple):
    """Something of our own, for a coming tick."""

    apply: Callable[[Machine], None]
    makes_room: bool
    """It is done although the log is full."""


class Owner:
    """Leads one shard until it is fenced or cancelled. Use: ``await owner.run()``."""

    def __init__(
        self,
        *,
        shard_log: ShardLog,
        identity: str,
        clock: Clock,
        chance: Callable[[], float],
        new_id: Callable[[], str],
        home: Callable[[str], int],
        dispatch: Dispatch,
        peers: Peers,
        snapshots: Snapshots,
        archiver: Archiver,
        builtin: frozenset[str],
        limits: Limits | None = None,
        inbox_bytes_max: int = 64 * 1024 * 1024,
        folder: Folder | None = None,
        observe: Callable[[TickEffects, int, float], None] | None = None,
        watch: Watch | None = None,
        taken: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """*identity* is unique to this life of this process; *folder* a warm standby's state.

        *taken* is awaited whenever the log has become ours, before anything is dispatched.
        """
        self.shard = shard_log.shard
        self._log = shard_log
        self._identity = identity
        self._clock = clock
        self._chance, self._home = chance, home
        self._dispatch, self._peers = dispatch, peers
        self._snapshots, self._archiver = snapshots, archiver
        self._builtin, self._limits = builtin, limits
        self._folder = folder
        self._observe = observe
        self._watch = watch or Watch()
        self._inbox: list[Any] = []
        self._inbox_bytes = 0
        self._inbox_bytes_max = inbox_bytes_max
        self._wake = Wake()
        self._answers = Answers(self.shard, dispatch, archiver)
        self._keeper = Keeper(
            shard_log, snapshots, clock, self._watch, logged=self._post_room, wake=self.wake
        )
        self._room = self._keeper.room
        self._writer = Writer(
            shard_log, identity, clock, self._watch, new_id=new_id, appended=self._room.appended
        )
        self._taken = taken
        self._over = False
        self._resend_ms = 0
        self._logged: list[Callable[[], None]] = []
        """To be called once the tick is in the log."""
        self.asserts = False
        """The tick's answers say "no", or "done already": true only if the shard is still ours."""
        self.settled = True
        """The state holds nothing but what is in the log (no append is in flight)."""
        self.leading = asyncio.Event()
        """Set once the shard is taken and answers."""
        self.machine: Machine | None = None

    # -- the inbox (called from the event loop, never blocking) --------------------------------

    def _post(self, item: Any, size: int) -> bool:
        if self._over:
            return False
        if self._inbox_bytes + size > self._inbox_bytes_max:
            self._watch.busy()
            return False
        self._inbox_bytes += size
        self._inbox.append((item, size))
        self._wake.set()
        return True

    @property
    def inbox_bytes(self) -> int:
        """Bytes of what waits."""
        return self._inbox_bytes

    @property
    def archive_waits_since_ms(self) -> int:
        """When the run ended that has waited longest for the archive; 0: none waits."""
        return self._archiver.oldest_ms

    def post_requests(self, batch: PendingBatch) -> None:
        """Take a client's batch, or answer `busy`."""
        if not self._post(batch, batch.size):
            batch.refuse(MOVED if self._over else BUSY)

    def post_results(self, batch: ResultBatch, respond: Respond, size: int) -> None:
        """Take a worker's results, or ask for them again later."""
        if not self._post((batch, respond), size):
            respond(encode(ResultReply([], 200)))

    def post_claim(self, claim: Claim, respond: Respond) -> None:
        """Take a claim; without an answer the worker asks again."""
        self._post((claim, respond), 256)

    def post_delivery(self, message: str, content: OutMessage, respond: Respond) -> None:
        """Take another shard's outbox message; without an answer it is sent again."""
        self._post(("deliver", message, content, respond), 512)

    def post(self, apply: Callable[[Machine], None]) -> None:
        """Run *apply* in a coming tick (our own background work)."""
        self._inbox.append((_Work(apply, makes_room=False), 0))
        self._wake.set()

    def _post_room(self, apply: Callable[[Machine], None], then: Callable[[], None]) -> None:
        def do(machine: Machine) -> None:
            apply(machine)
            self._logged.append(then)

        self._inbox.append((_Work(do, makes_room=True), 0))
        self._wake.set()

    def wake(self) -> None:
        """Something changed outside (a worker joined, credit is back): look at the lanes."""
        self._wake.set()

    async def snapshot(self) -> None:
        """Take a snapshot now, beside those that are due; a failure is logged, as with them."""
        if self.machine is not None:
            await self._keeper.snapshot(self.machine)

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Lead until cancelled. Raises `Fenced` when another owner has taken the shard."""
        try:
            while True:
                machine = await self._take()
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._archiver.run(self.post), name="archiver")
                        group.create_task(self._housekeeping(), name="housekeeping")
                        group.create_task(self._keeper.run(machine), name="snapshots")
                        await self._lead(machine)
                except* Rebuild as rebuild:
                    log.warning(
                        "state is rebuilt from the log",
                        extra={"shard": self.shard, "reason": str(_first(rebuild))},
                    )
                self.leading.clear()
        except BaseExceptionGroup as errors:
            # One cause is enough: a fenced owner has nothing else to say.
            raise _first(errors.subgroup(Fenced) or errors) from None
        finally:
            self.leading.clear()
            self.machine = None
            self._over = True
            self._refuse_all(MOVED)
            await self._log.close()

    async def _take(self) -> Machine:
        """Take the log, fold it, and derive what a leader needs."""
        began = self._clock.monotonic()
        folder, self._folder = self._folder, None
        if folder is None:
            folder = Folder(await self._snapshots.load(self.shard, self._builtin))
        state = folder.state
        after = state.batch_position
        while True:
            try:
                await self._log.take(self._identity, folder.fold, after=after)
                break
            except (Unreachable, LogFull) as error:
                log.warning("shard not taken yet", extra={"shard": self.shard, "error": str(error)})
                after = state.batch_position
                await asyncio.sleep(RETAKE_PAUSE_S * 5)
        await self._prepare()
        machine = Machine(state, chance=self._chance, home=self._home, limits=self._limits)
        machine.begin(self._clock.now_ms())
        # What follows from taking over is decided in the first tick: all of this is in the log.
        machine.resume()
        self.machine = machine
        self.settled = True
        self._snapshots.begin(state)
        self._archiver.begin(machine.ended)
        machine.ended = []
        self._writer.epoch = self._log.epoch
        self._dispatch.adopt(self._log.epoch, dispatched(state))
        log.info(
            "shard taken",
            extra={"shard": self.shard, "epoch": self._log.epoch, "runs": len(state.runs)},
        )
        self.leading.set()
        self._wake.set()
        self._watch.taken(self._clock.monotonic() - began)
        return machine

    async def _prepare(self) -> None:
        """The log is ours: have done what comes before leading."""
        while self._taken is not None:
            try:
                await self._taken()
                return
            except HeadraceError as error:
                log.warning("shard not led yet", extra={"shard": self.shard, "error": str(error)})
                await asyncio.sleep(RETAKE_PAUSE_S * 5)

    async def _lead(self, machine: Machine) -> None:
        while True:
            if self._room.full:
                await self._wake.wait()
                self._wake.clear()
                await self._tick_without_room(machine)
                continue
            if not self._wake.is_set:
                await self._something_to_do(machine)
            self._wake.clear()
            await self._tick(machine)

    async def _something_to_do(self, machine: Machine) -> None:
        """Wait for the inbox or the next timer."""
        due_ms = machine.timers.next_ms()
        if not due_ms:
            await self._wake.wait()
            return
        left_s = (due_ms - self._clock.now_ms()) / 1_000
        if left_s <= 0:
            return
        loop = asyncio.get_running_loop()
        # A timer of months is looked at once an hour: clocks are set, hosts sleep.
        handle = loop.call_later(min(left_s, 3_600.0), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            handle.cancel()

    async def _tick(self, machine: Machine) -> None:
        items = self._take_items()
        started = self._clock.monotonic()
        self._begin(machine)
        replies: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for item, size in items:
            self._inbox_bytes -= size
            self._apply(machine, item, replies)
        due_ms = machine.timers.next_ms()
        if fired := machine.fire_timers():
            self._watch.timers(fired, machine.state.now_ms - due_ms)
        machine.settle()
        sends = self._schedule(machine)
        effects = None
        if machine.dirty:
            effects = await self._log_tick(machine, items)
        else:
            if self.asserts and not await self._still_ours(items):
                replies.clear()
            if machine.orders or machine.outgoing:
                # Derived again from what is in the log: after a takeover, or for want of an answer.
                effects = machine.effects({}, [])
        for respond, arguments in replies:
            respond(*arguments)
        for lane, wire_lane, tasks in sends:
            self._dispatch.send(self._writer.epoch, lane, wire_lane, tasks)
        if effects is not None:
            self._act(machine, effects)
            if self._observe is not None:
                self._observe(effects, len(items), self._clock.monotonic() - started)
        self._end(machine)

    def _take_items(self) -> list[tuple[Any, int]]:
        """Take from the inbox what one tick does."""
        count = TICK_ITEMS_MAX
        if self._inbox_bytes > TICK_BYTES_MAX:
            size = count = 0
            for _, item_size in self._inbox[:TICK_ITEMS_MAX]:
                size += item_size
                if count and size > TICK_BYTES_MAX:
                    break
                count += 1
        items = self._inbox[:count]
        del self._inbox[:count]
        if self._inbox:
            self._wake.set()
        return items

    def _begin(self, machine: Machine) -> None:
        for copy in self._keeper.copies:
            copy.copy(machine)
        self._keeper.copies.clear()
        self.asserts = False
        self._logged.clear()
        machine.begin(self._clock.now_ms())

    def _end(self, machine: Machine) -> None:
        for callback in self._logged:
            callback()
        if self._answers.waiting:
            self._answers.time_out(machine, self._clock.now_ms())

    async def _log_tick(self, machine: Machine, items: Sequence[tuple[Any, int]]) -> TickEffects:
        """Append the tick. Raises `Fenced` and `Rebuild`, in silence: whether it took effect is
        for the next owner of the log to say."""
        touched = machine.touched()
        self.settled = False
        try:
            await self._writer.append(machine)
        except LogFull as error:
            self._room.refused()
            self._watch.log_full()
            self._turn_away(items)
            raise Rebuild("the log is full") from error
        self.settled = True
        return machine.effects({}, touched)

    async def _tick_without_room(self, machine: Machine) -> None:
        """A tick while the log is full: answer questions, and log nothing but what makes room."""
        items, self._inbox = self._inbox, []
        self._begin(machine)
        replies: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        for item, size in items:
            if isinstance(item, _Work) and not item.makes_room:
                self._inbox.append((item, size))
                continue
            self._inbox_bytes -= size
            if isinstance(item, PendingBatch):
                self._answer_without_room(machine, item, replies)
            elif isinstance(item, _Work):
                item.apply(machine)
            else:
                self._turn_away([(item, size)])
        if machine.dirty:
            self._act(machine, await self._log_tick(machine, []))
        elif self.asserts and not await self._still_ours(items):
            replies.clear()
        for respond, arguments in replies:
            respond(*arguments)
        self._end(machine)

    def _answer_without_room(
        self, machine: Machine, batch: PendingBatch, replies: list[Any]
    ) -> None:
        for index, request in enumerate(batch.requests):
            if request is not None and not isinstance(request, _QUESTIONS):
                batch.answer(index, reply_of(NO_ROOM))
                batch.requests[index] = None
        self._apply_requests(machine, batch, replies)

    async def _still_ours(self, items: Sequence[tuple[Any, int]]) -> bool:
        """Tell whether the shard is ours, when no append tells; raises `Fenced`.

        A deposed owner knows nothing of what its successor has logged: it must not refuse for
        good what the successor waits for.
        """
        try:
            await self._log.confirm()
        except Unreachable as error:
            log.info("shard not confirmed", extra={"shard": self.shard, "error": str(error)})
            self._refuse(items, BUSY)
            return False
        return True

    def _turn_away(self, items: Sequence[tuple[Any, int]]) -> None:
        """There is no room for these: say so to those who wait for an answer."""
        self._refuse(items, NO_ROOM)
        for item, _ in items:
            if not isinstance(item, PendingBatch | _Work) and isinstance(item[0], ResultBatch):
                item[1](_LATER)

    def _schedule(self, machine: Machine) -> list[tuple[Lane, str, list[Task]]]:
        sends: list[tuple[Lane, str, list[Task]]] = []
        ready = machine.ready
        for name in list(ready.filled):
            lane = ready.lanes[name]
            credit, wire_lane = self._dispatch.credit(lane)
            if credit > 0:
                tasks = machine.schedule(name, credit, wire_lane)
                if tasks:
                    self._dispatch.reserve(lane, len(tasks))
                    sends.append((lane, wire_lane, tasks))
        return sends

    # -- one item ------------------------------------------------------------------------------

    def _apply(self, machine: Machine, item: Any, replies: list[Any]) -> None:
        if isinstance(item, PendingBatch):
            self._apply_requests(machine, item, replies)
        elif isinstance(item, _Work):
            item.apply(machine)
        elif isinstance(item[0], ResultBatch):
            batch, respond = item
            refused = machine.results(batch)
            self._watch.request(ResultBatch)
            for index in refused:
                late = batch.results[index]
                run = machine.state.runs.get(late.run)
                self._watch.result_refused(refusal_reason(run, late.step, late.attempt))
                self.asserts = True
            self._dispatch.recorded(batch.results)
            replies.append((respond, (encode(ResultReply(refused)),)))
        elif isinstance(item[0], Claim):
            claim, respond = item
            self._watch.request(Claim)
            start_by_ms = machine.state.now_ms + START_BY_MS
            reply: ClaimReply = machine.claim(claim, start_by_ms=start_by_ms)
            self.asserts |= not reply.granted
            replies.append((respond, (encode(reply),)))
        else:
            _, message, content, respond = item
            self._watch.request(OutMessage)
            machine.deliver(message, content)
            self.asserts = True
            replies.append((respond, (b"",)))

    def _apply_requests(self, machine: Machine, batch: PendingBatch, replies: list[Any]) -> None:
        for index, request in enumerate(batch.requests):
            if request is None:
                continue
            if self._room.nearly_full and isinstance(request, _NEEDS_ROOM):
                value: Any = Refusal(
                    "unavailable", "the log is nearly full; submits are refused", 1_000
                )
            else:
                value = machine.request(batch.namespace, request)
            self._watch.request(type(request), refused=isinstance(value, Refusal))
            if isinstance(value, Refusal):
                self.asserts |= value.code not in _MAY_CHANGE
            elif isinstance(request, HasRuns):
                self.asserts = True
            if isinstance(value, RENDERED):
                if batch.wants_views:
                    now_ms = machine.state.now_ms
                    arguments = (machine, batch, index, request, value, now_ms)
                    replies.append((self._answers.render, arguments))
            else:
                replies.append((batch.answer, (index, reply_of(value))))

    # -- after the append ------------------------------------------------------------------------

    def _act(self, machine: Machine, effects: TickEffects) -> None:
        for order in effects.orders:
            self._dispatch.order(order)
        for outgoing in effects.outgoing:
            self._peers.send(outgoing, self._outbox_logged)
        for run in effects.ended:
            self._archiver.add(run)
            self._answers.ended(run)
        runs = machine.state.runs
        for key in effects.touched:
            run_now = runs.get(key)
            if run_now is not None:
                self._archiver.look_at(run_now)
        self._snapshots.count(len(effects.touched))

    def _outbox_logged(self, message: str) -> None:
        self.post(lambda machine: machine.clear_outbox([message]))

    async def _housekeeping(self) -> None:
        """Leases, waiters, lanes, outbox messages that got no answer."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            machine = self.machine
            if machine is None:
                continue
            now_ms = self._clock.now_ms()
            for loss in self._dispatch.lapsed(now_ms):
                self.post(partial(_lose, loss))
            for worker, reason in self._dispatch.gone(now_ms):
                self.post(partial(_lose_worker, worker, reason))
            # A tick answers those whose time is over: between ticks the state may be ahead.
            if machine.ready.filled or self._answers.waiting:
                self.wake()
            if machine.state.outbox and now_ms - self._resend_ms > RESEND_OUTBOX_MS:
                self._resend_ms = now_ms
                self.post(lambda m: m.posted.clear())

    def _refuse(self, items: Sequence[tuple[Any, int]], refusal: Refusal) -> None:
        for item, _ in items:
            if isinstance(item, PendingBatch):
                item.refuse(refusal)

    def _refuse_all(self, refusal: Refusal) -> None:
        self._refuse(self._inbox, refusal)
        self._inbox.clear()
        self._inbox_bytes = 0
        self._answers.refuse(refusal)


def _lose(loss: Loss, machine: Machine) -> None:
    machine.lose(loss.run, loss.step, loss.attempt, worker=loss.worker, reason=loss.reason)


def _lose_worker(worker: str, reason: str, machine: Machine) -> None:
    machine.lose_worker(worker, reason)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def dispatched(state: ShardState) -> list[tuple[str, int, int, str]]:
    """Return (run, step, attempt, lane) of every dispatched step; the lane is known by workers."""
    return [
        (run.key, step, run.attempt[step], "") for run in state.runs.values() for step in run.tokens
    ]
