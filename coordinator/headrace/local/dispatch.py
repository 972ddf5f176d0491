"""The embedded engine's dispatch: tasks go straight to the executor, results straight back.

There are no leases: who holds a step is the executor beside us, and if the process dies, both are
gone. A new life of the process is a takeover, and everything that was dispatched is lost then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, TypeAlias

import msgspec

from headrace.coordinator.core import Facts, Holder, Loss, Machine, Order, WorkerFacts
from headrace.coordinator.core.ready import PREFERRED, Lane
from headrace.coordinator.runtime.owner import Owner
from headrace.errors import Unreachable
from headrace.messages import (
    Claim,
    ClaimReply,
    LogLines,
    ResultBatch,
    StepResult,
    Task,
    TurnReply,
    TurnReport,
    TurnWake,
    encode,
)
from headrace.telemetry import Clock
from headrace.worker.core import Admission, Assignment, Assignments, Origin
from headrace.worker.executor import Executor

WORKER: Final = "local"
"""Id of the one worker. The same in each life, so that jobs find their workspaces again."""
WINDOW_MAX: Final = 1_024
"""Steps on their way at most, however fast they end; the executor's queue has room for them."""
CLAIM_TIMEOUT_S: Final = 30.0
OnLog: TypeAlias = Callable[[LogLines], None]
"""Is given what a step wrote, on the event loop; must return soon."""
_decode_turn = msgspec.msgpack.Decoder(TurnReply).decode
_LOST: Final = "the process that ran it has ended"


class Offer:
    """What this machine offers: capabilities (None: whatever anybody asks for) and handlers."""

    def __init__(self, capabilities: Collection[str] | None, handlers: Collection[str]) -> None:
        self._labels = None if capabilities is None else {c.lower() for c in capabilities}
        self._handlers = {f"uses:{name}".lower() for name in handlers}
        self._asked: set[str] = set()

    def add(self, handlers: Iterable[str]) -> None:
        """Offer *handlers*, too."""
        self._handlers |= {f"uses:{name}".lower() for name in handlers}

    def missing(self, needed: Collection[str]) -> list[str]:
        """Return the labels of *needed* that are not offered; `uses:<name>` is a handler."""
        missing = []
        for label in needed:
            lower = label.lower()
            if lower.startswith("uses:"):
                offered = lower in self._handlers
            else:
                offered = self._labels is None or lower in self._labels
            if not offered:
                missing.append(label)
            else:
                self._asked.add(lower)
        return missing

    def labels(self) -> frozenset[str]:
        """Return all that is offered, as far as anybody asked for it."""
        return frozenset(self._asked | self._handlers | (self._labels or set()))


class DirectAssignments(Assignments):
    """Nothing is delivered twice without a broker, so ended dispatches need not be remembered."""

    def admit(self, task: Task, origin: Origin, now_ms: int) -> int:
        """See `Assignments.admit`."""
        key = (task.run, task.step)
        if key in self.held or len(self.queue) >= self.queue_max:
            return super().admit(task, origin, now_ms)
        assignment = self.held[key] = Assignment(task, origin, now_ms, task.token)
        self.queue.append(assignment)
        return Admission.QUEUED


