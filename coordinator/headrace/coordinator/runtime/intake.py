"""What one tick takes in: items are applied to the machine; answers wait for the append."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from headrace.coordinator.core import Machine, OutMessage, Refusal, Run
from headrace.coordinator.core.asking import Question
from headrace.coordinator.core.past import asks_past
from headrace.coordinator.core.ready import Lane
from headrace.coordinator.core.views import Later
from headrace.coordinator.runtime.answers import RENDERED, Answers
from headrace.coordinator.runtime.inbox import (
    ClaimAsked,
    Item,
    PendingBatch,
    Results,
    TurnTold,
    Work,
    fills_a_tick,
    reply_of,
    turn_away,
)
from headrace.coordinator.runtime.ports import Dispatch
from headrace.coordinator.runtime.room import Room
from headrace.coordinator.runtime.watch import Watch, refusal_reason
from headrace.messages import (
    AcquireLock,
    Claim,
    CreateSchedule,
    GetDefinition,
    GetEvidence,
    GetExplanation,
    GetHistory,
    GetKey,
    GetLock,
    GetPlan,
    GetRun,
    GetSchedule,
    HasRuns,
    ListCached,
    ListDefinitions,
    ListLocks,
    ListRuns,
    ListSchedules,
    ListTriggers,
    RegisterDefinition,
    ResultBatch,
    ResultReply,
    ResultStatus,
    StepResult,
    StorePlan,
    SubmitRun,
    Task,
    TurnReply,
    TurnReport,
    encode,
)

START_BY_MS = 30_000
NO_ROOM = Refusal("unavailable", "the log is full; it is being made smaller", 1_000)
NEARLY_FULL = Refusal("unavailable", "the log is nearly full; submits are refused", 1_000)
_NO_OUTPUT = msgspec.Raw(b"\x80")
_MAY_CHANGE = frozenset(("busy", "unavailable", "unknown-plan"))
"""Refusals after which the client asks again, so that a wrong one does no harm."""
_NEEDS_ROOM = (SubmitRun, StorePlan, RegisterDefinition, CreateSchedule)
_ASSERTED = (
    HasRuns,
    GetDefinition,
    ListDefinitions,
    GetSchedule,
    ListSchedules,
    ListTriggers,
    GetLock,
    ListLocks,
    ListCached,
)
"""Questions whose answer says what is not there: true only if the shard is still ours."""
_SURE = (*_ASSERTED, AcquireLock)
"""And those that say, without a change, what somebody has."""
_OF_RUNS = (GetRun, GetHistory, GetEvidence, GetExplanation, GetPlan)
_QUESTIONS = (*_OF_RUNS, ListRuns, GetKey, *_ASSERTED)


class Taken:
    """What one tick has taken in, and is to answer once it is in the log."""

    __slots__ = (
        "asserts",
        "items",
        "logged",
        "looks",
        "replies",
        "sends",
        "size",
        "started_s",
        "views",
    )

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        """The loop's time when it began."""
        self.items: list[Item] = []
        self.size = 0
        """Bytes of the items, about."""
        self.replies: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.views: list[tuple[PendingBatch, int, Run, bool]] = []
        """Runs to be shown to who asked, with steps or without, as they are at its end."""
        self.asserts = False
        """Its answers say "no", or "done already": true only if the shard is still ours."""
        self.looks = False
        """Some answers are made from the state when it is in the log: no other tick before."""
        self.logged: list[Callable[[], None]] = []
        """To be called once the tick is in the log."""
        self.sends: dict[tuple[str, str], tuple[Lane, str, list[Task]]] = {}
        """Tasks to dispatch then, by lane and wire lane."""

    @property
    def full(self) -> bool:
        """Whether the rest is for the next tick."""
        return fills_a_tick(len(self.items), self.size)

    def show(self, answers: Answers, machine: Machine) -> None:
        """Make the answers that show runs: the tick is sealed, and the next one is not decided."""
        for batch, index, run, steps in self.views:
            view = answers.view(run, machine, steps=steps)
            self.replies.append((answers.tell, (batch, index, view)))
        self.views = []

    def unsay(self) -> None:
        """The answers are not to be given: perhaps they are not true any more."""
        self.replies = []


