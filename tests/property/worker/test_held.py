"""What is held, under any order of arrivals, starts, ends and withdrawals."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.messages import ResultStatus, StepResult, Task
from headrace.worker.core import Admission, Assignment, Assignments, Origin, Outbox
from support.worker_owner import make_task

SLOTS, QUEUE = 2, 4


class Holding(RuleBasedStateMachine):
    """Against a model: for each step, which attempt runs and which waits."""

    def __init__(self) -> None:
        super().__init__()
        self.held = Assignments(slots=SLOTS, queue_max=QUEUE)
        self.running: list[Assignment] = []
        self.token = 0
        self.newest: dict[int, tuple[int, int]] = {}
        self.sent: list[Task] = []

    @rule(step=st.integers(0, 5), attempt=st.integers(1, 3))
    def arrive(self, step: int, attempt: int) -> None:
        self.token += 1
        task = make_task("d/r", step, attempt=attempt, token=self.token)
        verdict = self.held.admit(task, Origin(0, "d"), 0)
        if verdict != Admission.FULL:
            self.sent.append(task)
        if verdict in (Admission.QUEUED, Admission.FOLLOWS, Admission.ADOPTED):
            known = self.newest.get(step, (0, 0))
            assert (attempt, self.token) >= known
            self.newest[step] = (attempt, self.token)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def arrive_again(self, data) -> None:
        task = data.draw(st.sampled_from(self.sent))
        assert self.held.admit(task, Origin(0, "d"), 0) == Admission.DUPLICATE

    @rule()
    def start(self) -> None:
        assignment = self.held.next()
        if assignment is not None:
            assert len(self.running) < SLOTS
            assert all(a.task.step != assignment.task.step for a in self.running)
            self.held.occupy(assignment)
            self.running.append(assignment)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data) -> None:
        ended = data.draw(st.sampled_from(self.running))
        self.running.remove(ended)
        self.held.release(ended)
        if ended.follower is None:
            self.newest.pop(ended.task.step)

    @rule()
    def return_all(self) -> None:
        for assignment in self.held.withdraw_all():
            assert assignment not in self.running
            current = self.held.get("d/r", assignment.task.step)
            if current is None:
                self.newest.pop(assignment.task.step, None)
            else:
                self.newest[assignment.task.step] = (current.task.attempt, current.token)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.held.running == len(self.running) <= SLOTS
        # A follower joins the queue when its predecessor has died, whatever the bound.
        assert self.held.queued <= QUEUE + SLOTS
        assert 0 <= self.held.free <= SLOTS

    @invariant()
    def every_step_is_held_once_and_at_its_newest(self) -> None:
        seen = {assignment.task.step: assignment for assignment in self.held}
        assert len(seen) == len(self.held)
        assert seen.keys() == self.newest.keys()
        for step, (attempt, token) in self.newest.items():
            last = seen[step].follower or seen[step]
            assert (last.task.attempt, last.token) == (attempt, token)


TestHolding = Holding.TestCase


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 400)),
            st.just(("take", 0)),
            st.just(("settle", 0)),
        ),
        max_size=60,
    )
)
def test_outbox_delivers_everything_once_in_order(script: list[tuple[str, int]]) -> None:
    box = Outbox(bytes_max=10_000, batch_bytes_max=600)
    route = ("d", 0)
    added, confirmed, flying = 0, [], []
    for what, size in script:
        if what == "add":
            raw = msgspec.Raw(msgspec.msgpack.encode({"x": "y" * size}))
            box.add(route, StepResult("d/r", added, 1, 1, ResultStatus.COMPLETED, raw, 0, 0))
            added += 1
        elif what == "take":
            batch = [result.step for result in box.take(route)]
            assert not flying or batch == flying
            flying = batch
        elif flying:
            box.settle(route)
            confirmed += flying
            flying = []
    while batch := [result.step for result in box.take(route)]:
        box.settle(route)
        confirmed += batch
    assert confirmed == list(range(added))
    assert (box.bytes, len(box)) == (0, 0)
