from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from headrace.messages import LaneOffer, ResultStatus, TaskBatch, encode, subjects
from headrace.worker.consumer import Consumer, deliveries
from headrace.worker.core import Credit, Identity, Outbox
from headrace.worker.handlers import Context, handler
from support.worker_owner import make_task

WHO = Identity(
    id="w", incarnation="i", namespace="default", capabilities=("Linux", "gpu"), started_ms=0
)


class FakeMessage:
    def __init__(self, data: bytes, deliveries: int = 1) -> None:
        self.data = data
        self.reply = f"$JS.ACK.HEADRACE_TASKS.lane.{deliveries}.7.7.1700000000.0"


class FakePull:
    """Remembers what was asked; `give` brings a message."""

    def __init__(self, on_message: Callable[[Any], None]) -> None:
        self.on_message = on_message
        self.demand = 0
        self.acked: list[object] = []
        self.termed: list[object] = []
        self.started = self.closed = False
        self.well = True

    def start(self) -> None:
        self.started = True

    def pause(self) -> None:
        self.demand = 0

    async def leave(self) -> None:
        self.close()

    def ack(self, message: object) -> bool:
        self.acked.append(message)
        return True

    def term(self, message: object) -> bool:
        self.termed.append(message)
        return True

    def healthy(self) -> bool:
        return self.well

    def close(self) -> None:
        self.closed = True

    def give(
        self, *tasks, epoch: int = 1, round: int = 0, version: int = 1, deliveries: int = 1
    ) -> None:
        data = encode(TaskBatch(version, 0, epoch, "default", 0, list(tasks), round))
        self.give_raw(data, deliveries)

    def give_raw(self, data: bytes, deliveries: int = 1) -> None:
        self.on_message(FakeMessage(data, deliveries))


@handler("hangs")
async def hangs(ctx: Context, inputs: dict) -> None:
    await asyncio.Event().wait()


class Scene:
    def __init__(self, bench) -> None:
        self.bench = bench
        self.pulls: dict[str, FakePull] = {}
        self.dropped: list[tuple[str, int]] = []
        self.outbox = Outbox(bytes_max=1_000, batch_bytes_max=500)
        self.consumer = Consumer(
            identity=WHO,
            executor=bench.executor,
            outbox=self.outbox,
            credit=Credit(slots=4, queue_max=8),
            open_pull=self.open,
            on_dropped=lambda reason, count: self.dropped.append((reason, count)),
        )

    def open(self, name: str, on_message: Callable[[Any], None]) -> FakePull:
        self.pulls[name] = FakePull(on_message)
        return self.pulls[name]

    def lane(self, *capabilities: str) -> FakePull:
        lane = subjects.lane_of("default", capabilities)
        assert self.consumer.offer(LaneOffer(lane, "c", list(capabilities)))
        return self.pulls["c"]


@pytest.fixture
def scene(make_bench) -> Scene:
    return Scene(make_bench(handlers=[hangs], slots=4))


async def test_takes_lanes_that_it_can_serve_once(scene: Scene) -> None:
    offer = LaneOffer("l", "c", ["LINUX"])
    assert scene.consumer.offer(offer)
    assert not scene.consumer.offer(offer)
    assert not scene.consumer.offer(LaneOffer("m", "d", ["linux", "windows"]))
    assert not scene.consumer.offer(LaneOffer("@other-i", "e", []))
    assert scene.consumer.offer(LaneOffer("@w-i", "f", ["x"]))
    assert scene.consumer.lanes == ["l", "@w-i"]
    assert scene.pulls["c"].started
    assert scene.pulls["c"].demand == 1


async def test_a_lane_whose_consumer_has_another_name_is_pulled_by_that(scene: Scene) -> None:
    assert scene.consumer.offer(LaneOffer("lane", "before", ["linux"]))
    first = scene.pulls["before"]
    assert scene.consumer.offer(LaneOffer("lane", "after", ["linux"]))
    assert first.closed
    assert scene.pulls["after"].started
    assert scene.consumer.lanes == ["lane"]


async def test_acks_and_runs(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(make_task("d/a", token=1), make_task("d/b", token=2))
    await scene.bench.executor.wait_idle()
    assert [result.run for result in scene.bench.results] == ["d/a", "d/b"]
    assert len(pull.acked) == 1


async def test_drops_old_epochs_and_nonsense(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(epoch=5)
    pull.give(make_task(), epoch=4)
    pull.give_raw(b"nonsense")
    pull.give_raw(encode(TaskBatch(1, 0, 5, "default", 0, [])).replace(b"default", b"defa\xfflt"))
    pull.give(make_task(), version=9)
    assert scene.dropped == [("old_epoch", 1), *[("malformed", 1)] * 3]
    assert (len(pull.acked), len(pull.termed)) == (2, 3)
    assert len(scene.bench.executor.assignments) == 0


async def test_drops_earlier_rounds_of_an_epoch(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(make_task("d/a", token=1), epoch=5, round=1)
    pull.give(make_task("d/b", token=2), epoch=5)
    assert scene.dropped == [("old_epoch", 1)]
    pull.give(make_task("d/c", token=3), epoch=6)
    await scene.bench.executor.wait_idle()
    assert [result.run for result in scene.bench.results] == ["d/a", "d/c"]


async def test_unconfirmed_result_is_answered_again_not_run_again(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(make_task(token=1))
    await scene.bench.executor.wait_idle()
    scene.outbox.add(("default", 0), scene.bench.results[0])
    pull.give(make_task(token=2), epoch=2)
    await scene.bench.executor.wait_idle()
    assert len(scene.bench.results) == 1
    assert [result.token for _, result in scene.outbox.unsettled()] == [1, 2]


async def test_full_slots_pause_the_pulls(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(*[make_task("d/r", n, uses="hangs", token=n) for n in range(1, 5)])
    assert pull.demand == 0
    await asyncio.sleep(0)
    scene.bench.executor.cancel("d/r", 1, 1, "")
    await scene.bench.until(lambda: scene.bench.results)
    scene.consumer.adjust()
    assert pull.demand == 1


async def test_full_outbox_pauses_the_pulls(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(make_task(inputs={"x": "y" * 2_000}))
    await scene.bench.executor.wait_idle()
    assert pull.demand == 1
    scene.outbox.add(("default", 0), scene.bench.results[0])
    scene.consumer.adjust()
    assert pull.demand == 0


async def test_stopped_hands_back_what_still_arrives(scene: Scene) -> None:
    pull = scene.lane("linux")
    scene.consumer.stop()
    assert pull.demand == 0
    pull.give(make_task())
    assert [result.status for result in scene.bench.results] == [ResultStatus.RETURNED]
    assert not scene.consumer.offer(LaneOffer("z", "z", []))


async def test_ready_while_all_lanes_answer(scene: Scene) -> None:
    assert scene.consumer.ready
    pull = scene.lane("linux")
    assert scene.consumer.ready
    pull.well = False
    assert not scene.consumer.ready


async def test_a_redelivered_message_is_left_to_its_owner(scene: Scene) -> None:
    pull = scene.lane("linux")
    pull.give(make_task(uses="hangs"), deliveries=2)
    assert scene.dropped == [("redelivered", 1)]
    assert scene.consumer.lanes


def test_deliveries_are_read_from_the_acknowledgement_subject() -> None:
    assert deliveries("$JS.ACK.S.c.3.7.7.1700000000.0") == 3
    assert deliveries("$JS.ACK.domain.account.S.c.2.7.7.1700000000.0.token") == 2
    assert deliveries("") == 1