class Intake:
    """One owner's. `tick` is the one that is being decided."""

    def __init__(self, dispatch: Dispatch, answers: Answers, room: Room, watch: Watch) -> None:
        self._dispatch, self._answers, self._room, self._watch = dispatch, answers, room, watch
        self.tick = Taken(0.0)

    def apply(self, machine: Machine, item: Item) -> None:
        """Apply one item."""
        if isinstance(item, Results):
            self._results(machine, item)
        elif isinstance(item, PendingBatch):
            self._requests(machine, item)
        elif isinstance(item, Work):
            item.apply(machine)
        elif isinstance(item, ClaimAsked):
            self._watch.request(Claim)
            start_by_ms = machine.state.now_ms + START_BY_MS
            claimed = machine.claim(item.claim, start_by_ms=start_by_ms)
            self.tick.asserts |= not claimed.granted
            self.tick.replies.append((item.respond, (encode(claimed),)))
        elif isinstance(item, TurnTold):
            reply = self.turn(machine, item.report)
            self.tick.replies.append((item.respond, (encode(reply),)))
        else:
            self._watch.request(OutMessage)
            if machine.deliver(item.message, item.content):
                self.tick.asserts = True
                self.tick.replies.append((item.respond, (b"",)))

    def apply_without_room(self, machine: Machine, item: Item) -> None:
        """Apply what logs nothing, or makes room; turn away the rest."""
        if isinstance(item, PendingBatch):
            for index, request in enumerate(item.requests):
                if request is not None and not isinstance(request, _QUESTIONS):
                    item.answer(index, reply_of(NO_ROOM))
                    item.requests[index] = None
            self._requests(machine, item)
        elif isinstance(item, Work):
            item.apply(machine)
        else:
            turn_away([item], NO_ROOM)

    def _results(self, machine: Machine, item: Results) -> None:
        batch = item.batch
        refused = machine.results(batch)
        if self._watch.active:
            self._watch.request(ResultBatch)
        for index in refused:
            late = batch.results[index]
            run = machine.state.runs.get(late.run)
            self._watch.result_refused(refusal_reason(run, late.step, late.attempt))
            self.tick.asserts = True
        self._dispatch.recorded(batch.results)
        if item.respond is not None:
            self.tick.replies.append((item.respond, (encode(ResultReply(refused)),)))

    def turn(self, machine: Machine, report: TurnReport) -> TurnReply:
        """Record what a workflow function did; the reply may leave once the tick is in the log."""
        self._watch.request(TurnReport)
        reply = machine.turn(report)
        # A refusal is final: it is to be true.
        self.tick.asserts |= bool(reply.refused)
        run = machine.state.runs.get(report.run)
        if run is None or run.tokens.get(run.instance(report.step)) != report.token:
            self._dispatch.recorded([_as_result(report)])
        return reply

    def _requests(self, machine: Machine, batch: PendingBatch) -> None:
        tick = self.tick
        replies = tick.replies
        for index, request in enumerate(batch.requests):
            if request is None:
                continue
            if self._room.nearly_full and isinstance(request, _NEEDS_ROOM):
                value: Any = NEARLY_FULL
            else:
                value = machine.request(batch.namespace, request)
            refused = isinstance(value, Refusal)
            if self._watch.active:
                self._watch.request(type(request), refused=refused)
            if isinstance(value, Later) and not batch.wants_views:
                continue
            if isinstance(value, Refusal):
                tick.asserts |= value.code not in _MAY_CHANGE
            elif isinstance(request, _SURE):
                tick.asserts = True
            if isinstance(value, Question):
                value.waiter = (batch, index)
            elif isinstance(value, RENDERED):
                now_ms = machine.state.now_ms
                if self._answers.awaits(batch, index, request, value, now_ms):
                    continue
                past = isinstance(request, GetRun) and asks_past(request)
                if isinstance(value, Later) and not past:
                    tick.views.append((batch, index, value.run, value.steps))
                    continue
                tick.looks = True
                arguments = (machine, batch, index, request, value)
                replies.append((self._answers.render, arguments))
            else:
                replies.append((batch.answer, (index, reply_of(value))))

    def tell(self, machine: Machine) -> None:
        """Tell those who have asked workflow functions, once the tick is in the log."""
        for question in machine.answers():
            if question.waiter is not None:
                batch, index = question.waiter
                self.tick.replies.append((batch.answer, (index, reply_of(question.answer))))

    def doubt(self, _: Machine) -> None:
        """Make the tick ask the log whether the shard is still ours."""
        self.tick.asserts = True


def _as_result(report: TurnReport) -> StepResult:
    """Return the end of a turn as what ends the attempt's lease."""
    head = (report.run, report.step, report.attempt, report.token, ResultStatus.COMPLETED)
    return StepResult(*head, _NO_OUTPUT, 0, 0)
