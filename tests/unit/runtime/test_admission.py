"""An owner that is offered more than it can do keeps doing what it can, and turns the rest away."""

from __future__ import annotations

from collections import deque

import pytest

from headrace.coordinator.core import Machine, ShardState
from headrace.coordinator.core.ready import ReadyQueue
from headrace.coordinator.runtime.admission import STEPS_MIN, TRICKLE_PER_S, Admission
from headrace.coordinator.runtime.inbox import Inbox
from headrace.messages import GetRun, SubmitRun
from support.broker import eventually
from support.ownerkit import BUILTIN, Asked, FakeDispatch, Kit, ask, report, store, submission, view
from support.plans import plan, task

TICK_S = 0.01
SUBMIT_S, REFUSE_S, STEP_S = 75e-6, 5e-6, 35e-6
"""What an owner's loop spends on each, about."""
CAPACITY = 25_000
"""Steps a second of an owner that does nothing else, less what their runs' submits cost."""
WINDOW = 500
STEPS = 10


class Model:
    """An owner of a certain speed in virtual time, with the real queue and the real admission."""

    def __init__(self, backlog_ms: int) -> None:
        self.now_s = 0.0
        self.admission = Admission(0, backlog_ms)
        self.dispatch = FakeDispatch()
        self.ready = ReadyQueue()
        self.lane = self.ready.lane("l", "default", ())
        self.ready.filled["l"] = None
        self.out: deque[_Run] = deque()
        self.done = self.taken = self.away = 0
        self.took: list[float] = []
        self.offered = 0.0

    def push(self, born_ms: int, left: int) -> None:
        self.lane.push(_Run(born_ms, left), 0, 0, 0)  # type: ignore[arg-type]

    def tick(self, steps_per_s: int) -> None:
        """Take what has come since the last tick; it takes as long as it costs."""
        cost_s = 0.0
        back, self.out = self.out, deque()
        for run in back:
            cost_s += STEP_S
            self.done += 1
            if run.left > 1:
                self.push(run.born_ms, run.left - 1)
            else:
                self.took.append(self.now_s - run.born_ms / 1_000)
        count, self.offered = int(self.offered), self.offered % 1
        away = admit(self.admission, count, now_s=self.now_s)
        self.away += away
        self.taken += count - away
        cost_s += away * REFUSE_S + (count - away) * SUBMIT_S
        for _ in range(count - away):
            self.push(int(self.now_s * 1_000), STEPS)
        sent = 0
        while sent < WINDOW and (entry := self.lane.pop()) is not None:
            self.out.append(entry[0])  # type: ignore[arg-type]
            sent += 1
        self.admission.look(self.ready, self.dispatch, sent, self.now_s)  # type: ignore[arg-type]
        passed_s = max(cost_s, TICK_S)
        self.now_s += passed_s
        self.offered += steps_per_s / STEPS * passed_s

    def live(self, seconds: float, steps_per_s: int) -> Model:
        while self.now_s < seconds:
            self.tick(steps_per_s)
        return self


MACHINE = Machine(ShardState(0, BUILTIN), chance=lambda: 0.5, home=lambda _: 0)


def submits(count: int) -> Asked:
    """Return a batch of new runs."""
    made = [SubmitRun(run=f"n{n}", request_id="q", not_after_ms=1, plan="p") for n in range(count)]
    return Asked(*made)


def admit(
    admission: Admission, count: int, *, now_s: float = 0.0, inbox: Inbox | None = None
) -> int:
    """Offer new runs; return how many were turned away. The others go into *inbox*."""
    inbox = inbox or Inbox(10**9, lambda: now_s)
    batch = submits(count).batch
    away = admission.admit(batch, MACHINE, inbox)
    inbox.offer(batch, count)
    inbox.new_runs += batch.new_runs
    return away


class _Run:
    __slots__ = ("born_ms", "fair_key", "left")

    def __init__(self, born_ms: int, left: int) -> None:
        self.born_ms, self.left, self.fair_key = born_ms, left, ""


