"""One life of a worker: what orders do, and what its parts do with each other."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from headrace.messages import (
    CancelStep,
    DrainWorker,
    EpochNotice,
    LaneOffer,
    ResultBatch,
    ResultReply,
    ResultStatus,
    TaskBatch,
    WorkerHeartbeat,
    WorkerRequest,
    encode,
    subjects,
)
from headrace.worker.core import Identity
from headrace.worker.executor import Executor
from headrace.worker.handlers import Handler, Registry
from headrace.worker.life import Life, Terms
from headrace.worker.outcomes import TurnOver
from headrace.worker.payloads import Payloads
from support.broker import eventually
from support.fakebus import FakeBus, FakeClock, FakeMessage
from support.worker_owner import make_task

LANE = LaneOffer("lane", "lane-consumer", [])
ORDERS = subjects.worker_orders("default", "w", "1", ())
HEARTBEATS = subjects.worker_heartbeat("default", "w", ())
_REQUEST = msgspec.msgpack.Decoder(WorkerRequest)
_HEARTBEAT = msgspec.msgpack.Decoder(WorkerHeartbeat)


class Folders:
    def close(self) -> None:
        pass


class Pull:
    demand = 1
    closed = False

    def __init__(self, name, receive) -> None:
        self.name, self.receive = name, receive
        self.over = asyncio.Event()
        self.over.set()

    def start(self) -> None:
        pass

    def pause(self) -> None:
        self.demand = 0

    async def leave(self) -> None:
        await self.over.wait()
        self.close()

    def ack(self, message) -> bool:
        return True

    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


class Owners:
    """The first request for results gets no answer, as from a frozen owner; later ones do."""

    def __init__(self) -> None:
        self.asked: list[ResultBatch] = []
        self.frozen = 1

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        self.asked.append(_REQUEST.decode(payload))
        if self.frozen:
            self.frozen -= 1
            await asyncio.Event().wait()
        return encode(ResultReply())


class Scene:
    def __init__(self) -> None:
        self.bus, self.owners, self.pulls = FakeBus(), Owners(), []
        self.go = asyncio.Event()
        registry = Registry(
            [
                Handler("noop", _noop, builtin=True),
                Handler("waits", self._wait, builtin=True),
                Handler("turn", self._turn, builtin=True),
            ]
        )
        self.life = Life(
            self.bus,
            self.owners,
            Identity(id="w", incarnation="1", namespace="default", capabilities=()),
            Terms(2, 10, 1 << 20, heartbeat_s=60.0, grace_s=60.0, kill_s=5.0),
            make_executor=lambda assignments, reporter, on_freed: Executor(
                registry=registry,
                results=reporter,
                assignments=assignments,
                workspaces=Folders(),
                payloads=Payloads(None),
                claims=reporter,
                on_freed=on_freed,
            ),
            open_pull=self._pull,
            handlers={},
            clock=FakeClock(),
        )
        self.life.listen()

    def _pull(self, name, receive) -> Pull:
        self.pulls.append(Pull(name, receive))
        return self.pulls[-1]

    async def _wait(self, ctx, inputs) -> dict:
        await self.go.wait()
        return {}

    async def _turn(self, ctx, inputs) -> dict:
        await self.go.wait()
        raise TurnOver

    def order(self, order) -> None:
        self.bus.tell(FakeMessage(ORDERS, encode(order)))

    def give(self, *tasks) -> None:
        data = encode(TaskBatch(1, 0, 1, "default", 0, list(tasks)))
        self.pulls[0].receive(FakeMessage("lane", data))

    def heartbeats(self) -> list[WorkerHeartbeat]:
        name = HEARTBEATS
        return [_HEARTBEAT.decode(m.data) for m in self.bus.published if m.subject == name]


async def _noop(ctx, inputs) -> dict:
    return {}


@pytest.fixture
def scene():
    return Scene()


async def test_after_a_freeze_nothing_is_begun_that_somebody_else_may_have(scene, monkeypatch):
    """What waited, and what lay in buffers, goes back; what comes later is begun."""
    read = asyncio.Event()

    async def flush(*, timeout_s: float) -> None:
        await read.wait()

    monkeypatch.setattr(scene.bus, "flush", flush)
    scene.owners.frozen = 0
    loop = asyncio.get_running_loop()
    scene.order(LANE)
    scene.life.heartbeats.send()
    scene.give(*(make_task(step=step, uses="waits") for step in (1, 2, 3)))
    await eventually(lambda: scene.life.assignments.running == 2)
    time_s = loop.time
    monkeypatch.setattr(loop, "time", lambda: time_s() + 1_000)
    scene.give(make_task(step=4))
    scene.life.heartbeats.send()
    scene.give(make_task(step=5))
    await eventually(lambda: len(returned(scene)) == 3)
    read.set()
    await eventually(lambda: not scene.life._holds_back())
    scene.go.set()
    scene.give(make_task(step=6))
    await eventually(lambda: 6 in completed(scene))
    assert returned(scene) == {3, 4, 5}
    assert completed(scene) == {1, 2, 6}


def returned(scene):
    return _reported(scene, ResultStatus.RETURNED)


def completed(scene):
    return _reported(scene, ResultStatus.COMPLETED)


def _reported(scene, status):
    return {r.step for batch in scene.owners.asked for r in batch.results if r.status == status}


async def test_a_new_owner_gets_the_results_that_a_frozen_one_has_not_answered(scene):
    scene.order(LANE)
    scene.give(make_task())
    await eventually(lambda: len(scene.owners.asked) == 1)
    scene.order(EpochNotice(0, 7))
    await eventually(lambda: len(scene.owners.asked) == 2)
    assert scene.owners.asked[0] == scene.owners.asked[1]
    async with asyncio.timeout(30):
        await scene.life.reporter.drained()


async def test_an_owner_of_the_past_changes_nothing(scene):
    scene.order(LANE)
    scene.order(EpochNotice(0, 7))
    scene.order(EpochNotice(0, 6))
    assert scene.life.assignments.epochs == {0: 7}
    scene.give(make_task())
    await asyncio.sleep(0)
    assert scene.owners.asked == []


async def test_a_new_round_keeps_away_what_was_sent_before(scene):
    scene.order(LANE)
    scene.order(EpochNotice(0, 1, 1))
    assert (scene.life.assignments.epochs, scene.life.assignments.rounds) == ({0: 1}, {0: 1})
    scene.give(make_task())
    await asyncio.sleep(0)
    assert len(scene.life.assignments) == 0
    assert scene.owners.asked == []


async def test_an_owner_that_asks_hears_at_once_what_is_held(scene):
    beating = asyncio.create_task(scene.life.heartbeats.run())
    scene.order(LANE)
    scene.give(make_task(uses="waits"))
    await eventually(lambda: scene.life.assignments.running == 1)
    before = len(scene.heartbeats())
    scene.order(EpochNotice(0, 7))
    await eventually(lambda: len(scene.heartbeats()) > before)
    said = scene.heartbeats()[-1]
    assert [held.run for held in said.held[0]] == ["default/r1"]
    assert said.epochs == {0: 7}
    beating.cancel()
    scene.life.executor.cancel("default/r1", 1, 1, "over")
    async with asyncio.timeout(30):
        await scene.life.executor.wait_idle()


async def test_an_order_to_cancel_reaches_the_step(scene):
    scene.owners.frozen = 0
    scene.order(LANE)
    scene.give(make_task(uses="waits"))
    await eventually(lambda: scene.life.assignments.running == 1)
    scene.order(CancelStep("default/r1", 1, 1, "enough"))
    await eventually(lambda: scene.owners.asked)
    (result,) = scene.owners.asked[0].results
    assert result.error.message == "enough"


async def test_an_order_to_drain_ends_it_with_a_farewell(scene):
    scene.owners.frozen = 0
    scene.order(LANE)
    scene.give(make_task(uses="waits"), make_task(step=2, uses="waits"), make_task(step=3))
    await eventually(lambda: scene.life.assignments.running == 2)
    scene.order(DrainWorker())
    over = asyncio.create_task(scene.life.drained())
    await eventually(lambda: scene.owners.asked)
    assert [result.step for result in scene.owners.asked[0].results] == [3], "handed back at once"
    assert not over.done()
    scene.go.set()
    async with asyncio.timeout(30):
        await over
        await scene.life.stop()
    assert sorted(r.step for b in scene.owners.asked[1:] for r in b.results) == [1, 2]
    assert scene.heartbeats()[-1].stopped


async def test_the_end_of_a_turn_makes_room_at_once(scene):
    """It has no result, whose confirmation would ask for more; heartbeats come each minute here."""
    scene.life.consumer.offer(LANE)
    scene.give(make_task(run="default/a", uses="turn"), make_task(run="default/b", uses="turn"))
    assert scene.pulls[0].demand == 0
    scene.go.set()
    await eventually(lambda: scene.pulls[0].demand > 0)


async def test_what_was_on_its_way_when_the_drain_began_goes_back(scene):
    """The end waits until the broker has nothing left that it may send."""
    scene.owners.frozen = 0
    scene.order(LANE)
    (pull,) = scene.pulls
    pull.over.clear()
    scene.order(DrainWorker())
    over = asyncio.create_task(scene.life.drained())
    await eventually(lambda: scene.life.draining)
    # The loop has nothing else to do than to end the drain, if it would.
    for _ in range(100):
        await asyncio.sleep(0)
    assert not over.done()
    scene.give(make_task(step=1), make_task(step=2, uses="waits"))
    pull.over.set()
    async with asyncio.timeout(30):
        await over
    assert returned(scene) == {1, 2}
    assert completed(scene) == set()
    assert scene.pulls[0].closed


async def test_the_last_results_have_what_is_left_of_the_grace(scene, monkeypatch):
    """The owner does not answer at once; an end before it does would lose the result."""
    monkeypatch.setattr("headrace.worker.life.FAREWELL_S", 0.0)
    scene.order(LANE)
    scene.give(make_task())
    await eventually(lambda: len(scene.owners.asked) == 1)
    scene.order(DrainWorker())
    over = asyncio.create_task(scene.life.drained())
    await eventually(lambda: scene.pulls[0].closed)
    # The loop has nothing else to do than to end the drain, if it would.
    for _ in range(100):
        await asyncio.sleep(0)
    assert not over.done()
    scene.order(EpochNotice(0, 7))
    async with asyncio.timeout(30):
        await over
    assert completed(scene) == {1}
    assert len(scene.life.outbox) == 0


async def test_an_order_that_nobody_understands_is_passed_over(scene, caplog):
    scene.bus.tell(FakeMessage(ORDERS, b"\xc1"))
    assert "order not understood" in caplog.text
