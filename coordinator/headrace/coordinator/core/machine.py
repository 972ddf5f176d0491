"""The state machine of a shard: commands in, events out, in ticks. Pure: time and chance come in.

A tick is ``begin`` → any number of commands → ``finish``, which returns the batch's parts to
append. The state already contains the tick then, so nothing that depends on it may leave the
owner (no reply, no effect) before the append is acknowledged. When the append is refused, the
machine is thrown away.

Here the deciding modules are put together; none of them imports this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from itertools import chain

from headrace.coordinator.core import (
    arrivals,
    entries,
    intents,
    losses,
    outbox,
    requests,
    results,
    scheduling,
    settling,
    shard_events,
    takeover,
    timers,
    turns,
    whole,
)
from headrace.coordinator.core.arrivals import Taken
from headrace.coordinator.core.asking import Question
from headrace.coordinator.core.commands import TickEffects
from headrace.coordinator.core.nodes import gathered
from headrace.coordinator.core.state import IDLE_PLANS_MAX, OutMessage, Run
from headrace.coordinator.core.tick import Tick
from headrace.events import NEWEST_LEVEL, PlansForgotten, RunEvent, StepFailed
from headrace.messages import (
    Arrival,
    Claim,
    ClaimReply,
    Task,
    TurnReply,
    TurnReport,
)


class Machine(Tick):
    """One shard, led by this process: a `Tick`, and the commands that it takes."""

    # -- ticks ------------------------------------------------------------------------------

    settle = settling.settle
    """Work off all that follows from the commands so far."""

    def finish(self, *, batch_id: str, epoch: int) -> list[bytes]:
        """End the tick: return its log entries, to be appended in this order.

        Large ticks come in several parts; a reader ignores them until the last one is there.
        """
        state = self.state
        if len(state.plans) > IDLE_PLANS_MAX:
            self._forget_plans()
        assert self.level >= NEWEST_LEVEL or all(map(self.may_state, self._types())), self._types()
        parts = entries.split(
            self._before,
            self._chunks.values(),
            self._after,
            now_ms=state.now_ms,
            bytes_max=self.limits.append_bytes,
            long=self.long,
        )
        logged = entries.chain(state, parts, batch_id=batch_id, epoch=epoch)
        self._end()
        return logged

    def finish_unread(self) -> None:
        """End the tick where nobody will read its entries: only the runs' histories are made."""
        if len(self.state.plans) > IDLE_PLANS_MAX:
            self._forget_plans()
        entries.keep(self._chunks.values(), self.state.now_ms, self.long)
        self.state.logged_ms = self.state.now_ms
        # Snapshots are told apart by it.
        self.state.batch_index += 1
        self._end()

    def _forget_plans(self) -> None:
        forgotten = shard_events.idle_plans(self.state)
        if forgotten:
            self.emit_shard(PlansForgotten(forgotten))

    def _end(self) -> None:
        self.dirty = False
        self.changed += len(self._chunks)
        self._chunks = {}
        if self._before or self._after:
            self._before, self._after = [], []
        if self.evicted:
            self.listing.evicted(len(self.evicted))
            self.evicted.clear()

    def touched(self) -> list[Run]:
        """Return the runs with events in this tick; call it before `finish`."""
        return [run for run, _, _ in self._chunks.values()]

    def told_of(self, key: str) -> Sequence[RunEvent]:
        """Return the events of a run in this tick; call it before `finish`."""
        chunk = self._chunks.get(key)
        return chunk[2] if chunk is not None else ()

    def census(self) -> tuple[Counter[type], list[StepFailed]]:
        """Return how many events of each type the tick has, and its failures.

        For metrics; call it before `finish`. Some 0.1 µs an event.
        """
        counts = self._types()
        failed: list[StepFailed] = []
        if StepFailed in counts:
            lists = [events for _, _, events in self._chunks.values()]
            failed = [e for events in lists for e in events if isinstance(e, StepFailed)]
        return counts, failed

    def _types(self) -> Counter[type]:
        lists = [events for _, _, events in self._chunks.values()]
        return Counter(map(type, chain(self._before, self._after, *lists)))

    def effects(self, tasks: dict[str, list[Task]]) -> TickEffects:
        """Take what the tick wants done; call it after `finish`."""
        taken = TickEffects(
            tasks, self.orders, self.outgoing, self.ended, self.changed, self.long, self.wakes
        )
        if self.ended:
            self.listing.ended(self.ended)
        self.orders, self.outgoing, self.ended, self.wakes = [], [], [], []
        self.changed, self.long = 0, []
        return taken

    def unlogged_effects(self) -> TickEffects | None:
        """Take what a tick without events wants done: what is derived again from the log, after
        a takeover, or for want of an answer; None: nothing."""
        if self.orders or self.outgoing or self.wakes:
            return self.effects({})
        return None

    # -- commands ---------------------------------------------------------------------------

    request = requests.handle
    results = results.record

    def claim(self, claim: Claim, *, start_by_ms: int) -> ClaimReply:
        """Claim an at-most-once attempt."""
        return results.claim(self, claim, start_by_ms)

    @property
    def expects(self) -> bool:
        """Whether something waits for workers, or for an answer of theirs."""
        return bool(self.ready.filled or self.gatherings or self.questions.open)

    def answers(self) -> list[Question]:
        """Take the questions that have an answer now, or have waited long enough for one."""
        questions = self.questions
        if questions.open:
            questions.expire(self.state.now_ms)
        taken, questions.settled = questions.settled, []
        return taken

    def turn(self, report: TurnReport) -> TurnReply:
        """Record what a workflow function did in its turn."""
        return turns.report(self, report)

    brief = whole.brief
    record_life = whole.record

    def lose(self, run: str, step: int, attempt: int, *, worker: str, reason: str) -> None:
        """The holder of a dispatched attempt is lost; *step* is its wire number."""
        found = self.state.runs.get(run)
        if found is not None:
            losses.lose(self, run, found.instance(step), attempt, worker, reason)

    def lose_worker(self, worker: str, reason: str) -> None:
        """A worker (by id, all its lives) will not come back: what becomes of its jobs."""
        losses.lose_worker(self, worker, reason)

    def gather(self, run: str, instance: int, workers: Sequence[tuple[str, str]]) -> None:
        """Tell a broadcast of `gatherings` which workers, (id, incarnation), are there now."""
        gathered(self, run, instance, workers)

    def fire_timers(self) -> int:
        """Fire what is due at the tick's time; return how many fired."""
        return timers.fire_due(self)

    schedule = scheduling.schedule

    def deliver(self, message: str, content: OutMessage) -> bool:
        """Apply an outbox message of another shard; idempotent. False: not now, send it again."""
        return outbox.deliver(self, message, content)

    def take_events(self, stream: str, events: Sequence[Arrival]) -> Taken:
        """Look at events from outside, of the stream that was made at *stream*; idempotent."""
        return arrivals.take(self, stream, events)

    def clear_outbox(self, messages: Iterable[str]) -> None:
        """Another shard has these in its log."""
        intents.clear(self, messages)

    evict = intents.evict

    # -- takeover ---------------------------------------------------------------------------

    def resume(self) -> None:
        """Derive from the state all that a new owner needs: agenda, ready queue, timers, outbox.

        Dispatched steps are left alone: their leases decide (see the dispatcher).
        """
        takeover.resume(self)

    def resuming(self) -> Generator[None, None, None]:
        """`resume` in pieces; nothing may be done between two of them."""
        return takeover.resuming(self)

    def ready_tasks(self, run: Run) -> list[int]:
        """Return the run's tasks that are ready now (for views; O(instances))."""
        return takeover.ready_tasks(self, run)
