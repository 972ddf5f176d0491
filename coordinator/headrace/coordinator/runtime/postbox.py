"""What an owner takes: it is kept for a coming tick, or turned away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headrace.coordinator.core import Machine, OutMessage, Refusal
from headrace.coordinator.runtime.admission import Admission
from headrace.coordinator.runtime.inbox import (
    ClaimAsked,
    Delivery,
    Inbox,
    Item,
    PendingBatch,
    Respond,
    Results,
    TurnTold,
    Work,
)
from headrace.coordinator.runtime.intake import Intake
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.shardlog.log import ShardLog
from headrace.messages import Claim, ResultBatch, ResultReply, TurnReport, encode
from headrace.telemetry import Clock

BUSY = Refusal("busy", "the shard's inbox is full", 100)
MOVED = Refusal("not-owner", "another coordinator owns the shard now", 50)


class Postbox:
    """Part of `Owner`. Its methods are called from the event loop, and never block."""

    _intake: Intake

    def __init__(
        self, shard_log: ShardLog, clock: Clock, watch: Watch, bytes_max: int, backlog_ms: int
    ) -> None:
        self._inbox = Inbox(bytes_max, clock.monotonic)
        self._admission = Admission(shard_log.shard, backlog_ms)
        self._inbox.is_timed = self._admission.limits
        self._watch = watch
        self._over = False
        self.at_once = shard_log.unread
        """Nobody reads the log, so a tick has nothing to wait for: see `Owner.work_now`."""
        self.machine: Machine | None = None

    def _post(self, item: Item, size: int) -> bool:
        if self._over:
            return False
        if not self._inbox.offer(item, size):
            self._watch.busy()
            return False
        return True

    def post_requests(self, batch: PendingBatch, *, works: bool = False) -> None:
        """Take a client's batch, or answer `busy`: all of it, or its new runs.

        *works*: the caller calls `work_now` in a moment, so that nobody else needs to be woken.
        """
        if self._admission.limits and self.machine:
            if count := self._admission.admit(batch, self.machine, self._inbox):
                self._watch.busy(count)
            if batch.is_answered:
                return
        wake = self._inbox.wake
        held, wake.held = wake.held, wake.held or (works and self.at_once)
        if self._post(batch, batch.size):
            self._inbox.new_runs += batch.new_runs
        else:
            batch.refuse(MOVED if self._over else BUSY)
        wake.held = held

    def post_results(self, batch: ResultBatch, respond: Respond | None, size: int) -> None:
        """Take a worker's results, or ask for them again later."""
        if not self._post(Results(batch, respond), size) and respond is not None:
            respond(encode(ResultReply([], 200)))

    def post_claim(self, claim: Claim, respond: Respond) -> None:
        """Take a claim; without an answer the worker asks again."""
        self._post(ClaimAsked(claim, respond), 256)

    def post_turn(self, report: TurnReport, respond: Respond, size: int) -> None:
        """Take what a workflow function did; without an answer it is sent again."""
        self._post(TurnTold(report, respond), size)

    def post_delivery(self, message: str, content: OutMessage, respond: Respond) -> None:
        """Take another shard's outbox message; without an answer it is sent again."""
        self._post(Delivery(message, content, respond), 512)

    def post(self, apply: Callable[[Machine], None]) -> None:
        """Run *apply* in a coming tick (our own background work)."""
        self._inbox.add(Work(apply))

    def post_logged(
        self, apply: Callable[[Machine], None], then: Callable[[], None], *, room: bool = False
    ) -> None:
        """Run *apply* in a coming tick, and *then* once that tick is in the log.

        A tick that cannot be logged is thrown away with the state: then *then* is not called.
        *room*: it is done in a full log too, since it makes room there.
        """
        self._inbox.add(Work(partial(self._apply, apply, then), makes_room=room))

    def _apply(
        self, apply: Callable[[Machine], None], then: Callable[[], None], machine: Machine
    ) -> None:
        apply(machine)
        self._intake.tick.logged.append(then)

    def wake(self) -> None:
        """Something changed outside (a worker joined, credit is back): look at the lanes."""
        self._inbox.wake.set()

    def doubt(self) -> None:
        """Somebody speaks of another owner: a tick asks the log whether the shard is still ours."""
        self.post(self._intake.doubt)

    def close_box(self) -> None:
        """Take nothing any more, and refuse what waits."""
        self._over = True
        self._inbox.close(MOVED)
