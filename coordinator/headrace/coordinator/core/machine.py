"""The state machine of a shard: commands in, events out, in ticks. Pure: time and chance come in.

A tick is ``begin`` → any number of commands → ``finish``, which returns the batch's parts to
append. The state already contains the tick then, so nothing that depends on it may leave the
owner (no reply, no effect) before the append is acknowledged. When the append is refused, the
machine is thrown away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple

import msgspec

from headrace.coordinator.core import losses, requests, results, shard_events, status
from headrace.coordinator.core.advance import advance, fail_node
from headrace.coordinator.core.commands import Order, Outgoing, Reply, TickEffects
from headrace.coordinator.core.evolve import evolve
from headrace.coordinator.core.fold import WHILE_QUARANTINED, batch_hash
from headrace.coordinator.core.outbox import deliver, drain_local
from headrace.coordinator.core.program import TASK
from headrace.coordinator.core.ready import ReadyQueue, Timers
from headrace.coordinator.core.scheduling import push_ready, schedule
from headrace.coordinator.core.state import OutMessage, Run, ShardState
from headrace.coordinator.core.timers import fire
from headrace.events import (
    BATCH_VERSION,
    Batch,
    OutboxCleared,
    PlansForgotten,
    PlanStored,
    RunEvent,
    RunEvicted,
    RunQuarantined,
    ShardEvent,
    StepFailed,
    encode_batch,
    encode_chunk,
)
from headrace.messages import (
    CancelStep,
    Claim,
    ClaimReply,
    ClientRequest,
    ResultBatch,
    Task,
)

PART_BYTES_MAX = 512 * 1024
"""An append is no larger than this, but for a single event (a plan, a payload) that is."""
PART_EVENTS_MAX = 1_000
"""Shard events of one append, for the same reason."""


class _Part(NamedTuple):
    """What one of a tick's log entries holds."""

    before: list[ShardEvent]
    chunks: list[msgspec.Raw]
    after: list[ShardEvent]


def _encoded(
    run: str, first: int, now_ms: int, events: list[RunEvent], bytes_max: int
) -> list[bytes]:
    """Return a run's events as one chunk, or as several that fit into parts."""
    data = encode_chunk(run, first, now_ms, events)
    if len(data) <= bytes_max or len(events) == 1:
        return [data]
    half = len(events) // 2
    return [
        *_encoded(run, first, now_ms, events[:half], bytes_max),
        *_encoded(run, first + half, now_ms, events[half:], bytes_max),
    ]


class Limits(NamedTuple):
    """Hard limits that the core itself enforces."""

    runs: int = 5_000_000
    plan_bytes: int = 4 * 1024 * 1024
    input_bytes: int = 512 * 1024
    request_bytes: int = 768 * 1024
    """Of a submit's input and carried results together: they are one event."""
    append_bytes: int = 0
    """Of one log entry, but for a single event that is larger; 0: `PART_BYTES_MAX`."""
    labels: int = 64
    label_bytes: int = 256
    """Of a label's name, and of its value."""
    events: int = 10_000_000
    """Of one run, about: one that has more fails."""
    losses: int = 20
    """Times that one step may lose its worker before it fails (a poison step)."""
    restarts: int = 10
    """Times that one job may begin anew."""
    signals: int = 10_000
    """Kept signals a run."""
    attempts: int = 60_000
    nodes: int = 1_000_000
    """Instances of one run."""
    output_bytes: int = 512 * 1024
    """Of one container, and of a run."""
    timers: int = 10_000
    """Timers that fire in one tick; the rest do in the next."""


