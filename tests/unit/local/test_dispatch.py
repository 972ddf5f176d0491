"""The window, what is offered, what counts as lost: without an engine around."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from headrace.coordinator.core import Holder
from headrace.coordinator.core.ready import Lane
from headrace.local.dispatch import WINDOW_MAX, WORKER, DirectAssignments, LocalDispatch, Offer
from headrace.messages import Entry, StepResult, Task, TurnReply, TurnReport, encode
from headrace.worker.core import Admission, Origin

RAW = msgspec.Raw(b"\x80")
ORIGIN = Origin(0, "default", 1)


class Clock:
    def now_ms(self):
        return 1_000

    def monotonic(self):
        return 1.0


class Executor:
    """Holds what it is given until a test ends it."""

    def __init__(self, slots):
        self.assignments = DirectAssignments(slots=slots, queue_max=10_000)
        self.cancelled = []

    def submit(self, origin, tasks):
        for task in tasks:
            assert self.assignments.admit(task, origin, 0) == Admission.QUEUED

    def cancel(self, *what):
        self.cancelled.append(what)

    def end(self, task):
        assignment = self.assignments.get(task.run, task.step)
        self.assignments.withdraw(assignment)


class Owner:
    def __init__(self):
        self.posted = []
        self.batches = []
        self.reply: TurnReply | None = None
        self.later = TurnReply(number=2)

    def post(self, apply):
        self.posted.append(apply)

    def post_results(self, batch, respond, size):
        self.batches.append(batch)

    def turn_now(self, report):
        return self.reply

    def post_turn(self, report, respond, size):
        respond(encode(self.later))


def task(number, run="default/r", attempt=1):
    return Task(run, number, f"s{number}", attempt, number, "noop", RAW)


def result(done):
    return StepResult(done.run, done.step, done.attempt, done.token, 0, RAW, 1, 2)


@pytest.fixture
def parts():
    return make()


def make(slots=4, capabilities=None, handlers=()):
    offer = Offer(capabilities, handlers)
    dispatch = LocalDispatch(offer, Clock(), slots=slots, namespace="default", incarnation="i")
    owner, executor = Owner(), Executor(slots)
    dispatch.connect(owner, executor)
    return SimpleNamespace(dispatch=dispatch, owner=owner, executor=executor)


LANE = Lane("lane", "default", ("gpu",))


def test_credit_is_the_slots_less_what_is_out(parts):
    assert parts.dispatch.credit(LANE) == (4, "lane")
    tasks = [task(1), task(2), task(3)]
    parts.dispatch.send(1, LANE, "lane", tasks)
    assert parts.dispatch.credit(LANE)[0] == 1
    parts.dispatch.recorded([result(tasks[0])])
    assert parts.dispatch.credit(LANE)[0] == 2


def test_the_window_grows_while_everything_ends_at_once_and_shrinks_when_slots_are_taken(parts):
    dispatch = parts.dispatch
    number = 0
    for _ in range(20):
        credit = dispatch.credit(LANE)[0]
        tasks = [task(number + n) for n in range(credit)]
        number += credit
        dispatch.send(1, LANE, "lane", tasks)
        for one in tasks:
            parts.executor.end(one)
        dispatch.recorded([result(one) for one in tasks])
    assert dispatch.credit(LANE)[0] == WINDOW_MAX
    parts.executor.assignments.running = 4
    assert dispatch.credit(LANE)[0] == 4


def test_a_window_that_was_not_full_stays(parts):
    tasks = [task(1), task(2)]
    parts.dispatch.send(1, LANE, "lane", tasks)
    parts.dispatch.recorded([result(one) for one in tasks])
    assert parts.dispatch.credit(LANE)[0] == 4


def test_a_stale_result_frees_nothing(parts):
    parts.dispatch.send(1, LANE, "lane", [task(1, attempt=2)])
    parts.dispatch.recorded([result(task(1, attempt=1))])
    assert parts.dispatch.credit(LANE)[0] == 3


def test_every_label_is_offered_unless_some_are_named():
    assert make().dispatch.credit(LANE)[0] == 4
    assert make(capabilities=["GPU"]).dispatch.credit(LANE)[0] == 4
    without = make(capabilities=["linux"])
    assert without.dispatch.credit(LANE)[0] == 0
    assert without.dispatch.facts().missing_since_ms == {"gpu": 1_000}


def test_a_handler_is_offered_only_if_it_is_here():
    lane = Lane("l", "default", ("uses:crm/order",))
    assert make().dispatch.credit(lane)[0] == 0
    assert make(handlers=["crm/order"]).dispatch.credit(lane)[0] == 4


def test_only_the_lane_of_this_worker_is_served():
    parts = make()
    assert parts.dispatch.credit(Lane(f"@{WORKER}", "default", ()))[0] == 4
    assert parts.dispatch.credit(Lane("@elsewhere", "default", ()))[0] == 0


def test_results_join_the_batch_that_the_owner_has_not_taken(parts):
    one, two, three = task(1), task(2), task(3)
    parts.dispatch.deliver(ORIGIN, result(one))
    parts.dispatch.deliver(ORIGIN, result(two))
    assert [r.step for r in parts.owner.batches[0].results] == [1, 2]
    parts.dispatch.recorded(parts.owner.batches[0].results)
    parts.dispatch.deliver(ORIGIN, result(three))
    assert len(parts.owner.batches) == 2
    parts.dispatch.disconnect()
    parts.dispatch.recorded(parts.owner.batches[1].results)
    parts.dispatch.deliver(ORIGIN, result(one))
    assert len(parts.owner.batches) == 2


def test_what_an_earlier_life_dispatched_is_lost_at_once(parts):
    parts.dispatch.adopt(2, [("default/r", 3, 1, "")])
    lost = []

    class Machine:
        def lose(self, run, step, attempt, *, worker, reason):
            lost.append((run, step, attempt))

    (apply,) = parts.owner.posted
    apply(Machine())
    assert lost == [("default/r", 3, 1)]


def test_what_the_executor_drops_in_silence_is_lost_at_the_second_look(parts):
    held, dropped, answered = task(1), task(2), task(3)
    parts.dispatch.send(1, LANE, "lane", [held, dropped, answered])
    parts.executor.end(dropped)
    parts.executor.end(answered)
    parts.dispatch.deliver(ORIGIN, result(answered))
    assert parts.dispatch.lapsed(0) == []
    (loss,) = parts.dispatch.lapsed(0)
    assert (loss.step, loss.attempt) == (2, 1)
    assert parts.dispatch.lapsed(0) == []
    assert parts.dispatch.credit(LANE)[0] == 2


def test_facts_name_what_runs(parts):
    one = task(1)
    parts.dispatch.credit(LANE)
    parts.dispatch.send(1, LANE, "lane", [one])
    assignment = parts.executor.assignments.next()
    parts.executor.assignments.occupy(assignment)
    facts = parts.dispatch.facts()
    assert facts.holders == {("default/r", 1): Holder(WORKER)}
    assert facts.workers[0].capabilities == {"gpu"}
    assert facts.workers[0].free == 3


def test_a_second_attempt_waits_for_the_first(parts):
    assignments = parts.executor.assignments
    assert assignments.admit(task(1), ORIGIN, 0) == Admission.QUEUED
    assignments.occupy(assignments.next())
    assert assignments.admit(task(1, attempt=2), ORIGIN, 0) == Admission.FOLLOWS


REPORT = TurnReport(1, WORKER, "i", "default/r", 1, 1, 1, 1, 0)


async def test_a_reply_that_is_there_at_once_shares_nothing_with_the_state(parts):
    entry = Entry("a#1", "step", "a", "", value=RAW, number=1)
    parts.owner.reply = TurnReply(entries=[entry], number=1)
    reply = await parts.dispatch.turn(ORIGIN, REPORT)
    assert reply == parts.owner.reply
    assert reply.entries[0] is not entry


async def test_a_report_that_is_to_wait_is_posted(parts):
    assert (await parts.dispatch.turn(ORIGIN, REPORT)).number == 2
