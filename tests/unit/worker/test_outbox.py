from __future__ import annotations

import msgspec

from headrace.messages import ResultStatus, StepError, StepResult, Task, encode
from headrace.worker.core import Outbox
from headrace.worker.core.outbox import result_bytes

ROUTE = ("default", 0)


def result(step: int = 1, *, size: int = 1, token: int = 1) -> StepResult:
    output = msgspec.Raw(encode({"x": "y" * size}))
    return StepResult("default/r", step, 1, token, ResultStatus.COMPLETED, output, 0, 0)


def steps(results: list[StepResult]) -> list[int]:
    return [item.step for item in results]


def outbox(**limits) -> Outbox:
    return Outbox(**{"bytes_max": 10_000, "batch_bytes_max": 1_000, **limits})


def test_only_the_first_wakes_the_sender() -> None:
    box = outbox()
    assert box.add(ROUTE, result(1))
    assert not box.add(ROUTE, result(2))
    assert box.add(("default", 1), result(3))
    box.take(ROUTE)
    assert not box.add(ROUTE, result(4))


def test_unanswered_batch_is_sent_again_as_it_was() -> None:
    box = outbox()
    box.add(ROUTE, result(1))
    assert steps(box.take(ROUTE)) == [1]
    box.add(ROUTE, result(2))
    assert steps(box.take(ROUTE)) == [1]
    box.settle(ROUTE)
    assert steps(box.take(ROUTE)) == [2]


def test_batches_are_bounded_and_in_order() -> None:
    box = outbox(batch_bytes_max=350)
    for step in range(5):
        box.add(ROUTE, result(step))
    sent: list[list[int]] = []
    while batch := box.take(ROUTE):
        sent.append(steps(batch))
        box.settle(ROUTE)
    assert [step for batch in sent for step in batch] == [0, 1, 2, 3, 4]
    assert max(map(len, sent)) < 5


def test_one_oversized_result_goes_alone() -> None:
    box = outbox(batch_bytes_max=10)
    box.add(ROUTE, result(1, size=500))
    box.add(ROUTE, result(2))
    assert steps(box.take(ROUTE)) == [1]


def test_bytes_return_to_zero() -> None:
    box = outbox(bytes_max=200)
    box.add(ROUTE, result(1, size=300))
    assert box.full
    box.take(ROUTE)
    box.settle(ROUTE)
    assert (box.bytes, len(box), box.full) == (0, 0, False)


def test_size_is_never_underestimated() -> None:
    plain = result(size=1_000)
    failed = msgspec.structs.replace(plain, error=StepError("x", "y" * 500))
    assert result_bytes(plain) >= len(encode(plain))
    assert result_bytes(failed) == len(encode(failed))


def task(*, attempt: int = 1, token: int) -> Task:
    return Task("default/r", 1, "work", attempt, token, "noop", msgspec.Raw(b"\x80"))


def test_kept_result_is_answered_under_a_newer_token_too() -> None:
    box = outbox()
    box.add(ROUTE, result(1, token=3))
    box.take(ROUTE)
    assert box.unanswered(ROUTE, [task(token=3)]) == []
    assert len(box) == 1
    assert box.unanswered(ROUTE, [task(token=8)]) == []
    box.settle(ROUTE)
    assert [item.token for item in box.take(ROUTE)] == [8]
    other = task(attempt=2, token=9)
    assert box.unanswered(ROUTE, [task(token=8), other]) == [other]
    box.settle(ROUTE)
    assert box.unanswered(ROUTE, [task(token=9)]) == [task(token=9)]


def test_substitutes_come_first() -> None:
    box = outbox()
    box.add(ROUTE, result(1, size=500))
    box.take(ROUTE)
    box.add(ROUTE, result(2))
    box.substitute(ROUTE, [result(1)])
    assert steps(box.take(ROUTE)) == [1, 2]
    box.settle(ROUTE)
    assert box.bytes == 0