class Machine:
    """One shard, led by this process."""

    def __init__(
        self,
        state: ShardState,
        *,
        chance: Callable[[], float],
        home: Callable[[str], int],
        limits: Limits | None = None,
    ) -> None:
        """Lead *state*. *chance* gives numbers in [0, 1); *home* the shard of an entity's key."""
        self.state = state
        self.chance = chance
        self.home = home
        self.limits = limits or Limits()
        self.ready = ReadyQueue()
        self.timers = Timers()
        self.ended: list[Run] = []
        self.orders: list[Order] = []
        self.outgoing: list[Outgoing] = []
        self.posted: set[str] = set()
        """Outbox messages that were handed out by this owner."""
        self._chunks: dict[str, tuple[Run, int, list[RunEvent]]] = {}
        self._opened = False
        self._evicted: set[str] = set()
        self._overgrown: list[Run] = []
        self._before: list[ShardEvent] = []
        self._after: list[ShardEvent] = []
        state.leading = True

    # -- ticks ------------------------------------------------------------------------------

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

    def _open(self) -> None:
        """The tick has its first event: do what every batch begins with (see the fold)."""
        self._opened = True
        shard_events.forget_expired(self.state)

    def emit(self, run: Run, event: RunEvent) -> None:
        """State a fact about *run* and apply it. Of a quarantined run only its end is one."""
        if run.quarantined and not isinstance(event, WHILE_QUARANTINED):
            return
        chunk = self._chunks.get(run.key)
        if chunk is None:
            if not self._opened:
                self._open()
            if run.events >= self.limits.events and not run.cancelling:
                self._overgrown.append(run)
            self._chunks[run.key] = (run, run.events + 1, [event])
        else:
            chunk[2].append(event)
        try:
            evolve(self.state, run, event)
        except Exception as error:
            # Followers fail at the very same place, with the same state; then all hear why.
            run.events = self._chunks[run.key][1] + len(self._chunks[run.key][2]) - 1
            self.quarantine(run, error)

    def emit_shard(self, event: ShardEvent) -> None:
        """State a fact about the shard and apply it."""
        if not self._opened:
            self._open()
        (self._before if isinstance(event, PlanStored) else self._after).append(event)
        shard_events.evolve_shard(self.state, event)
        if isinstance(event, RunEvicted):
            self._evicted.add(event.run)

    def is_evicted(self, key: str) -> bool:
        """Tell whether this tick evicted the run: its id is not free before the next one."""
        return key in self._evicted

    def quarantine(self, run: Run, error: Exception) -> None:
        """A fault that only this run has met: block it."""
        self.emit(run, RunQuarantined(f"{type(error).__name__}: {error}"[:1_000]))

    def settle(self) -> None:
        """Work off all that follows from the commands so far."""
        advance(self)
        while self._overgrown:
            requests.fail_run(
                self, self._overgrown.pop(), f"limit-exceeded: over {self.limits.events} events"
            )
            advance(self)
        state = self.state
        while state.outbox and drain_local(self):
            advance(self)

    @property
    def dirty(self) -> bool:
        """Tell whether the tick has events to append."""
        return bool(self._chunks or self._before or self._after)

    @property
    def has_effects(self) -> bool:
        """Tell whether there is something to do that needs no new event.

        So after a takeover, and when outbox messages are to be sent again: `effects` must be
        taken then although the tick is not `dirty`.
        """
        return bool(self.orders or self.outgoing or self.ended)

    def finish(self, *, batch_id: str, epoch: int) -> list[bytes]:
        """End the tick: return its log entries, to be appended in this order.

        Large ticks come in several parts; a reader ignores them until the last one is there.
        """
        state = self.state
        forgotten = shard_events.idle_plans(state)
        if forgotten:
            self.emit_shard(PlansForgotten(forgotten))
        parts = self._parts()
        last = len(parts) - 1
        entries: list[bytes] = []
        for number, (before, chunks, after) in enumerate(parts):
            state.batch_index += 1
            entry = encode_batch(
                Batch(
                    BATCH_VERSION,
                    f"{batch_id}.{number}",
                    state.batch_index,
                    state.batch_position if number == 0 else 0,
                    state.batch_hash,
                    epoch,
                    state.now_ms,
                    number < last,
                    before,
                    chunks,
                    after,
                )
            )
            state.batch_hash = batch_hash(entry)
            entries.append(entry)
        state.logged_ms = state.now_ms
        self._chunks = {}
        self._before, self._after = [], []
        self._evicted.clear()
        return entries

    def _parts(self) -> list[_Part]:
        """Split the tick: plans first, then the runs' chunks, then the shard's other events."""
        parts = [_Part([], [], [])]
        bytes_max = self.limits.append_bytes or PART_BYTES_MAX
        size = 0
        for stored in self._before:
            length = len(stored.data) if isinstance(stored, PlanStored) else 0
            if size and size + length > bytes_max:
                parts.append(_Part([], [], []))
                size = 0
            parts[-1].before.append(stored)
            size += length
        now_ms = self.state.now_ms
        for run, first, events in self._chunks.values():
            for data in _encoded(run.key, first, now_ms, events, bytes_max):
                if size and size + len(data) > bytes_max:
                    parts.append(_Part([], [], []))
                    size = 0
                parts[-1].chunks.append(msgspec.Raw(data))
                size += len(data)
                run.history.append(data)
                run.history_bytes += len(data)
        after = self._after
        parts[-1].after.extend(after[:PART_EVENTS_MAX])
        for begin in range(PART_EVENTS_MAX, len(after), PART_EVENTS_MAX):
            parts.append(_Part([], [], after[begin : begin + PART_EVENTS_MAX]))
        return parts

    def touched(self) -> list[str]:
        """Return the keys of runs with events in this tick; call it before `finish`."""
        return list(self._chunks)

    def census(self) -> tuple[Counter[type], list[StepFailed]]:
        """Return how many events of each type the tick has, and its failures.

        For metrics; call it before `finish`. Some 0.1 µs an event.
        """
        lists = [events for _, _, events in self._chunks.values()]
        counts = Counter(map(type, chain(self._before, self._after, *lists)))
        failed: list[StepFailed] = []
        if StepFailed in counts:
            failed = [e for events in lists for e in events if isinstance(e, StepFailed)]
        return counts, failed

    def effects(self, tasks: dict[str, list[Task]], touched: list[str]) -> TickEffects:
        """Take what the tick wants done; call it after `finish`."""
        taken = TickEffects(tasks, self.orders, self.outgoing, self.ended, touched)
        self.orders, self.outgoing, self.ended = [], [], []
        return taken

    # -- commands ---------------------------------------------------------------------------

    def request(self, namespace: str, request: ClientRequest) -> Reply:
        """Apply a client's request, or answer its query; return the result or a `Refusal`."""
        return requests.handle(self, namespace, request)

    def results(self, batch: ResultBatch) -> list[int]:
        """Record results; return the indexes of those that were refused."""
        return results.record(self, batch)

    def claim(self, claim: Claim, *, start_by_ms: int) -> ClaimReply:
        """Claim an at-most-once attempt."""
        return results.claim(self, claim, start_by_ms)

    def lose(self, run: str, step: int, attempt: int, *, worker: str, reason: str) -> None:
        """The holder of a dispatched attempt is lost."""
        losses.lose(self, run, step, attempt, worker, reason)

    def lose_worker(self, worker: str, reason: str) -> None:
        """A worker (by id, all its lives) will not come back: what becomes of its jobs."""
        losses.lose_worker(self, worker, reason)

    def fire_timers(self) -> int:
        """Fire what is due at the tick's time; return how many fired."""
        fired = 0
        for _ in range(self.limits.timers):
            due = self.timers.pop_due(self.state.now_ms)
            if due is None:
                break
            fired += fire(self, *due)
            advance(self)
        return fired

    def schedule(self, lane: str, credit: int, wire_lane: str) -> list[Task]:
        """Give at most *credit* ready steps of *lane* to *wire_lane* (a subject's token)."""
        return schedule(self, lane, credit, wire_lane)

    def deliver(self, message: str, content: OutMessage) -> None:
        """Apply an outbox message of another shard; idempotent."""
        deliver(self, message, content)

    def clear_outbox(self, messages: Iterable[str]) -> None:
        """Another shard has these in its log."""
        for message in messages:
            if message in self.state.outbox:
                self.emit_shard(OutboxCleared(message))
                self.posted.discard(message)

    # -- for the deciding modules -----------------------------------------------------------

    def push_ready(self, run: Run, instance: int, node: int) -> None:
        """Queue a task that may run."""
        push_ready(self, run, instance, node)

    def fail_node(self, run: Run, instance: int, kind: str, message: str) -> None:
        """Fail a node that is not dispatched."""
        fail_node(self, run, instance, kind, message)

    def stop_doomed(self, run: Run) -> None:
        """Order the workers to stop what nobody wants any more."""
        for step in sorted(run.doomed):
            self.orders.append(
                Order(
                    run.program.namespace,
                    "",
                    CancelStep(run.key, step, run.attempt[step], run.cancel_reason),
                )
            )

    # -- takeover ---------------------------------------------------------------------------

    def resume(self) -> None:
        """Derive from the state all that a new owner needs: agenda, ready queue, timers, outbox.

        Dispatched steps are left alone: their leases decide (see the dispatcher).
        """
        self.ready.clear()
        self.timers.clear()
        self.posted.clear()
        self.state.agenda.clear()
        self.state.outbox_news = True
        for run in self.state.runs.values():
            self.rebuild(run)

    def rebuild(self, run: Run) -> None:
        """Put everything about one run on the agenda, the timers and the ready queue."""
        state = self.state
        if status.is_final(run.state):
            self.ended.append(run)
            return
        for instance, when_ms in run.due.items():
            self.timers.push(when_ms, run.key, instance)
        if run.state != status.RUNNING or run.quarantined:
            return
        for instance, value in enumerate(run.status):
            if value == status.PENDING:
                if not run.waiting[instance] and run.may_begin(instance):
                    state.agenda.append((run, instance))
            elif value == status.RUNNING:
                state.agenda.append((run, ~instance))
        state.agenda.append((run, ~0))
        if run.doomed:
            self.stop_doomed(run)

    def ready_tasks(self, run: Run) -> list[int]:
        """Return the run's tasks that are ready now (for views; O(instances))."""
        now_ms = self.state.now_ms
        kind = run.program.kind
        return [
            i
            for i in range(len(run.status))
            if kind[run.locate(i)[0]] == TASK and run.is_ready(i, now_ms)
        ]
