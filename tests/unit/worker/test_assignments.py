from __future__ import annotations

from headrace.worker.core import Admission, Assignments, Origin
from support.worker_owner import make_task

HERE = Origin(0, "default", 1)


def admitted(held: Assignments, **fields) -> int:
    return held.admit(make_task(**fields), HERE, 0)


def started(held: Assignments):
    assignment = held.next()
    assert assignment is not None
    held.occupy(assignment)
    return assignment


def test_order_is_first_come_and_slots_bound_it() -> None:
    held = Assignments(slots=1, queue_max=10)
    assert [admitted(held, step=step, token=step) for step in (1, 2)] == [Admission.QUEUED] * 2
    first = started(held)
    assert first.task.step == 1
    assert held.next() is None
    held.release(first)
    assert started(held).task.step == 2


def test_same_dispatch_is_taken_once_even_after_its_end() -> None:
    held = Assignments(slots=1, queue_max=10)
    admitted(held)
    assert admitted(held) == Admission.DUPLICATE
    held.release(started(held))
    assert admitted(held) == Admission.DUPLICATE


def test_same_attempt_under_a_higher_token_is_taken_over() -> None:
    held = Assignments(slots=1, queue_max=10)
    admitted(held, token=5)
    assignment = started(held)
    assert admitted(held, token=4) == Admission.DUPLICATE
    assert admitted(held, token=9) == Admission.ADOPTED
    assert assignment.token == 9
    assert len(held) == 1


def test_higher_attempt_takes_the_place_of_a_waiting_one() -> None:
    held = Assignments(slots=1, queue_max=10)
    admitted(held, step=1, token=1)
    admitted(held, step=2, token=2)
    assert admitted(held, step=1, attempt=2, token=3) == Admission.QUEUED
    assert (started(held).task.attempt, len(held)) == (2, 2)


def test_higher_attempt_waits_for_a_running_one() -> None:
    held = Assignments(slots=2, queue_max=10)
    admitted(held, token=1)
    running = started(held)
    assert admitted(held, attempt=2, token=2) == Admission.FOLLOWS
    assert admitted(held, attempt=1, token=1) == Admission.DUPLICATE
    assert held.next() is None
    held.release(running)
    assert started(held).task.attempt == 2


def test_full_queue_refuses_without_remembering() -> None:
    held = Assignments(slots=1, queue_max=1)
    admitted(held, step=1, token=1)
    assert admitted(held, step=2, token=2) == Admission.FULL
    held.next()
    assert admitted(held, step=2, token=2) == Admission.QUEUED


def test_what_was_handed_back_may_come_again() -> None:
    held = Assignments(slots=1, queue_max=10)
    admitted(held)
    returned = held.withdraw_all()
    held.forget(returned)
    assert len(held) == 0
    assert admitted(held) == Admission.QUEUED


def test_withdraw_all_includes_followers_and_leaves_what_runs() -> None:
    held = Assignments(slots=1, queue_max=10)
    admitted(held, token=1)
    running = started(held)
    admitted(held, attempt=2, token=2)
    admitted(held, step=9, token=3)
    assert {a.task.token for a in held.withdraw_all()} == {2, 3}
    assert list(held) == [running]
    held.release(running)
    assert len(held) == 0


def test_epochs_only_rise() -> None:
    held = Assignments(slots=1, queue_max=1)
    assert held.note_epoch(0, 3)
    assert held.note_epoch(0, 3)
    assert not held.note_epoch(0, 2)
    assert held.note_epoch(1, 0)
    assert held.epochs == {0: 3, 1: 0}


def test_rounds_count_within_an_epoch() -> None:
    held = Assignments(slots=1, queue_max=1)
    assert held.note_epoch(0, 3, 2)
    assert (held.epochs, held.rounds) == ({0: 3}, {0: 2})
    assert not held.note_epoch(0, 3)
    assert not held.note_epoch(0, 3, 1)
    assert not held.note_epoch(0, 2, 9)
    assert held.note_epoch(0, 3, 2)
    assert held.note_epoch(0, 4)
    assert (held.epochs, held.rounds) == ({0: 4}, {})
    assert not held.note_epoch(0, 3, 2)
    assert held.note_epoch(0, 4, 1)
    assert not held.note_epoch(0, 4)


def test_overdue_leaves_pinned_work_alone() -> None:
    held = Assignments(slots=1, queue_max=10)
    held.admit(make_task(step=1, token=1), HERE, 0)
    held.admit(make_task(step=2, token=2), Origin(0, "default", 1, pinned=True), 0)
    held.admit(make_task(step=3, token=3), HERE, 900)
    overdue = held.overdue(now_ms=1_001, limit_ms=1_000)
    assert [assignment.task.step for assignment in overdue] == [1]
    assert held.queued == 2


def test_free_counts_what_waits() -> None:
    held = Assignments(slots=3, queue_max=10)
    assert held.free == 3
    admitted(held, step=1, token=1)
    assert held.free == 2
    started(held)
    assert held.free == 2
    for step in range(5):
        admitted(held, step=10 + step, token=10 + step)
    assert held.free == 0
