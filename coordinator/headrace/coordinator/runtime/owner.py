"""The owner of one shard: takes the log, ticks the machine, appends, and only then acts.

One tick: drain the inbox → apply → append → replies and effects. While the append is in flight,
what comes in is decided already, as the next tick: that is the group commit. Whatever depends on a
tick leaves after its append. The state runs ahead of the log by those two ticks, so what leaves
with the first one is made before the second one begins (`Taken.looks`: where that cannot be).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from headrace.coordinator.core import (
    Folder,
    Limits,
    Machine,
    TickEffects,
)
from headrace.coordinator.runtime.answers import Answers, EndView
from headrace.coordinator.runtime.archiver import Archiver
from headrace.coordinator.runtime.at_once import AtOnce
from headrace.coordinator.runtime.departures import Departures
from headrace.coordinator.runtime.ending import first_of, heed_cancel
from headrace.coordinator.runtime.handout import dispatched, gather, lose, schedule
from headrace.coordinator.runtime.inbox import (
    Item,
    refuse,
    turn_away,
    waits_for_room,
)
from headrace.coordinator.runtime.intake import NO_ROOM, Intake, Taken
from headrace.coordinator.runtime.keeper import Keeper
from headrace.coordinator.runtime.parker import park_led, resume
from headrace.coordinator.runtime.ports import Dispatch, Peers
from headrace.coordinator.runtime.postbox import BUSY, MOVED
from headrace.coordinator.runtime.slices import Slices
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.runtime.watch import Figures, Watch
from headrace.coordinator.runtime.writer import Rebuild, Sealed, Writer
from headrace.coordinator.shardlog.log import Fenced, LogFull, ShardLog
from headrace.errors import HeadraceError, Unreachable
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 0.25
RETAKE_PAUSE_S = 0.1
RESEND_OUTBOX_MS = 1_000


class Owner(AtOnce):
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
        traced: float = 0.0,
        inbox_bytes_max: int = 64 * 1024 * 1024,
        backlog_ms: int = 0,
        folder: Folder | None = None,
        observe: Callable[[TickEffects], None] | None = None,
        watch: Watch | None = None,
        taken: Callable[[], Awaitable[None]] | None = None,
        slices: Slices | None = None,
    ) -> None:
        """*identity* is unique to this life of this process; *folder* a warm standby's state.

        *traced*: see `Tick`; *backlog_ms*: see `Admission`. *taken* is awaited when the log has
        become ours, before anything is dispatched.
        """
        self.shard = shard_log.shard
        self._log = shard_log
        self._identity = identity
        self._clock = clock
        self._chance, self._home = chance, home
        self._dispatch = dispatch
        self._snapshots, self._archiver = snapshots, archiver
        self._builtin, self._limits, self._traced = builtin, limits, traced
        self._folder = folder
        self._watch = watch or Watch()
        AtOnce.__init__(self, shard_log, clock, self._watch, inbox_bytes_max, backlog_ms)
        self._wake = self._inbox.wake
        self._answers = Answers(self.shard, dispatch, archiver, slices)
        self._keeper = Keeper(
            shard_log,
            snapshots,
            clock,
            self._watch,
            logged=partial(self.post_logged, room=True),
            wake=self.wake,
        )
        self._room = self._keeper.room
        self._writer = Writer(
            shard_log, identity, clock, self._watch, new_id=new_id, appended=self._room.appended
        )
        self._intake = Intake(dispatch, self._answers, self._room, self._watch)
        self._departures = Departures(
            dispatch, peers, archiver, snapshots, self._answers, self._writer, self._watch, clock
        )
        self._departures.post, self._departures.observe = self.post, observe
        self._taken = taken
        self._resend_ms = 0
        self.settled = True
        """The state holds nothing but what is in the log (no append is in flight)."""
        self.leading = asyncio.Event()
        """Set once the shard is taken and answers."""

    def figures(self) -> Figures:
        """Return what waits here, and how full the log is."""
        ended = self._archiver
        waiters = self._answers.waiters
        return Figures(self._inbox.bytes, waiters, ended.backlog, ended.oldest_ms, self._room)

    async def snapshot(self) -> None:
        """Take a snapshot now, beside those that are due; a failure is logged, as with them."""
        if self.machine is not None:
            await self.recorded()
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
                        group.create_task(park_led(machine, self._clock), name="parking")
                        await self._lead(machine)
                except* Rebuild as rebuild:
                    self._watch.rebuilt()
                    log.warning(
                        "state is rebuilt from the log",
                        extra={"shard": self.shard, "reason": str(first_of(rebuild))},
                    )
                heed_cancel()
                self.leading.clear()
        except BaseExceptionGroup as errors:
            heed_cancel()
            # One cause is enough: a fenced owner has nothing else to say.
            raise first_of(errors.subgroup(Fenced) or errors) from None
        finally:
            self.leading.clear()
            self.machine = None
            self.close_box()
            self._answers.refuse(MOVED)
            await self._log.close()

    async def _take(self) -> Machine:
        """Take the log, fold it, and derive what a leader needs."""
        began = self._clock.monotonic()
        folder, self._folder = self._folder, None
        folder = folder or Folder(await self._snapshots.load(self.shard, self._builtin))
        state = folder.state
        after, known = state.batch_position, state.batch_index
        while True:
            try:
                await self._log.take(self._identity, folder.fold, after=after)
                break
            except (Unreachable, LogFull) as error:
                log.warning("shard not taken yet", extra={"shard": self.shard, "error": str(error)})
                after = state.batch_position
                await asyncio.sleep(RETAKE_PAUSE_S * 5)
        await self._prepare()
        machine = Machine(
            state, chance=self._chance, home=self._home, limits=self._limits, traced=self._traced,
            level=self._log.feature_level,
        )  # fmt: skip
        machine.begin(self._clock.now_ms())
        # What follows from taking over is decided in the first tick: all of this is in the log.
        await resume(machine)
        self.machine, self.settled, self._open = machine, True, None
        self._snapshots.begin(state)
        self._archiver.begin(machine.ended)
        self._answers.begin()
        machine.ended = []
        self._writer.epoch = self._log.epoch
        self._dispatch.adopt(self._log.epoch, dispatched(state))
        log.info(
            "shard taken",
            extra={"shard": self.shard, "epoch": self._log.epoch, "runs": len(state.runs)},
        )
        self.leading.set()
        self._wake.set()
        self._watch.taken(self._clock.monotonic() - began, state.batch_index - known)
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
                await self._wait(machine)
            if self._failure is not None:
                raise self._failure
            if self.at_once:
                if self._tick_now(machine):
                    await asyncio.sleep(0)
                continue
            self._wake.clear()
            tick: Taken | None = self._begin(machine)
            self._decide(machine)
            while tick is not None:
                tick = await self._conclude(machine, tick)

    async def _wait(self, machine: Machine) -> None:
        """Return when there is something to do: something has come, or a timer is due."""
        self._idle, self._due_ms = True, machine.timers.next_ms()
        try:
            if self._due_ms:
                # A timer of months is looked at once an hour: clocks are set, hosts sleep.
                left_s = (self._due_ms - self._clock.now_ms()) / 1_000
                await self._wake.within(min(left_s, 3_600.0))
            else:
                await self._wake.wait()
        finally:
            self._idle = False

    def _begin(self, machine: Machine) -> Taken:
        """Begin a tick with a state that holds nothing but what is in the log."""
        if self._keeper.copies:
            for copy in self._keeper.copies:
                copy.copy(machine)
            self._keeper.copies.clear()
        tick = self._intake.tick = Taken(self._clock.monotonic())
        return tick

    def _decide(self, machine: Machine) -> None:
        """Take in what has come, and state what follows from it; into the tick that was begun."""
        tick = self._intake.tick
        tick.size += self._inbox.bytes
        items = self._inbox.take()
        tick.size -= self._inbox.bytes
        tick.items += items
        if not machine.dirty:
            machine.begin(self._clock.now_ms())
        for item in items:
            self._intake.apply(machine, item)
        timers = machine.timers.heap
        if timers and timers[0][0] <= machine.state.now_ms:
            self._fire_timers(machine, timers[0][0])
        machine.settle()
        if machine.questions.open or machine.questions.settled:
            self._intake.tell(machine)
        if machine.gatherings:
            gather(machine, self._dispatch)
        count = schedule(machine, self._dispatch, tick) if machine.ready.filled else 0
        if self._admission.limits:
            self._admission.look(machine.ready, self._dispatch, count, self._clock.monotonic())

    def _fire_timers(self, machine: Machine, due_ms: int) -> None:
        if fired := machine.fire_timers():
            self._watch.timers(fired, machine.state.now_ms - due_ms)

    async def _conclude(self, machine: Machine, tick: Taken) -> Taken | None:
        """Log a decided tick; answer and act. Return the next one if it was decided meanwhile."""
        effects, ahead = None, None
        views: Sequence[EndView] = ()
        if machine.dirty:
            effects, views, ahead = await self._log_tick(machine, tick)
        else:
            tick.show(self._answers, machine)
            if tick.asserts and not await self._still_ours(tick.items):
                tick.unsay()
            effects = machine.unlogged_effects()
        self._departures.leave(machine, tick, effects, views)
        self._end(machine, tick, ahead)
        return ahead

    def _end(self, machine: Machine, tick: Taken, ahead: Taken | None) -> None:
        """Tell those who wait for the tick and, if the state allows, have waited long enough."""
        self.settled = ahead is None
        for callback in tick.logged:
            callback()
        if self.settled and self._answers.waiting:
            now_ms = self._clock.now_ms()
            if self._answers.due(now_ms):
                self._answers.time_out(machine, now_ms)

    async def _tick_without_room(self, machine: Machine) -> None:
        """A tick while the log is full: answer questions, and log nothing but what makes room."""
        tick = self._begin(machine)
        tick.looks = True
        items = self._inbox.take_all_but(waits_for_room)
        machine.begin(self._clock.now_ms())
        for item in items:
            self._intake.apply_without_room(machine, item)
        if machine.dirty:
            effects, views, _ = await self._log_tick(machine, tick)
            self._departures.act(machine, effects, views)
        else:
            tick.show(self._answers, machine)
            if tick.asserts and not await self._still_ours(items):
                tick.unsay()
        for respond, arguments in tick.replies:
            respond(*arguments)
        self._end(machine, tick, None)
        if not self._room.full:
            # What has waited for room is not to wait for somebody to come, too.
            self._wake.set()

    async def _log_tick(
        self, machine: Machine, tick: Taken
    ) -> tuple[TickEffects, Sequence[EndView], Taken | None]:
        """Append the tick. Raises `Fenced` and `Rebuild`, in silence: whether it took effect is
        for the next owner of the log to say."""
        sealed = self._writer.seal(machine)
        # Behind the seal: the runs' histories, which their views are made of, have the tick.
        tick.show(self._answers, machine)
        effects = machine.effects({})
        views = self._answers.views(effects.ended) if self._answers.waiting else ()
        self.settled = False
        ahead = None
        try:
            if not self._writer.append_now(machine.state, sealed):
                if self._may_run_ahead(tick):
                    ahead = await self._append_and_decide(machine, sealed)
                else:
                    await self._writer.append(machine.state, sealed)
        except LogFull as error:
            self._room.refused()
            self._watch.log_full()
            turn_away(tick.items, NO_ROOM)
            raise Rebuild("the log is full") from error
        return effects, views, ahead

    def _may_run_ahead(self, tick: Taken) -> bool:
        """Nobody will look at the state when *tick* is in the log."""
        if tick.looks or self._keeper.copies or self._room.full:
            return False
        return not self._answers.due(self._clock.now_ms())

    async def _append_and_decide(self, machine: Machine, sealed: Sealed) -> Taken | None:
        """Append, and decide the next tick meanwhile, if anything comes for it; return that one.

        It can be appended only behind this one: when this one fails, nothing came of it.
        """
        wake, ahead = self._wake, None
        appending = asyncio.create_task(self._writer.append(machine.state, sealed), name="append")
        appending.add_done_callback(lambda _: wake.nudge())
        try:
            while not appending.done():
                await wake.wait()
                if not wake.is_set or appending.done():
                    continue
                if ahead is None:
                    ahead = self._intake.tick = Taken(self._clock.monotonic())
                elif ahead.full or (machine.dirty and machine.state.now_ms < self._clock.now_ms()):
                    # Under this tick's time, its timers would fire early by what the append takes.
                    break
                wake.clear()
                self._decide(machine)
            await appending
        except BaseException as error:
            appending.cancel()
            await asyncio.gather(appending, return_exceptions=True)
            if ahead is not None:
                turn_away(ahead.items, MOVED if isinstance(error, Fenced) else BUSY)
            raise
        return ahead

    async def _still_ours(self, items: Sequence[Item]) -> bool:
        """Tell whether the shard is ours, when no append tells; raises `Fenced`.

        A deposed owner knows nothing of what its successor has logged: it must not refuse for
        good what the successor waits for.
        """
        try:
            await self._log.confirm()
        except Unreachable as error:
            log.info("shard not confirmed", extra={"shard": self.shard, "error": str(error)})
            refuse(items, BUSY)
            return False
        return True

    async def _housekeeping(self) -> None:
        """Leases, waiters, lanes, outbox messages that got no answer."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            machine = self.machine
            if machine is None:
                continue
            now_ms = self._clock.now_ms()
            for loss in self._dispatch.lapsed(now_ms):
                self.post(partial(lose, loss))
            for worker, reason in self._dispatch.gone(now_ms):
                self.post(partial(Machine.lose_worker, worker=worker, reason=reason))
            # A tick answers whose time is over: between ticks the state may be ahead.
            if machine.expects or self._answers.waiting:
                self.wake()
            if machine.state.outbox and now_ms - self._resend_ms > RESEND_OUTBOX_MS:
                self._resend_ms = now_ms
                self.post(lambda m: m.posted.clear())
