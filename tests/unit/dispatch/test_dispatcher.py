"""The dispatcher over a bus in plain data and a clock that stands still."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from headrace.coordinator.core import Order
from headrace.coordinator.dispatch import dispatcher as module
from headrace.coordinator.dispatch.lanes import RECEIPT_MS
from headrace.errors import Unreachable
from headrace.messages import (
    CancelStep,
    LaneOffer,
    ResultStatus,
    TaskBatch,
    decode,
    encode,
    subjects,
)
from support.broker import eventually
from support.dispatchkit import World, holding, lane, look, lost, result, started, tasks
from support.fakebus import FakeMessage

# -- sending ----------------------------------------------------------------------------------


async def test_tasks_go_to_their_lane_with_epoch_and_shard(world):
    shard = world.shard(3, epoch=9)
    world.beat()
    shard.send(9, lane(), "l", tasks(1))
    (message,) = world.bus.sent("headrace.task.>")
    assert message.subject == "headrace.task.default.l.3"
    batch = decode(TaskBatch, message.data)
    assert (batch.shard, batch.epoch, [t.step for t in batch.tasks]) == (3, 9, [1])
    await eventually(lambda: world.bus.js.made == ["default-l"])
    await asyncio.sleep(0)
    assert [(id, offer.lane) for id, offer in world.orders(LaneOffer)] == [("w", "l")]


async def test_a_message_never_holds_more_than_the_receiver_has_slots_for(world):
    shard = world.shard()
    world.beat("big", slots=16)
    world.beat("small", slots=3)
    world.dispatcher.credits.rate("l").step_ms = 0.1
    shard.send(5, lane(), "l", tasks(*range(1, 11)))
    sizes = [len(decode(TaskBatch, m.data).tasks) for m in world.bus.sent("headrace.task.>")]
    assert sizes == [3, 3, 3, 1]


async def test_large_tasks_are_split_by_bytes(world):
    shard = world.shard()
    world.beat(slots=16)
    world.dispatcher.credits.rate("l").step_ms = 0.1
    inputs = msgspec.Raw(encode("x" * 7_000))
    shard.send(5, lane(), "l", tasks(1, 2, 3, 4, inputs=inputs))
    sizes = [len(decode(TaskBatch, m.data).tasks) for m in world.bus.sent("headrace.task.>")]
    assert sizes == [2, 2]


async def test_an_unacknowledged_publish_is_repeated_under_one_id(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    (first,) = world.bus.sent("headrace.task.>")
    world.lanes.repeat()
    assert world.bus.sent("headrace.task.>") == []
    world.clock.advance(RECEIPT_MS)
    world.lanes.repeat()
    (second,) = world.bus.sent("headrace.task.>")
    assert second == first
    assert first.headers["Nats-Msg-Id"]
    world.bus.tell(FakeMessage(first.reply, b'{"stream":"T","seq": 1}'))
    world.clock.advance(RECEIPT_MS)
    world.lanes.repeat()
    assert world.bus.sent("headrace.task.>") == []
    assert world.lanes._pending_bytes == 0


async def test_refused_messages_are_told_of_when_it_begins_and_when_it_ends(world, caplog):
    shard = world.shard()
    world.beat(slots=16)
    shard.send(5, lane(), "l", tasks(1, 2, 3))
    caplog.set_level(logging.INFO)
    for _ in range(3):
        for sent in world.bus.sent("headrace.task.>"):
            refusal = b'{"error":{"code":503,"description":"no room"}}'
            world.bus.tell(FakeMessage(sent.reply, refusal))
        world.clock.advance(RECEIPT_MS)
        world.lanes.repeat()
    (begun,) = caplog.records
    assert begun.message == "task messages are refused by the broker"
    assert "no room" in begun.reason
    # One of them is not recovery.
    first, *others = world.bus.sent("headrace.task.>")
    world.bus.tell(FakeMessage(first.reply, b'{"stream":"T","seq": 1}'))
    assert len(caplog.records) == 1
    for sent in others:
        world.bus.tell(FakeMessage(sent.reply, b'{"stream":"T","seq": 1}'))
    ended = caplog.records[-1]
    assert ended.message == "no task message is refused any more"
    assert (ended.messages, ended.refusals, len(caplog.records)) == (3, 9, 2)
    # The next trouble is told of again.
    shard.send(5, lane(), "l", tasks(4))
    (sent,) = world.bus.sent("headrace.task.>")
    world.bus.tell(FakeMessage(sent.reply, b"", status=503))
    assert caplog.records[-1].message == begun.message


async def test_while_disconnected_it_is_kept(world):
    shard = world.shard()
    world.beat()
    world.bus.connected = False
    shard.send(5, lane(), "l", tasks(1))
    world.bus.reconnect()
    world.clock.advance(RECEIPT_MS)
    world.lanes.repeat()
    assert len(world.bus.sent("headrace.task.>")) == 1


async def test_a_shard_that_is_not_ours_any_more_repeats_nothing(world):
    ours, theirs = world.shard(0), world.shard(1)
    world.beat()
    for shard in (ours, theirs):
        shard.send(5, lane(), "l", tasks(1))
    world.bus.sent("headrace.task.>")
    theirs.close()
    world.clock.advance(RECEIPT_MS)
    world.lanes.repeat()
    assert [m.subject for m in world.bus.sent("headrace.task.>")] == ["headrace.task.default.l.0"]
    # A late close of an earlier ownership does not touch the present one.
    again = world.shard(1)
    theirs.close()
    assert world.dispatcher.shards[1] is again


async def test_congestion_stops_dispatch(world, monkeypatch):
    monkeypatch.setattr("headrace.coordinator.dispatch.lanes.PENDING_BYTES_MAX", 100)
    shard = world.shard()
    world.beat()
    assert shard.credit(lane()) == (4, "l")
    shard.send(5, lane(), "l", tasks(1, inputs=msgspec.Raw(encode("x" * 100))))
    assert shard.credit(lane()) == (0, "l")
    world.receipts()
    assert shard.credit(lane())[0] == 3


# -- credit -----------------------------------------------------------------------------------


async def test_credit_counts_what_is_being_logged(world):
    shard = world.shard()
    world.beat()
    assert shard.credit(lane()) == (4, "l")
    shard.reserve(lane(), 3)
    assert shard.credit(lane()) == (1, "l")
    # Another lane of these workers gets its even part all the same.
    assert shard.credit(lane("m", length=1)) == (2, "m")
    shard.send(5, lane(), "l", tasks(1, 2, 3))
    assert shard.credit(lane()) == (1, "l")


async def test_slots_count_once_over_lanes(world):
    shard = world.shard()
    world.beat("g", capabilities=["gpu", "default"])
    world.beat("d")
    shard.send(5, lane("gpu", ("gpu",)), "gpu", tasks(1, 2, 3, 4))
    # Eight slots, four of them with g, which is full.
    assert shard.credit(lane("d", ("default",), length=4)) == (4, "d")


async def test_shards_share_and_nobody_starves(world):
    first, second = world.shard(0), world.shard(1)
    world.beat()
    first.send(5, lane(), "l", tasks(1, 2, 3, 4))
    assert first.credit(lane())[0] == 0
    assert second.credit(lane())[0] == 2
    second.send(5, lane(), "l", tasks(5, 6, run="default/x"))
    first.recorded([result(1)])
    # The first one's freed slot is not for the first one again: it has more than its part.
    assert first.credit(lane())[0] == 0


async def test_the_coordinators_share_is_never_nothing(world):
    shard = world.shard()
    world.dispatcher.share = lambda: 0.0
    world.beat()
    assert shard.credit(lane()) == (1, "l")


async def test_no_worker_no_credit_and_since_when(world):
    shard = world.shard()
    world.beat()
    assert shard.credit(lane("g", ("gpu",)))[0] == 0
    since = world.clock.now_ms()
    world.clock.advance(5_000)
    shard.credit(lane("g", ("gpu",)))
    assert shard.facts().missing_since_ms == {"gpu": since}
    world.beat("g", capabilities=["GPU"])
    assert shard.facts().missing_since_ms == {}
    assert world.woken


async def test_what_was_handed_back_says_nothing_about_time(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    shard.recorded([result(1, status=ResultStatus.RETURNED, took_ms=0)])
    assert world.dispatcher.credits.rate("l").step_ms == 1_000
    assert shard.leases.held == {}


async def test_lanes_of_a_namespace_are_limited():
    world = World(lanes_max=2)
    await world.lanes.start()
    shard = world.shard()
    world.beat()
    for name in ("a", "b"):
        shard.send(5, lane(name), name, tasks(1 if name == "a" else 2))
    assert shard.credit(lane("c"))[0] == 0
    shard.recorded([result(1)])
    world.clock.advance(module.LANE_KEPT_MS + 1)
    world.beat()
    assert shard.credit(lane("c"))[0] > 0
    assert set(world.dispatcher.lane_capabilities) == {("default", "b")}
    await world.dispatcher.look_after()
    assert world.bus.js.deleted == ["default-a"]
    world.dispatcher.close()


# -- who is lost ------------------------------------------------------------------------------


async def test_a_silent_worker_loses_its_steps_after_a_lease(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1, 2))
    world.beat(**holding(1))
    world.pass_ms(2_000)
    world.silence("w")
    world.pass_ms(2_750)
    assert lost(shard) == []
    world.pass_ms(1_000)
    assert lost(shard) == [(1, 1)]
    assert world.dispatcher.fleet.workers == {}


async def test_a_new_life_loses_the_old_ones_steps_at_once(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    world.beat(**holding(1))
    world.beat(incarnation="2")
    assert lost(shard) == [(1, 1)]


async def test_cut_off_nobody_is_lost_and_one_lease_after(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    world.beat(**holding(1))
    world.bus.connected = False
    world.pass_ms(10_000)
    assert lost(shard) == []
    world.bus.reconnect()
    world.silence("w")
    world.pass_ms(2_500)
    assert lost(shard) == []
    world.pass_ms(1_000)
    assert lost(shard) == [(1, 1)]


async def test_a_frozen_broker_or_a_stalled_loop_loses_nobody(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    world.beat(**holding(1))
    world.pass_ms(1_000)
    # The connection stands, and nothing comes.
    world.pass_ms(20_000, deaf=True)
    assert lost(shard) == []
    world.pass_ms(10_000)
    assert lost(shard) == []
    # We ourselves stand still, and look before we have read what has come meanwhile.
    world.clock.advance(20_000)
    assert lost(shard) == []
    world.dispatcher.expire()
    world.pass_ms(5_000)
    assert lost(shard) == []
    world.silence("w")
    world.pass_ms(4_000)
    assert lost(shard) == [(1, 1)]


async def test_a_wall_clock_that_jumps_loses_nobody(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    world.beat(**holding(1))
    for jump_ms in (3_600_000, -7_200_000):
        world.clock.wall_ms += jump_ms
        world.pass_ms(1_000)
        assert lost(shard) == []
    world.silence("w")
    world.pass_ms(4_000)
    assert lost(shard) == [(1, 1)]


async def test_a_heartbeat_from_a_foreign_subject_is_not_believed(world):
    forged = msgspec.structs.replace(world.beat() or world.beats["w"], stopped=True)
    for said in (("default", "x", ["default"]), ("a", "w", ["default"]), ("default", "w", ["b"])):
        world.bus.tell(FakeMessage(subjects.worker_heartbeat(*said), encode(forged)))
    world.bus.tell(FakeMessage("headrace.hb.worker.default.x.w", b"\xc1"))
    assert list(world.dispatcher.fleet.workers) == ["w"]


# -- delivered, and held by nobody ------------------------------------------------------------


async def test_delivered_and_held_by_nobody_is_lost_after_two_heartbeats(world):
    shard = await started(world, 1, 2)
    world.receipts()
    world.beat(**holding(2))
    await look(world, 2_000)
    assert lost(shard) == []
    await look(world, 1_500)
    assert lost(shard) == [(1, 1)]


async def test_what_still_waits_at_the_broker_is_not_lost(world):
    shard = await started(world, 1)
    world.receipts(delivered=False)
    await look(world, 30_000)
    assert lost(shard) == []
    world.bus.js.consumers["default-l"] = world.seq
    await look(world, 4_000)
    assert lost(shard) == [(1, 1)]


async def test_what_has_no_receipt_is_not_lost(world):
    shard = await started(world, 1)
    world.bus.sent("headrace.task.>")
    await look(world, 10_000)
    assert lost(shard) == []
    assert len(world.bus.sent("headrace.task.>")) >= 9


async def test_what_has_no_receipt_is_not_lost_though_time_goes_by_while_it_is_sent(
    world, monkeypatch
):
    """Its lease begins before its publish; the moment between them must not count as delivered."""
    publish = world.bus.publish

    def slow(*args, **options):
        world.clock.advance(1)
        return publish(*args, **options)

    begin = world.dispatcher.message_tasks

    def late(*args):
        world.clock.advance(1)
        return begin(*args)

    monkeypatch.setattr(world.bus, "publish", slow)
    monkeypatch.setattr(world.dispatcher, "message_tasks", late)
    shard = await started(world, 1)
    await look(world, 10_000)
    assert lost(shard) == []


async def test_a_frozen_worker_keeps_what_it_took_until_its_lease_is_over(world):
    shard = await started(world, 1)
    world.beat("other")
    world.receipts()
    # It took the step and froze before its next heartbeat.
    world.silence("w")
    await look(world, 2_750)
    assert lost(shard) == []
    # Its lease is over: it is lost with whatever it took.
    await look(world, 2_500)
    assert lost(shard) == [(1, 1)]


async def test_nothing_is_judged_by_what_was_heard_before_an_outage(world):
    shard = await started(world, 1)
    world.receipts()
    await look(world, 500)
    world.bus.connected = False
    await look(world, 5_000)
    world.bus.reconnect()
    world.beat(silent=True, **holding(1))
    await look(world, 250)
    assert lost(shard) == []
    await look(world, 5_000)
    assert lost(shard) == []


async def test_what_waits_where_nobody_reads_any_more_is_taken_back(world):
    shard = await started(world, 1, 2)
    world.receipts(delivered=False)
    world.beat(**holding(2))
    world.beat("other", capabilities=["gpu"])
    world.dispatcher.lane_capabilities["default", "l"] = ("default",)
    world.silence("w")
    await look(world, 2_500)
    # It may come back, as long as its lease lasts.
    assert world.bus.js.purged == []
    assert lost(shard) == []
    await look(world, 4_500)
    assert world.bus.js.purged[:1] == ["headrace.task.default.l.0"]
    assert lost(shard) == [(1, 1), (2, 1)]
    count = len(world.bus.js.purged)
    await look(world, 3_000)
    assert len(world.bus.js.purged) == count


# -- lanes ------------------------------------------------------------------------------------


async def test_a_worker_that_lacks_a_lane_is_offered_it(world):
    shard = world.shard()
    shard.send(5, lane(), "l", tasks(1))
    await eventually(lambda: world.bus.js.made)
    await asyncio.sleep(0)
    assert world.orders(LaneOffer) == []
    world.beat()
    await eventually(lambda: len(world.bus.js.made) == 2)
    await asyncio.sleep(0)
    assert [id for id, _ in world.orders(LaneOffer)] == ["w"]
    world.beat(lanes=["l"])
    world.beat("x", capabilities=["gpu"], namespace="other")
    world.beat("y", draining=True)
    await asyncio.sleep(0)
    assert len(world.bus.js.made) == 2


async def test_a_consumer_that_is_gone_is_made_again(world):
    shard = await started(world, 1)
    world.receipts(delivered=False)
    world.beat(lanes=["l"])
    world.bus.js.consumers.clear()
    await look(world, 1_000)
    assert "default-l" in world.bus.js.consumers
    assert lost(shard) == []


async def test_a_lane_that_could_not_be_made_is_tried_again(world):
    world.bus.js.trouble = Unreachable("no answer")
    shard = world.shard()
    world.beat(lanes=["l"])
    shard.send(5, lane(), "l", tasks(1))
    await asyncio.sleep(0.01)
    assert world.bus.js.made == []
    world.bus.js.trouble = None
    await world.dispatcher.look_after()
    await eventually(lambda: world.bus.js.made == ["default-l"])


async def test_a_dead_workers_own_lane_is_removed_however_often_it_takes(world):
    shard = world.shard()
    world.beat()
    pinned = lane("@w")
    assert shard.credit(pinned) == (4, "@w-1")
    shard.send(5, pinned, "@w-1", tasks(1))
    await eventually(lambda: world.bus.js.made)
    world.beat(incarnation="2")
    world.bus.js.trouble = Unreachable("no answer")
    with pytest.raises(Unreachable):
        await world.dispatcher.look_after()
    world.bus.js.trouble = None
    await world.dispatcher.look_after()
    assert world.bus.js.deleted == ["default-w-w-1"]
    assert world.bus.js.purged == ["headrace.task.default.@w-1.*"]
    # Its jobs go on with the new life.
    assert lost(shard) == [(1, 1)]
    assert shard.credit(pinned) == (4, "@w-2")


# -- pinned -----------------------------------------------------------------------------------


async def test_a_pinned_worker_that_never_returns_is_told_once(world):
    shard = world.shard()
    world.pass_ms(4_000)
    assert shard.credit(lane("@w"))[0] == 0
    world.pass_ms(9_500)
    shard.credit(lane("@w"))
    assert shard.gone(0) == []
    world.pass_ms(1_000)
    assert shard.gone(0) == [("w", "worker w did not come back")]
    assert shard.gone(0) == []
    # A new ownership may not have it in its log.
    shard.adopt(10, [])
    assert [worker for worker, _ in shard.gone(0)] == ["w"]


async def test_one_that_returns_is_not_gone(world):
    shard = world.shard()
    world.pass_ms(4_000)
    shard.credit(lane("@w"))
    world.pass_ms(8_000)
    world.beat(incarnation="2")
    world.pass_ms(8_000)
    assert shard.gone(0) == []
    assert shard.credit(lane("@w")) == (4, "@w-2")


async def test_while_we_are_cut_off_nobody_is_gone(world):
    shard = world.shard()
    world.pass_ms(4_000)
    shard.credit(lane("@w"))
    world.bus.connected = False
    world.pass_ms(60_000)
    assert shard.gone(0) == []
    world.bus.reconnect()
    world.pass_ms(5_000)
    assert shard.gone(0) == []
    world.pass_ms(8_000)
    assert [worker for worker, _ in shard.gone(0)] == ["w"]


async def test_a_draining_worker_is_not_missed_while_it_drains(world):
    shard = world.shard()
    world.beat(draining=True)
    for _ in range(4):
        assert shard.credit(lane("@w"))[0] == 0
        world.pass_ms(5_000)
    assert shard.gone(0) == []


# -- orders -----------------------------------------------------------------------------------


def stop(step, attempt=1):
    return Order("default", "", CancelStep("default/r", step, attempt, "because"))


async def test_a_cancel_goes_to_whoever_holds_the_step(world):
    shard = world.shard()
    world.beat("a")
    world.beat("b")
    shard.send(5, lane(), "l", tasks(1, 2))
    world.beat("b", **holding(1))
    world.orders(CancelStep)
    shard.order(stop(1))
    assert [id for id, _ in world.orders(CancelStep)] == ["b"]


async def test_a_cancel_of_a_step_on_its_way_is_repeated_until_it_ended(world):
    shard = world.shard()
    world.beat("a")
    world.beat("b")
    shard.send(5, lane(), "l", tasks(1))
    world.orders(CancelStep)
    shard.order(stop(1))
    assert sorted(id for id, _ in world.orders(CancelStep)) == ["a", "b"]
    world.pass_ms(10_000)
    # Once a second to each, however many heartbeats come.
    assert 16 <= len(world.orders(CancelStep)) <= 20
    world.beat("a", **holding(1))
    assert [id for id, _ in world.orders(CancelStep)] in (["a"], [])
    world.pass_ms(2_000)
    assert {id for id, _ in world.orders(CancelStep)} == {"a"}
    shard.recorded([result(1, status=ResultStatus.CANCELLED)])
    world.pass_ms(3_000)
    assert world.orders(CancelStep) == []


async def test_a_cancel_of_an_earlier_attempt_is_not_repeated(world):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", tasks(1))
    shard.order(stop(1))
    shard.send(5, lane(), "l", tasks(1, attempt=2))
    world.orders(CancelStep)
    world.pass_ms(3_000)
    assert world.orders(CancelStep) == []