@pytest.mark.parametrize("offered", [50_000, 100_000, 400_000])
def test_offered_more_than_it_can_do_it_does_what_it_can(offered):
    model = Model(250).live(20, offered)
    assert model.done / model.now_s > 0.6 * CAPACITY
    assert model.away > model.taken
    # Ten steps, each of which waits 250 ms or so.
    assert sorted(model.took)[len(model.took) * 99 // 100] < 10 * 0.5
    assert model.lane.length < 2 * max(STEPS_MIN, 0.25 * CAPACITY)


def test_without_a_limit_it_does_less_and_less_and_later_and_later():
    """What the limit is for: the model shows the collapse that was measured."""
    model = Model(0).live(20, 100_000)
    assert model.done / model.now_s < 0.5 * CAPACITY
    assert model.lane.length > 100_000


def test_offered_what_it_can_do_it_turns_nobody_away():
    model = Model(250).live(10, 15_000)
    assert model.away == 0
    assert model.done / model.now_s > 14_000


def waiting(admission: Admission, steps: int, *, idle: bool = True) -> Admission:
    ready, dispatch = ReadyQueue(), FakeDispatch()
    dispatch.idle = idle
    ready.lane("l", "default", ()).length = steps
    ready.filled["l"] = None
    admission.look(ready, dispatch, 0, 100.0)
    return admission


def test_what_waits_for_workers_may_wait():
    admission = waiting(Admission(0, 250), 1_000_000, idle=False)
    assert admit(admission, 1_000) == 0


def test_there_is_room_up_to_the_limit_and_a_trickle_beyond():
    assert admit(waiting(Admission(0, 250), STEPS_MIN), 200) == 0, "the queue is not looked at yet"
    admission = waiting(Admission(0, 250), STEPS_MIN + 1)
    assert admit(admission, TRICKLE_PER_S + 50, now_s=1.0) == 50
    assert admit(admission, 50, now_s=1.0) == 50
    assert admit(admission, 50, now_s=1.1) == 40, "a hundred a second"


def test_what_is_in_the_inbox_counts():
    inbox = Inbox(10**9, lambda: 0.0)
    admission = Admission(0, 250)
    away = [admit(admission, 250, inbox=inbox) for _ in range(10)]
    assert away == [0] * 8 + [150, 250]
    assert inbox.new_runs == STEPS_MIN + TRICKLE_PER_S
    inbox.take()
    assert inbox.new_runs == 0


def test_the_refusal_says_why_and_when_to_come_again():
    admission = waiting(Admission(3, 250), STEPS_MIN + 500)
    asked = submits(101)
    assert admission.admit(asked.batch, MACHINE, Inbox(1, lambda: 0.0)) == 1
    (reply,) = [reply for reply in asked.batch._replies if reply is not None]
    assert (reply.code, reply.retry_after_ms) == ("busy", 750)
    assert reply.message == (
        "shard 3 is offered more than it can do: 2500 steps and 0 new runs wait for its "
        "coordinator, not for workers; this run was not started"
    )


@pytest.mark.parametrize(("stood_s", "away"), [(0.2, 0), (0.3, 50)])
def test_a_standing_inbox_turns_new_runs_away(stood_s, away):
    now_s = 0.0
    inbox = Inbox(1_000, lambda: now_s)
    inbox.offer(Asked(GetRun(run="r")).batch, 10)
    now_s = stood_s
    assert admit(Admission(0, 250), TRICKLE_PER_S + 50, inbox=inbox) == away


def test_it_may_be_turned_off():
    assert admit(waiting(Admission(0, 0), 1_000_000), 10_000) == 0


async def test_a_flood_is_turned_away_and_what_was_acknowledged_ends():
    kit = Kit()
    async with kit.leading(backlog_ms=250) as owner:
        digest = await store(owner, plan(task("a")))
        kit.dispatch.credits = 0
        taken = [submission(owner, digest, f"r{n}") for n in range(STEPS_MIN + 1)]
        first = await ask(owner, *taken).replies()
        assert not any(reply.code for reply in first), "so many may always wait"
        flood = [submission(owner, digest, f"f{n}") for n in range(1_000)]
        asked = ask(owner, *flood, taken[0], GetRun(run="r1"))
        replies = await asked.replies()
        away = [reply for reply in replies[:1_000] if reply.code]
        assert {reply.code for reply in away} == {"busy"}
        assert all(reply.retry_after_ms >= 100 for reply in away)
        assert 1_000 - 2 * TRICKLE_PER_S <= len(away) <= 1_000 - TRICKLE_PER_S
        assert view(replies[1_000]).id == "r0", "sent again, it hears what became of the first"
        assert view(replies[1_001]).id == "r1"
        runs = [
            s.run for s, r in zip([*taken, *flood], [*first, *replies], strict=False) if not r.code
        ]
        kit.dispatch.credits = 10_000
        owner.wake()
        await eventually(lambda: len(kit.dispatch.sent) == len(runs))
        report(owner, *kit.dispatch.sent)
        ends = await ask(owner, *(GetRun(run=run, wait_ms=5_000) for run in runs)).replies()
        assert {view(reply).state for reply in ends} == {"COMPLETED"}
        again = await ask(owner, *flood[-10:]).replies()
        assert not any(reply.code for reply in again), "there is room again"
        assert {f"default/{s.run}" for s in flood[-10:]} <= set(kit.folded().runs)
