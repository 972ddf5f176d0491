from __future__ import annotations

import pytest

from headrace.worker.core import Credit


def test_no_pulls_without_room_or_with_a_full_outbox() -> None:
    credit = Credit(slots=4, queue_max=8)
    assert credit.wanted(held=4, lanes=1, outbox_full=False) == 0
    assert credit.wanted(held=0, lanes=1, outbox_full=True) == 0
    assert credit.wanted(held=0, lanes=0, outbox_full=False) == 0


def test_room_is_shared_among_lanes_and_each_has_one() -> None:
    credit = Credit(slots=16, queue_max=32)
    assert credit.wanted(held=0, lanes=1, outbox_full=False) == 1
    credit.tasks_a_message = 1.0
    assert credit.wanted(held=0, lanes=1, outbox_full=False) == 16
    assert credit.wanted(held=0, lanes=4, outbox_full=False) == 4
    assert credit.wanted(held=0, lanes=100, outbox_full=False) == 1


def test_large_messages_mean_few_pulls() -> None:
    credit = Credit(slots=100, queue_max=200)
    for _ in range(100):
        credit.observe(50)
    assert credit.tasks_a_message == pytest.approx(50, rel=0.01)
    assert credit.wanted(held=0, lanes=1, outbox_full=False) == 2


def test_pulls_are_bounded() -> None:
    credit = Credit(slots=10**6, queue_max=1)
    assert credit.wanted(held=0, lanes=1, outbox_full=False) == 64
