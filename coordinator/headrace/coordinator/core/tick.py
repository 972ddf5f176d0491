"""What the deciding modules work on: the state, what a tick has stated, and what it wants done.

A tick states facts (`emit`, `emit_shard`), which are applied at once and logged when it ends, and
gathers effects, which leave after the append. This module decides nothing about runs and imports no
module that does: they import this one, and `machine` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.coordinator.core import shard_events
from headrace.coordinator.core.asking import Questions
from headrace.coordinator.core.capture import Capture
from headrace.coordinator.core.commands import Order, Outgoing
from headrace.coordinator.core.evolve import EVOLVE
from headrace.coordinator.core.fold import WHILE_QUARANTINED
from headrace.coordinator.core.limits import Limits
from headrace.coordinator.core.listing import Listing
from headrace.coordinator.core.ready import KEY_TIMER, Audits, ReadyQueue, Timers
from headrace.coordinator.core.state import Run, ShardState
from headrace.events import (
    EVENT_LEVELS,
    NEWEST_LEVEL,
    PlanStored,
    RunEvent,
    RunEvicted,
    RunQuarantined,
    ShardEvent,
)
from headrace.messages import CancelStep, TurnWake


class Tick:
    """One shard's working state, led by this process, from one append to the next."""

    dirty: bool
    """The tick has events to append."""
    changed: int
    long: list[Run]
    """See `TickEffects`."""

    def __init__(
        self,
        state: ShardState,
        *,
        chance: Callable[[], float],
        home: Callable[[str], int],
        limits: Limits | None = None,
        level: int = NEWEST_LEVEL,
        traced: float = 0.0,
    ) -> None:
        """Lead *state*. *chance* gives numbers in [0, 1); *home* the shard of an entity's key;
        *level*: the feature level that every reader of the log has; *traced*: the share, 0 to 1,
        of the runs that come in nobody's trace that are to have one of their own."""
        self.state = state
        self.chance = chance
        self.home = home
        self.limits = limits or Limits()
        self.level, self.traced = level, traced
        # Indexes that can be derived from the state.
        self.ready = ReadyQueue()
        self.timers = Timers()
        self.audits = Audits()
        self.key_timers: dict[str, int] = {}
        """Key with terms -> the earliest of its timers."""
        self.listing = Listing(state.runs)
        self.preferring: dict[tuple[str, int], int] = {}
        """Sticky steps that wait for the worker that they prefer -> until when."""
        self.gatherings: dict[tuple[str, int], tuple[str, tuple[str, ...]]] = {}
        """Broadcasts that may begin -> (namespace, labels) of the workers that they are about."""
        # Effects.
        self.ended: list[Run] = []
        self.orders: list[Order] = []
        self.outgoing: list[Outgoing] = []
        self.wakes: list[tuple[str, TurnWake]] = []
        """(namespace, order) to workers whose turn has news."""
        self.questions = Questions()
        self.posted: set[str] = set()
        """Outbox messages that were handed out by this owner."""
        self.archived: dict[str, Run] = {}
        """Finished runs that the archive has, and whose end somebody has not heard of."""
        self.overgrown: list[Run] = []
        """Runs that have reached their limit of events: they are to fail."""
        self.copying: Capture | None = None
        """A snapshot that is being made: it is told before a run changes."""
        self.aborted: list[tuple[Run, str]] = []
        """Runs that are to fail at once, with the reason (`on-failure: abort`)."""
        self.changed, self.long = 0, []
        # What is to be logged.
        self._chunks: dict[str, tuple[Run, int, list[RunEvent]]] = {}
        self._before: list[ShardEvent] = []
        self._after: list[ShardEvent] = []
        self.dirty = self._opened = False
        self.evicted: set[str] = set()
        """Keys of runs that this tick evicted: their ids are not free before the next one."""
        state.leading = True

    def begin(self, now_ms: int) -> None:
        """Begin a tick; logged time never goes back.

        A tick has one time: while there are events to append, it goes on under its own.
        """
        if self.dirty:
            return
        state = self.state
        if now_ms > state.now_ms:
            state.now_ms = now_ms
        self._opened = False
        if len(self.listing.fresh) >= self.listing.block:
            self.listing.order_fresh()

    # -- facts --------------------------------------------------------------------------------

    def _open(self) -> None:
        """The tick has its first event: do what every batch begins with (see the fold)."""
        self._opened = True
        shard_events.forget_expired(self.state)

    def may_state(self, kind: type[Any]) -> bool:
        """Tell whether every reader of the log knows events of this type by now."""
        return EVENT_LEVELS.get(kind, 0) <= self.level

    def emit(self, run: Run, event: RunEvent) -> None:
        """State a fact about *run* and apply it. Of a quarantined run only its end is one."""
        if run.quarantined and not isinstance(event, WHILE_QUARANTINED):
            return
        chunk = self._chunks.get(run.key)
        if chunk is None:
            if not self._opened:
                self._open()
            if run.events >= self.limits.events and not run.cancelling:
                self.overgrown.append(run)
            if self.copying is not None:
                self.copying.keep(run)
            self.dirty = True
            self._chunks[run.key] = (run, run.events + 1, [event])
        else:
            chunk[2].append(event)
        try:
            # `evolve`, without the call: this is done for every event.
            run.events += 1
            EVOLVE[type(event)](self.state, run, event)
        except Exception as error:
            # Followers fail at the very same place, with the same state; then all hear why.
            run.events = self._chunks[run.key][1] + len(self._chunks[run.key][2]) - 1
            self.quarantine(run, error)

    def emit_shard(self, event: ShardEvent) -> None:
        """State a fact about the shard and apply it."""
        if not self._opened:
            self._open()
        self.dirty = True
        (self._before if isinstance(event, PlanStored) else self._after).append(event)
        shard_events.evolve_shard(self.state, event)
        if isinstance(event, RunEvicted):
            self.evicted.add(event.run)

    def quarantine(self, run: Run, error: Exception) -> None:
        """A fault that only this run has met: block it."""
        self.emit(run, RunQuarantined(f"{type(error).__name__}: {error}"[:1_000]))

    # -- effects ------------------------------------------------------------------------------

    def arm_key(self, key: str, when_ms: int) -> None:
        """Look at a key at *when_ms*, unless that is done before; one timer for each key."""
        if not 0 < self.key_timers.get(key, 0) <= when_ms:
            self.key_timers[key] = when_ms
            self.timers.push(when_ms, key, KEY_TIMER)

    def stop_doomed(self, run: Run) -> None:
        """Order the workers to stop what nobody wants any more."""
        for step in sorted(run.doomed):
            self.orders.append(
                Order(
                    run.program.namespace,
                    "",
                    CancelStep(run.key, run.wire(step), run.attempt[step], run.cancel_reason),
                )
            )