class LocalDispatch:
    """`Dispatch` for the owner; `ResultSink` and `ClaimDesk` for the executor.

    Credit is one window over all lanes. It is as wide as there are slots while steps take their
    time, so that priorities, pauses and cancels count at once; it grows as long as steps end as
    fast as they are handed out, so that a tick carries many of them.
    """

    one_window = True

    def __init__(
        self, offer: Offer, clock: Clock, *, slots: int, namespace: str, incarnation: str
    ) -> None:
        self._offer, self._clock = offer, clock
        self._slots, self._namespace, self._incarnation = slots, namespace, incarnation
        self._window = slots
        self._origin = Origin(0, namespace, 0, pinned=True)
        self._held: dict[tuple[str, int], int] = {}
        """(run key, step) -> attempt that was sent and not recorded yet."""
        self._reserved = 0
        self._early: dict[tuple[str, int], StepResult | None] = {}
        """Steps that have begun before their run was submitted, with their results."""
        self._silent: set[tuple[str, int, int]] = set()
        """Sent attempts that the executor did not know at the last look."""
        self._batch: ResultBatch | None = None
        """Posted, and not yet taken by the owner: later results join it."""
        self._missing_since: dict[str, int] = {}
        self._able: dict[str, bool] = {}
        self._executor: Executor | None = None
        self._owner: Owner | None = None
        self.on_wake: Callable[[TurnWake], None] | None = None
        """Whoever runs turns is told of news."""

    def connect(self, owner: Owner, executor: Executor) -> None:
        """Name both sides; before either is used."""
        self._owner, self._executor = owner, executor

    def disconnect(self) -> None:
        """The owner has gone: what ends from now on counts as lost, as after a crash."""
        self._owner = None

    def offer(self, handlers: Iterable[str]) -> None:
        """Offer *handlers* from now on; lanes that nothing could serve are looked at again."""
        self._offer.add(handlers)
        self._able.clear()
        self._missing_since.clear()
        if self._owner is not None:
            self._owner.wake()

    # -- for the owner -------------------------------------------------------------------------

    def credit(self, lane: Lane) -> tuple[int, str]:
        """See `Dispatch.credit`."""
        able = self._able.get(lane.name)
        if able is None:
            able = self._able[lane.name] = self._look_at(lane)
        if not able:
            return 0, lane.name
        assert self._executor is not None
        if self._executor.assignments.running >= self._slots:
            self._window = self._slots
        return self._window - len(self._held) - self._reserved, lane.name

    def _look_at(self, lane: Lane) -> bool:
        if lane.name.startswith("@"):
            worker, _, other = lane.name[1:].partition(PREFERRED)
            return worker == WORKER and not (other and self._offer.missing(lane.capabilities))
        missing = self._offer.missing(lane.capabilities)
        for label in missing:
            self._missing_since.setdefault(label, self._clock.now_ms())
        return not missing

    def has_room(self, lane: str) -> bool:
        """Tell whether a step of *lane* would begin at once; of a lane that was never looked at
        it is not known."""
        assert self._executor is not None
        held = self._executor.assignments
        return self._able.get(lane, False) and not held.queue and held.running < held.slots

    def stands_idle(self, lane: Lane) -> bool:
        """See `Dispatch.stands_idle`. Whoever submits is in our own process."""
        return False

    def members(
        self, namespace: str, capabilities: tuple[str, ...]
    ) -> list[tuple[str, str]] | None:
        """See `Dispatch.members`: the one worker, or nobody."""
        missing = self._offer.missing(capabilities)
        for label in missing:
            self._missing_since.setdefault(label, self._clock.now_ms())
        return [] if missing else [(WORKER, self._incarnation)]

    def reserve(self, lane: Lane, count: int) -> None:
        """See `Dispatch.reserve`."""
        self._reserved += count

    def send(self, epoch: int, lane: Lane, wire_lane: str, tasks: Sequence[Task]) -> None:
        """See `Dispatch.send`."""
        assert self._executor is not None
        self._reserved = max(self._reserved - len(tasks), 0)
        held = self._held
        for task in tasks:
            held[task.run, task.step] = task.attempt
        if self._early:
            tasks = [task for task in tasks if not self._has_ended(task)]
        self._executor.submit(self._origin_of(epoch, lane.namespace), tasks)

    def _origin_of(self, epoch: int, namespace: str) -> Origin:
        origin = self._origin
        if origin.epoch != epoch or origin.namespace != namespace:
            origin = self._origin = Origin(0, namespace, epoch, pinned=True)
        return origin

    def _has_ended(self, task: Task) -> bool:
        """Deliver the result of a task that has begun early, and ended; else the executor takes
        the token over."""
        result = self._early.pop((task.run, task.step), None)
        if result is None or result.attempt != task.attempt:
            return False
        self.deliver(self._origin, msgspec.structs.replace(result, token=task.token))
        return True

    # -- before the owner ----------------------------------------------------------------------

    def begin(self, task: Task) -> StepResult | None:
        """Begin the first attempt of a step whose run is not submitted; return its result, if it
        has one by now: then that is all. Else submit the run, and `drop` it when that has ended.
        """
        assert self._executor is not None
        key = (task.run, task.step)
        self._early[key] = None
        self._executor.submit(self._origin_of(self._origin.epoch, self._namespace), (task,))
        return self._early[key]

    def drop(self, run: str, step: int) -> None:
        """The run has ended, or is recorded: its step is stopped if it was never dispatched."""
        if (run, step) in self._early and self._early.pop((run, step)) is None:
            assert self._executor is not None
            self._executor.cancel(run, step, 1, "its run has ended")

    def recorded(self, results: Sequence[StepResult]) -> None:
        """See `Dispatch.recorded`."""
        if self._batch is not None and results is self._batch.results:
            self._batch = None
        held = self._held
        for result in results:
            key = (result.run, result.step)
            if held.get(key) == result.attempt:
                del held[key]
        if len(results) >= self._window and not held:
            self._window = min(2 * self._window, WINDOW_MAX)

    def order(self, order: Order) -> None:
        """See `Dispatch.order`."""
        assert self._executor is not None
        cancel = order.cancel
        self._executor.cancel(cancel.run, cancel.step, cancel.attempt, cancel.reason)

    def tell_turn(self, namespace: str, wake: TurnWake) -> None:
        """See `Dispatch.tell_turn`."""
        if self.on_wake is not None:
            self.on_wake(wake)

    def adopt(self, epoch: int, dispatched: Sequence[tuple[str, int, int, str]]) -> None:
        """See `Dispatch.adopt`: what an earlier life dispatched died with it."""
        self._held.clear()
        self._reserved = 0
        if not dispatched:
            return

        def lose_all(machine: Machine) -> None:
            for run, step, attempt, _ in dispatched:
                machine.lose(run, step, attempt, worker=WORKER, reason=_LOST)

        assert self._owner is not None
        self._owner.post(lose_all)

    def lapsed(self, now_ms: int) -> list[Loss]:
        """See `Dispatch.lapsed`: attempts that the executor dropped without a result.

        It does so when a claim is not granted, for instance.
        """
        assert self._executor is not None
        known = self._executor.assignments
        waiting = {(r.run, r.step) for r in self._batch.results} if self._batch else set()
        silent = {
            (run, step, attempt)
            for (run, step), attempt in self._held.items()
            if (run, step) not in waiting and known.get(run, step) is None
        }
        lost = [Loss(*key, WORKER, "it was dropped") for key in sorted(silent & self._silent)]
        for loss in lost:
            del self._held[loss.run, loss.step]
        self._silent = silent
        return lost

    def gone(self, now_ms: int) -> list[tuple[str, str]]:
        """See `Dispatch.gone`: the one worker is always there."""
        return []

    def facts(self) -> Facts:
        """See `Dispatch.facts`."""
        assert self._executor is not None
        held = self._executor.assignments
        return Facts(
            workers=(
                WorkerFacts(
                    WORKER, self._namespace, self._offer.labels(), self._slots, held.free, False
                ),
            ),
            holders={
                (a.task.run, a.task.step): Holder(WORKER, a.said()) for a in held if a.running
            },
            missing_since_ms=self._missing_since,
        )

    # -- for the executor ----------------------------------------------------------------------

    def deliver(self, origin: Origin, result: StepResult) -> None:
        """See `ResultSink.deliver`: all results of one burst make one batch."""
        if self._early and (result.run, result.step) in self._early:
            self._early[result.run, result.step] = result
            return
        if self._batch is not None:
            self._batch.results.append(result)
        elif self._owner is not None:
            self._batch = ResultBatch(1, WORKER, self._incarnation, [result])
            self._owner.post_results(self._batch, None, 0)

    async def claim(self, origin: Origin, task: Task) -> ClaimReply:
        """See `ClaimDesk.claim`."""
        if self._owner is None:
            raise Unreachable("the engine is closing")
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        claim = Claim(1, WORKER, self._incarnation, task.run, task.step, task.attempt, task.token)
        self._owner.post_claim(claim, partial(_settle, answer))
        data = await _within(answer, "the claim was not answered")
        return msgspec.msgpack.decode(data, type=ClaimReply)

    async def turn(self, origin: Origin, report: TurnReport) -> TurnReply:
        """See `TurnDesk.turn`: return the owner's answer. Raises `Unreachable`."""
        owner = self._owner
        if owner is None:
            raise Unreachable("the engine is closing")
        reply = owner.turn_now(report)
        if reply is not None:
            # A copy: the entries are the state's own.
            return _decode_turn(encode(reply))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        owner.post_turn(report, partial(_settle, answer), 0)
        return _decode_turn(await _within(answer, "the report was not answered"))


async def _within(answer: asyncio.Future[bytes], late: str) -> bytes:
    """Return the answer. Raises `Unreachable` when none comes in time; see `asyncio.timeout`, which
    costs as much as all the rest of a report."""
    if answer.done():
        return answer.result()
    loop = asyncio.get_running_loop()
    limit = loop.call_later(CLAIM_TIMEOUT_S, _give_up, answer, late)
    try:
        return await answer
    finally:
        limit.cancel()


def _give_up(answer: asyncio.Future[bytes], late: str) -> None:
    if not answer.done():
        answer.set_exception(Unreachable(late))


def _settle(answer: asyncio.Future[bytes], data: bytes) -> None:
    if not answer.done():
        answer.set_result(data)
