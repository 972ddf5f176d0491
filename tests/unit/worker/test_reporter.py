from __future__ import annotations

import asyncio

import msgspec
import pytest

from headrace.bus import Disconnected
from headrace.errors import LimitExceeded, Unreachable
from headrace.messages import (
    Claim,
    ClaimReply,
    ResultBatch,
    ResultReply,
    ResultStatus,
    StepResult,
    WorkerRequest,
    encode,
)
from headrace.worker import reporter as reporter_module
from headrace.worker.core import Origin, Outbox
from headrace.worker.reporter import Reporter
from support.worker_owner import make_task

HERE = Origin(4, "team", 1)
_REQUEST = msgspec.msgpack.Decoder(WorkerRequest)


class Desk:
    """Answers by a script; then takes everything."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, object]] = []
        self.busy = 0
        self.gate: asyncio.Event | None = None

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        self.busy += 1
        assert self.busy == 1, "two requests in flight for one shard"
        self.asked.append((subject, _REQUEST.decode(payload)))
        await asyncio.sleep(0)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.busy -= 1
        answer = self.answers.pop(0) if self.answers else ResultReply()
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, bytes) else encode(answer)

    def batches(self) -> list[list[int]]:
        return [
            [result.step for result in asked.results]
            for _, asked in self.asked
            if isinstance(asked, ResultBatch)
        ]


def result(step: int, size: int = 1) -> StepResult:
    raw = msgspec.Raw(encode({"x": "y" * size}))
    return StepResult("team/r", step, 1, 1, ResultStatus.COMPLETED, raw, 0, 0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "BACKOFF_MIN_S", 0.001)
    monkeypatch.setattr(reporter_module, "BACKOFF_MAX_S", 0.002)


def reporter(desk: Desk, **settings) -> Reporter:
    box = Outbox(bytes_max=10**6, batch_bytes_max=10**5)
    fixed = {"worker": "w", "incarnation": "i", "on_room": lambda: None}
    return Reporter(desk, box, **{**fixed, **settings})


async def finish(made: Reporter) -> None:
    async with asyncio.timeout(30):
        await made.drained()
    assert await made.close() == 0


async def test_first_goes_alone_and_the_rest_grows() -> None:
    desk = Desk()
    desk.gate = asyncio.Event()
    made = reporter(desk)
    made.deliver(HERE, result(1))
    while not desk.asked:
        await asyncio.sleep(0)
    for step in range(2, 6):
        made.deliver(HERE, result(step))
    desk.gate.set()
    await finish(made)
    assert desk.batches() == [[1], [2, 3, 4, 5]]
    assert desk.asked[0][0] == "headrace.result.team.4.w"


@pytest.mark.parametrize(
    "trouble",
    [Disconnected("gone"), Unreachable("late"), b"nonsense", ResultReply(retry_after_ms=1)],
)
async def test_trouble_means_the_same_batch_again(trouble) -> None:
    desk = Desk(trouble, trouble)
    made = reporter(desk)
    made.deliver(HERE, result(1))
    await asyncio.sleep(0)
    made.deliver(HERE, result(2))
    await finish(made)
    assert desk.batches() == [[1], [1], [1], [2]]


async def test_refused_are_counted_and_dropped() -> None:
    refused: list[int] = []
    desk = Desk(ResultReply(refused=[0, 7]))
    made = reporter(desk, on_refused=refused.append)
    made.deliver(HERE, result(1))
    await finish(made)
    assert refused == [2]
    assert len(desk.asked) == 1


async def test_too_large_batches_are_halved_then_replaced() -> None:
    too_much = LimitExceeded("too much")
    desk = Desk(too_much, too_much)
    made = reporter(desk)
    made.deliver(HERE, result(1, size=60_000))
    made.deliver(HERE, result(2))
    await finish(made)
    assert desk.batches() == [[1, 2], [1], [1, 2]]
    first = desk.asked[-1][1].results[0]
    assert (first.status, first.error.type) == (ResultStatus.FAILED, "result-too-large")


async def test_close_tells_what_is_left() -> None:
    desk = Desk()
    desk.gate = asyncio.Event()
    made = reporter(desk)
    made.deliver(HERE, result(1))
    await asyncio.sleep(0)
    assert await made.close() == 1


async def test_claim_is_repeated_until_answered() -> None:
    desk = Desk(Disconnected("gone"), ClaimReply(True, 99))
    made = reporter(desk)
    reply = await made.claim(HERE, make_task("team/r", 3, attempt=2, token=8))
    assert reply == ClaimReply(True, 99)
    expected = Claim(1, "w", "i", "team/r", 3, 2, 8)
    assert [asked for _, asked in desk.asked] == [expected, expected]


async def test_claim_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "CLAIM_TRIES_S", 0.01)
    desk = Desk(*[Disconnected("gone")] * 100)
    with pytest.raises(Unreachable):
        await reporter(desk).claim(HERE, make_task())


async def test_another_owner_is_asked_at_once() -> None:
    """What was sent to the former owner, who is dead, is not waited for."""
    desk = Desk()
    desk.gate = asyncio.Event()
    made = reporter(desk)
    made.deliver(HERE, result(1))
    while not desk.asked:
        await asyncio.sleep(0)
    made.moved(HERE.shard + 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert desk.batches() == [[1]]
    made.moved(HERE.shard)
    made.moved(HERE.shard)
    desk.gate.set()
    await finish(made)
    assert desk.batches() == [[1], [1]]
