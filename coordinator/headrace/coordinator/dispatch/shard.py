"""One shard's side of the dispatch: what it sent, who holds it, what is lost of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from headrace.coordinator.core import Facts, Holder, Loss, Order, WorkerFacts
from headrace.coordinator.core.ready import Lane
from headrace.coordinator.dispatch.leases import Leases
from headrace.coordinator.dispatch.rollcall import RollCall
from headrace.coordinator.traces import Sends
from headrace.messages import (
    CancelStep,
    EpochNotice,
    ResultStatus,
    StepError,
    StepResult,
    Task,
    TaskBatch,
    TurnWake,
    WorkerHeartbeat,
    encode,
    trace_id,
)

if TYPE_CHECKING:
    from headrace.coordinator.dispatch.dispatcher import Dispatcher

REPEAT_MS = 1_000
"""An order to stop is given again after this long, until the step has ended."""
RETELL_MS = 10_000
"""As long as a lost worker is wanted, its loss is told again after this long."""
_NO_OUTPUT = msgspec.Raw(b"\x80")


class _Cancel:
    __slots__ = ("namespace", "order", "sent_ms")

    def __init__(self, namespace: str, order: CancelStep, sent_ms: int) -> None:
        self.namespace, self.order, self.sent_ms = namespace, order, sent_ms


class ShardDispatch:
    """Implements the owner's `Dispatch` port."""

    one_window = False
    """A worker serves one namespace."""

    def __init__(self, dispatcher: Dispatcher, shard: int, wake: Callable[[], None]) -> None:
        self._all, self.shard, self.wake = dispatcher, shard, wake
        self.leases = Leases(shard)
        self._sends = Sends(dispatcher.traces, shard) if dispatcher.traces is not None else None
        self.on_failed: Callable[[list[StepResult]], None] = lambda _results: None
        """Told of tasks that cannot be sent to anybody."""
        self.on_deposed: Callable[[], None] = lambda: None
        """Told when workers know of a higher epoch than ours: somebody else owns the shard."""
        self._deposed_ms = 0
        self._losses: list[Loss] = []
        self._cancels: dict[tuple[str, int], _Cancel] = {}
        self._call = RollCall()
        self._epoch = self._round = 0
        """What is sent bears them; workers drop lower ones."""
        self._told_gone: dict[str, int] = {}
        """Worker -> when the owner was told that it will not come back."""
        dispatcher.shards[shard] = self

    def close(self) -> None:
        """The shard is not ours any more: nothing of it is sent again."""
        self._all.leave(self)

    # -- sending ------------------------------------------------------------------------------

    def credit(self, lane: Lane) -> tuple[int, str]:
        """See `Dispatch.credit`."""
        return self._all.credit(self, lane)

    def stands_idle(self, lane: Lane) -> bool:
        """See `Dispatch.stands_idle`."""
        return self._all.stands_idle(lane)

    def members(
        self, namespace: str, capabilities: tuple[str, ...]
    ) -> list[tuple[str, str]] | None:
        """See `Dispatch.members`."""
        return self._all.members(namespace, capabilities)

    def reserve(self, lane: Lane, count: int) -> None:
        """See `Dispatch.reserve`."""
        self.leases.reserve(lane.name, count)

    def send(self, epoch: int, lane: Lane, wire_lane: str, tasks: Sequence[Task]) -> None:
        """See `Dispatch.send`."""
        everything, leases = self._all, self.leases
        self._epoch = max(self._epoch, epoch)
        now_ms = everything.now_ms()
        if self._sends is not None:
            tasks = self._sends.begin(tasks, wire_lane, everything.clock.now_ms())
        leases.release(lane.name, len(tasks))
        leases.begin_all(tasks, lane=lane.name, wire_lane=wire_lane, now_ms=now_ms)
        step = everything.message_tasks(lane, wire_lane, len(tasks))
        for first in range(0, len(tasks), step):
            self._publish(wire_lane, epoch, lane.namespace, now_ms, tasks[first : first + step])
        everything.use(lane.namespace, wire_lane, lane.capabilities)

    def _publish(
        self, wire_lane: str, epoch: int, namespace: str, begun_ms: int, tasks: Sequence[Task]
    ) -> None:
        sent_ms = self._all.wall_ms(begun_ms)
        data = encode(TaskBatch(1, self.shard, epoch, namespace, sent_ms, list(tasks), self._round))
        if len(data) > self._all.settings.batch_bytes_max and len(tasks) > 1:
            half = len(tasks) // 2
            self._publish(wire_lane, epoch, namespace, begun_ms, tasks[:half])
            self._publish(wire_lane, epoch, namespace, begun_ms, tasks[half:])
        elif self._all.lanes.publish(namespace, wire_lane, self.shard, data, begun_ms=begun_ms):
            self._all.message_tasks_seen[len(tasks)] += 1
        else:
            self._publish_slim(wire_lane, epoch, namespace, begun_ms, tasks[0], len(data))

    def _publish_slim(
        self, wire_lane: str, epoch: int, namespace: str, begun_ms: int, task: Task, size: int
    ) -> None:
        """Send a task whose inputs are too large for a message by reference."""
        if len(task.inputs) < size // 2:
            self._too_large(task, f"it makes a message of {size} bytes; the broker takes less")
            return

        leases = self.leases

        def wanted() -> bool:
            return self.leases is leases and self._all.has(self)

        def send(slim: Task) -> None:
            # However long it took: only now can it be delivered, held, or lost.
            now_ms = self._all.now_ms()
            if wanted() and leases.sent(task.run, task.step, task.attempt, now_ms):
                self._publish(wire_lane, self._epoch, namespace, now_ms, [slim])

        def failed(reason: str) -> None:
            if not wanted():
                return
            self._too_large(task, f"its inputs of {size} bytes could not be stored: {reason}")

        leases.prepare(task.run, task.step, task.attempt)
        self._all.oversized.store(task, send, failed, wanted=wanted)

    def _too_large(self, task: Task, reason: str) -> None:
        """Sent again it would be refused again: the step fails, for good."""
        now_ms = self._all.clock.now_ms()
        error = StepError("task-too-large", reason, False)
        self.on_failed(
            [
                StepResult(
                    task.run,
                    task.step,
                    task.attempt,
                    task.token,
                    ResultStatus.FAILED,
                    _NO_OUTPUT,
                    now_ms,
                    now_ms,
                    error,
                )
            ]
        )

    def recorded(self, results: Sequence[StepResult]) -> None:
        """See `Dispatch.recorded`."""
        everything = self._all
        took: dict[str, list[int]] = {}
        sampled = False
        for lease, result in self.leases.end_all(results):
            trace = trace_id(self._sends.taken(result)) if self._sends is not None else ""
            # What was handed back says nothing about how long steps take.
            if result.status != ResultStatus.RETURNED:
                took_ms = result.ended_ms - result.started_ms
                took.setdefault(lease.lane, []).append(took_ms)
                if not sampled and result.started_ms:
                    sampled = True
                    waited_ms = result.started_ms - everything.wall_ms(lease.sent_ms)
                    everything.on_results(waited_ms, took_ms, trace)
            if self._cancels:
                self._cancels.pop((result.run, result.step), None)
        if took:
            now_ms = everything.now_ms()
            for lane, each_ms in took.items():
                everything.credits.rate(lane).add(len(each_ms), sum(each_ms), now_ms)

    # -- orders -------------------------------------------------------------------------------

    def order(self, order: Order) -> None:
        """See `Dispatch.order`; repeated until the step has ended."""
        cancel = order.cancel
        entry = _Cancel(order.namespace, cancel, 0)
        self._cancels[cancel.run, cancel.step] = entry
        self._cancel(entry)

    def tell_turn(self, namespace: str, wake: TurnWake) -> None:
        """See `Dispatch.tell_turn`."""
        lease = self.leases.held.get((wake.run, wake.step))
        worker = lease.worker if lease is not None else ""
        self._all.broadcast(namespace, encode(wake), worker=worker)

    def _cancel(self, entry: _Cancel) -> None:
        cancel = entry.order
        entry.sent_ms = self._all.now_ms()
        lease = self.leases.held.get((cancel.run, cancel.step))
        self._all.broadcast(entry.namespace, encode(cancel), worker=lease.worker if lease else "")

    def repeat_orders(self, now_ms: int) -> None:
        """Give the orders again that had no effect yet: the step may have been on its way."""
        for key, entry in list(self._cancels.items()):
            lease = self.leases.held.get(key)
            if lease is None or lease.attempt != entry.order.attempt:
                del self._cancels[key]
            elif now_ms - entry.sent_ms >= REPEAT_MS:
                self._cancel(entry)

    # -- takeover and losses ------------------------------------------------------------------

    async def take_over(self) -> None:
        """Once the log is ours: drop the predecessor's tasks. Raises `HeadraceError`."""
        await self._all.lanes.purge_shard(self.shard)

    def adopt(self, epoch: int, dispatched: Sequence[tuple[str, int, int, str]]) -> None:
        """See `Dispatch.adopt`: leave alone what a worker holds, lose what nobody holds."""
        self._epoch = epoch
        self.leases = Leases(self.shard)
        if self._sends is not None:
            self._sends.forget()
        self._losses.clear()
        self._cancels.clear()
        self._call.clear()
        # What a predecessor was told of them, its log may not say.
        self._told_gone.clear()
        now_ms = self._all.now_ms()
        for run, step, attempt, _ in dispatched:
            self.leases.begin(run, step, attempt, lane="", wire_lane="", now_ms=now_ms)
        reason = "held by nobody after a takeover"
        self._call.begin(self.leases.in_doubt(), reason, now_ms)
        self.announce()

    def announce(self) -> None:
        """Tell all workers of our epoch and round.

        Once more as soon as we can be reached: they send again what a predecessor, frozen maybe,
        has not answered.
        """
        self._all.broadcast("", encode(self._notice()))

    def _notice(self) -> EpochNotice:
        return EpochNotice(self.shard, self._epoch, self._round)

    def heard(self, heartbeat: WorkerHeartbeat, now_ms: int) -> None:
        """A worker was heard."""
        self.leases.heard(heartbeat, now_ms)
        name = f"{heartbeat.id}.{heartbeat.incarnation}"
        epoch, round = heartbeat.epochs.get(self.shard, 0), heartbeat.rounds.get(self.shard, 0)
        if (epoch, round) >= (self._epoch, self._round):
            if not heartbeat.held_since_ms:
                self._call.told(name)
            if epoch > self._epoch and now_ms - self._deposed_ms >= REPEAT_MS:
                # Workers drop what we send: who waits for their results would never notice.
                self._deposed_ms = now_ms
                self.on_deposed()
        elif not heartbeat.stopped:
            # Until it knows, it would take what was sent before, by our predecessor maybe.
            self._all.broadcast("", encode(self._notice()), worker=name)
        if self._cancels:
            for held in heartbeat.held.get(self.shard, ()):
                entry = self._cancels.get((held.run, held.step))
                if entry is not None and now_ms - entry.sent_ms >= REPEAT_MS // 2:
                    self._cancel(entry)

    def stream_lost(self) -> None:
        """What was on its way is gone with the broker's memory; what workers hold is not.

        Nor is what was sent to the new stream before we knew that it is another one. So a new
        round begins: all are asked, drop from then on what they may still get of the earlier
        rounds, and what nobody holds of those is lost.
        """
        self._round += 1
        doubts = self.leases.in_doubt()
        self._call.begin(doubts, "the task stream was lost", self._all.now_ms())
        self.announce()

    def drop_unheld(self, lanes: Sequence[str], before_ms: int) -> None:
        """What was sent to these lanes before was delivered; what nobody holds of it is lost."""
        found = self.leases.unheld(
            lanes, before_ms=before_ms, reason="delivered, and held by nobody"
        )
        self._all.unheld += len(found)
        self._losses += found

    def lapsed(self, now_ms: int) -> list[Loss]:
        """See `Dispatch.lapsed`."""
        everything = self._all
        found, self._losses = self._losses, []
        if everything.bus.connected:
            heard_ms = everything.heard_upto_ms
            found += self.leases.lapsed(everything.fleet, heard_ms)
            if self._call.is_open and self._all_told(heard_ms):
                lost = (self.leases.lose(*doubt) for doubt in self._call.end())
                found += [loss for loss in lost if loss is not None]
        if found:
            everything.on_lapsed(len(found))
            if self._sends is not None:
                self._sends.lost(found, everything.clock.now_ms())
        return found

    def _all_told(self, heard_ms: int) -> bool:
        """All live workers, knowing this epoch and round, have told what they hold."""
        everything = self._all
        if everything.fleet.is_blind(heard_ms):
            # Others may have come while we were cut off, and taken what we had sent.
            return False
        return self._call.is_over(
            [record.name for record in everything.fleet.workers.values()],
            everybody=everything.known_everybody(),
            heard_ms=heard_ms,
            lease_ms=everything.settings.lease_ms,
        )

    def gone(self, now_ms: int) -> list[tuple[str, str]]:
        """See `Dispatch.gone`."""
        gone, now_ms = self._all.gone(), self._all.now_ms()
        # What only it may run may become ready after its loss: a turn, a compensation.
        fresh = [w for w in gone if now_ms - self._told_gone.get(w, -RETELL_MS) >= RETELL_MS]
        self._told_gone = {w: now_ms if w in fresh else self._told_gone[w] for w in gone}
        return [(worker, f"worker {worker} did not come back") for worker in sorted(fresh)]

    # -- facts --------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """See `Dispatch.facts`."""
        return Facts(
            workers=tuple(
                WorkerFacts(
                    record.heartbeat.id,
                    record.heartbeat.namespace,
                    record.capabilities,
                    record.heartbeat.slots,
                    record.heartbeat.free,
                    record.heartbeat.draining,
                )
                for record in self._all.fleet.workers.values()
            ),
            holders={
                key: Holder(lease.worker.partition(".")[0], lease.details)
                for key, lease in self.leases.held.items()
                if lease.worker and lease.running
            },
            missing_since_ms=self._all.missing_since,
        )
