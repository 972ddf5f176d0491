"""Ticks on a log that nobody reads: they are over before whoever asked for them goes on.

There is no append, so nothing has to wait for one (decisions 60 and 68): tasks are handed out while
a tick goes on, and it takes in what comes back at once.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

from headrace.coordinator.core import Fitting, Life, Machine, TaskLife, TickEffects
from headrace.coordinator.runtime.answers import Answers, EndView
from headrace.coordinator.runtime.departures import Departures
from headrace.coordinator.runtime.inbox import Wake
from headrace.coordinator.runtime.intake import Taken
from headrace.coordinator.runtime.postbox import Postbox
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.runtime.writer import Writer
from headrace.coordinator.shardlog.log import ShardLog
from headrace.messages import SubmitRun, TurnReply, TurnReport
from headrace.telemetry import Clock

TURN_S = 0.005
"""So long ticks may go on, and follow each other, without letting others have the event loop."""


LIVES_MAX = 256
"""Runs that wait to be recorded; further ones are submitted."""


class AtOnce(Postbox):
    """Part of `Owner`: how it works where `at_once` is set."""

    _clock: Clock
    _wake: Wake
    _answers: Answers
    _writer: Writer
    _departures: Departures

    def __init__(
        self, shard_log: ShardLog, clock: Clock, watch: Watch, bytes_max: int, backlog_ms: int
    ) -> None:
        Postbox.__init__(self, shard_log, clock, watch, bytes_max, backlog_ms)
        self._idle, self._due_ms = False, 0
        """Whether it waits for something to do, and until when at most; 0: no timer is armed."""
        self._failure: BaseException | None = None
        """Of a tick that was not made by `run`, which is to raise it."""
        self._open: Taken | None = None
        """The tick that goes on."""
        self._lives: list[Life | TaskLife] = []
        """Runs that have ended, for the next tick to record."""

    @abstractmethod
    def _begin(self, machine: Machine) -> Taken: ...

    @abstractmethod
    def _decide(self, machine: Machine) -> None: ...

    @abstractmethod
    def _end(self, machine: Machine, tick: Taken, ahead: Taken | None) -> None: ...

    def work_now(self) -> None:
        """Do what is in the inbox before this returns, if the log has nothing to wait for.

        Else, or when that takes long, it is done as always.
        """
        wake, machine = self._wake, self.machine
        if not wake.is_set:
            return
        if not self._idle or machine is None or not self.at_once:
            wake.nudge()
            return
        self._idle, wake.held = False, True
        try:
            self._tick_now(machine)
        except BaseException as error:
            # It is for those who run the owner.
            self._failure, wake.is_set = error, True
            if not isinstance(error, Exception):
                raise
        finally:
            self._idle, wake.held = True, False
            due_ms = machine.timers.next_ms()
            if wake.is_set or (due_ms and not 0 < self._due_ms <= due_ms):
                wake.nudge()

    def _tick_now(self, machine: Machine) -> bool:
        """Tick while there is something to do, on a log that nobody reads; tell whether to let
        others have the loop before there is more."""
        wake, now_s = self._wake, self._clock.monotonic
        until_s = 0.0
        while True:
            tick = self._open = self._open or self._begin(machine)
            until_s = until_s or tick.started_s + TURN_S
            goes_on = True
            while goes_on:
                wake.is_set = False
                self._decide(machine)
                if tick.sends:
                    self._departures.hand_out(tick)
                goes_on = wake.is_set and now_s() < until_s
            self._open = None
            self._conclude_now(machine, tick)
            if not wake.is_set:
                return False
            if now_s() >= until_s:
                return True

    def turn_now(self, report: TurnReport) -> TurnReply | None:
        """Record what a workflow function did, and return the reply, on a log that nobody reads;
        None: elsewhere, or when others are to have the loop first (`post_turn`).

        What follows from it is decided by the owner, in the same tick.
        """
        machine = self.machine
        if machine is None or not self.at_once or self._over:
            return None
        tick = self._open
        if tick is None:
            tick = self._open = self._begin(machine)
            machine.begin(self._clock.now_ms())
        elif self._clock.monotonic() >= tick.started_s + TURN_S:
            return None
        self._wake.set()
        try:
            return self._intake.turn(machine, report)
        except Exception as error:
            # It is for those who run the owner.
            self._failure = error
            return None

    def brief_now(
        self, namespace: str, request: SubmitRun, data: bytes | None = None
    ) -> Fitting | None:
        """Return what a run begins with that may begin before it is recorded; None: it is to be
        submitted. See `whole.brief`."""
        machine = self.machine
        if machine is None or not self.at_once or self._over or len(self._lives) >= LIVES_MAX:
            return None
        return machine.brief(namespace, request, data)

    def lived(self, life: Life | TaskLife, *, works: bool = False) -> bool:
        """Take a run that has begun and ended: what is asked from now on finds it recorded. False:
        it does not fit its limits, submit it.

        *works*: see `post_requests`.
        """
        machine = self.machine
        if machine is None or self._over or not life.fits(machine.limits):
            return False
        if not self._lives:
            wake = self._wake
            held, wake.held = wake.held, wake.held or works
            self.post(self._record_lives)
            wake.held = held
        self._lives.append(life)
        return True

    async def recorded(self) -> None:
        """Return when runs that have ended by now are recorded."""
        if self._lives and self.machine is not None:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.post_logged(lambda _machine: None, partial(done.set_result, None))
            await done

    def _record_lives(self, machine: Machine) -> None:
        lives, self._lives = self._lives, []
        for life in lives:
            machine.record_life(life)
        if self._watch.active:
            for life in lives:
                self._watch.request(SubmitRun)
                if isinstance(life, Life):
                    self._watch.request(TurnReport)

    def _conclude_now(self, machine: Machine, tick: Taken) -> None:
        """As `_conclude`, of a log that nobody reads: nobody else can have it, either."""
        views: Sequence[EndView] = ()
        if machine.dirty:
            self._writer.keep(machine)
            effects: TickEffects | None
            effects = done = machine.effects({})
            if self._answers.waiting:
                views = self._answers.views(done.ended)
        else:
            effects = machine.unlogged_effects()
        if tick.views:
            tick.show(self._answers, machine)
        self._departures.leave(machine, tick, effects, views)
        if tick.logged or self._answers.waiting:
            self._end(machine, tick, None)
