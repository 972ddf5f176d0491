"""What is lost with the task stream, or with a predecessor: only what nobody can start any more."""

from __future__ import annotations

import msgspec
import pytest

from headrace.bus import Disconnected, JetStreamMissing
from headrace.coordinator.core import Holder
from headrace.coordinator.dispatch.rollcall import LEASES_MAX, RollCall
from headrace.errors import Unreachable
from headrace.messages import EpochNotice, Held, TaskBatch, decode, encode
from headrace.worker.core import Assignments
from support.broker import eventually
from support.dispatchkit import (
    LEASE,
    holding,
    lane,
    look,
    lost,
    result,
    started,
    tasks,
)
from support.fakebus import FakeMessage

# -- the stream is lost -----------------------------------------------------------------------


def answer(*steps, epoch=5, round=1, **options):
    """What a worker says that knows a round, and holds these steps."""
    return holding(*steps, epochs={0: epoch}, rounds={0: round} if round else {}, **options)


async def stream_lost(world):
    """The broker comes back without its memory, and we with it."""
    world.bus.connected = False
    world.pass_ms(500)
    world.bus.js.created, world.bus.js.consumers = "t2", {}
    world.bus.reconnect()
    world.orders(EpochNotice)
    await world.lanes.start()


async def test_a_lost_stream_everything_unheld_is_dispatched_again(world):
    shard = await started(world, 1, 2)
    world.receipts(delivered=False)
    await stream_lost(world)
    assert [(id, n.epoch, n.round) for id, n in world.orders(EpochNotice)] == [("w", 5, 1)]
    # First everybody says what it holds: one step began a moment before.
    world.pass_ms(LEASE + 1_000)
    assert lost(shard) == []
    world.beat(**answer(2))
    assert lost(shard) == [(1, 1)]
    await world.dispatcher.look_after()
    await eventually(lambda: "default-l" in world.bus.js.consumers)


async def test_what_the_new_stream_took_before_we_knew_of_it_does_not_run_and_is_lost(world):
    """It waits there for a worker that has told long ago what it holds: the round keeps it away."""
    shard = await started(world)
    world.bus.js.created = "t2"
    shard.send(5, lane(), "l", tasks(1))
    (before,) = world.bus.sent("headrace.task.>")
    world.bus.tell(FakeMessage(before.reply, b'{"stream":"T","seq": 1}'))
    await world.lanes.start()
    shard.send(5, lane(), "l", tasks(2))
    (after,) = world.bus.sent("headrace.task.>")
    worker = Assignments(slots=4, queue_max=8)
    for _, notice in world.orders(EpochNotice):
        worker.note_epoch(notice.shard, notice.epoch, notice.round)
    world.beat(epochs=worker.epochs, rounds=worker.rounds)
    assert lost(shard) == [(1, 1)]
    known = [decode(TaskBatch, message.data) for message in (before, after)]
    assert [worker.note_epoch(b.shard, b.epoch, b.round) for b in known] == [False, True]
    # What was sent under the new round is in no doubt.
    world.beat(**answer())
    assert lost(shard) == []


async def test_a_heartbeat_from_before_a_worker_knew_of_the_loss_says_nothing(world):
    """What it has received meanwhile is not in it, and would be run twice."""
    shard = await started(world, 1)
    await stream_lost(world)
    world.pass_ms(LEASE + 1_000)
    world.orders(EpochNotice)
    world.beat(epochs={0: 5})
    assert lost(shard) == []
    # It is told again, and then it is the answer that counts: it had it after all.
    assert [notice.round for _, notice in world.orders(EpochNotice)] == [1]
    world.beat(**answer(1))
    world.pass_ms(20_000)
    assert lost(shard) == []


async def test_an_answer_that_leaves_something_out_says_nothing(world):
    shard = await started(world, 1)
    await stream_lost(world)
    world.beat(**answer(held_since_ms=500))
    world.pass_ms(LEASE + 1_000)
    assert lost(shard) == []


async def test_a_second_loss_asks_anew(world):
    shard = await started(world, 1)
    await stream_lost(world)
    world.beat(**answer())
    world.bus.js.created = "t3"
    await world.lanes.start()
    world.pass_ms(LEASE + 1_000)
    assert lost(shard) == []
    world.beat(**answer(round=2))
    assert lost(shard) == [(1, 1)]


async def test_who_may_have_come_while_we_were_cut_off_is_waited_for(world):
    """It was offered the lane by another coordinator, and took what we had sent."""
    shard = await started(world, 1)
    await stream_lost(world)
    world.beat(**answer())
    assert lost(shard) == []
    world.beat("x", **answer(1))
    world.pass_ms(LEASE + 1_000)
    assert lost(shard) == []
    assert shard.leases.held["default/r", 1].worker == "x.1"


async def test_a_dead_worker_is_not_waited_for(world):
    shard = await started(world, 1)
    world.beat("dead")
    await stream_lost(world)
    world.silence("dead")
    world.beat(**answer())
    world.pass_ms(2 * LEASE)
    assert lost(shard) == [(1, 1)]


async def test_a_stream_that_vanishes_behind_our_back_is_noticed(world):
    shard = await started(world, 1)
    (message,) = world.bus.sent("headrace.task.>")
    world.bus.js.created, world.bus.js.consumers = "t2", {}
    world.bus.tell(FakeMessage(message.reply, b"", status=503))
    world.beat()
    await world.dispatcher.look_after()
    world.beat(**answer())
    assert lost(shard) == [(1, 1)]


async def test_a_takeovers_purge_makes_a_missing_stream(world):
    shard = world.shard()
    await shard.take_over()
    assert world.bus.js.purged == ["headrace.task.*.*.0"]
    world.bus.js.trouble = Disconnected("no connection")
    with pytest.raises(Unreachable):
        await shard.take_over()
    world.bus.js.trouble = JetStreamMissing("stream not found")
    with pytest.raises(JetStreamMissing):
        await shard.take_over()


# -- inputs that are stored first --------------------------------------------------------------


async def uploading(world):
    """One step is sent, the inputs of another are being stored; return what ends that."""
    stored = []
    world.dispatcher.oversized.store = lambda task, then, _failed, **_: stored.append((task, then))
    world.bus.max_payload_bytes = 2_000
    shard = await started(world, 1)
    shard.send(5, lane(), "l", tasks(2, inputs=msgspec.Raw(encode("x" * 5_000))))
    ((task, then),) = stored
    world.receipts()
    return shard, lambda: then(msgspec.structs.replace(task, inputs=msgspec.Raw(b"\x80")))


async def test_what_is_still_being_stored_is_not_lost_however_long_it_takes(world):
    shard, done = await uploading(world)
    world.beat(**holding(1))
    await look(world, 20_000)
    assert lost(shard) == []
    done()
    (message,) = world.bus.sent("headrace.task.>")
    assert [task.step for task in decode(TaskBatch, message.data).tasks] == [2]
    # It counts from then on, like any other.
    await look(world, 4_000)
    assert lost(shard) == []
    world.bus.tell(FakeMessage(message.reply, b'{"stream":"T","seq": 9}'))
    world.bus.js.consumers["default-l"] = 9
    await look(world, 4_000)
    assert lost(shard) == [(2, 1)]


async def test_what_is_still_being_stored_is_not_lost_with_the_stream(world):
    shard, done = await uploading(world)
    await stream_lost(world)
    world.beat(**answer())
    world.pass_ms(LEASE + 1_000)
    assert lost(shard) == [(1, 1)]
    world.bus.sent("headrace.task.>")
    done()
    (message,) = world.bus.sent("headrace.task.>")
    assert decode(TaskBatch, message.data).round == 1


async def test_what_was_stored_for_an_earlier_ownership_is_not_sent(world):
    shard, done = await uploading(world)
    shard.adopt(6, [("default/r", 2, 1, "")])
    world.bus.sent("headrace.task.>")
    done()
    assert world.bus.sent("headrace.task.>") == []


# -- takeover ---------------------------------------------------------------------------------

ADOPTED = [("default/r", step, 1, "") for step in (1, 2, 3)]


async def test_held_steps_are_left_alone_unheld_ones_lost_when_all_have_told(world):
    world.beat("a")
    world.beat("b")
    world.pass_ms(4_000)
    shard = world.shard(epoch=9, dispatched=ADOPTED)
    assert sorted(id for id, notice in world.orders(EpochNotice) if notice.epoch == 9) == ["a", "b"]
    world.beat("a", **holding(1, epochs={0: 9}))
    assert shard.facts().holders == {("default/r", 1): Holder("a")}
    told = Held("default/r", 1, 1, True, {"done": 3})
    world.beat("a", held={0: [told]}, epochs={0: 9})
    assert shard.facts().holders == {("default/r", 1): Holder("a", {"done": 3})}
    assert lost(shard) == []
    # One that knows the epoch from a task, but leaves out what it took just now.
    world.beat("b", **holding(epochs={0: 9}, held_since_ms=500))
    assert lost(shard) == []
    world.beat("b", **holding(2, epochs={0: 9}))
    assert lost(shard) == [(3, 1)]
    world.pass_ms(10_000)
    assert lost(shard) == []
    assert {step for _, step in shard.leases.held} == {1, 2}


async def test_a_heartbeat_of_the_old_epoch_says_nothing(world):
    world.beat()
    world.pass_ms(4_000)
    shard = world.shard(epoch=9, dispatched=ADOPTED)
    world.orders(EpochNotice)
    world.beat(epochs={0: 8})
    assert lost(shard) == []
    # It is told again.
    assert [notice.epoch for _, notice in world.orders(EpochNotice)] == [9]


async def test_a_live_worker_that_does_not_answer_is_not_waited_for_for_ever(world):
    world.beat("a")
    world.beat("b")
    world.pass_ms(4_000)
    shard = world.shard(epoch=9, dispatched=ADOPTED)
    world.beat("a", **holding(1, epochs={0: 9}))
    # It may yet start what our predecessor sent: a slow machine is no dead worker.
    world.pass_ms(LEASES_MAX * LEASE)
    assert lost(shard) == []
    world.pass_ms(750)
    assert lost(shard) == [(2, 1), (3, 1)]


async def test_an_owner_that_was_deposed_without_noticing_asks_the_log(world):
    """It would wait for ever for a step that a successor took, and gave back with the shard."""
    shard = world.shard(epoch=9)
    asked = []
    shard.on_deposed = lambda: asked.append(world.dispatcher.now_ms())
    world.beat(epochs={0: 9})
    assert asked == []
    world.beat(epochs={0: 10})
    world.beat(epochs={0: 10})
    assert len(asked) == 1
    world.pass_ms(3_000)
    assert len(asked) >= 3


async def test_a_coordinator_that_has_just_begun_waits_a_lease(world):
    shard = world.shard(epoch=9, dispatched=ADOPTED)
    world.pass_ms(2_000)
    assert lost(shard) == []
    world.beat(**holding(1, 2, 3, epochs={0: 9}))
    world.pass_ms(5_000)
    assert lost(shard) == []


async def test_an_outage_during_the_adoption_extends_it(world):
    world.beat("a")
    world.pass_ms(4_000)
    shard = world.shard(epoch=9, dispatched=ADOPTED)
    world.bus.connected = False
    world.pass_ms(10_000)
    world.bus.reconnect()
    world.pass_ms(500)
    assert lost(shard) == []
    world.beat("a", **holding(1, epochs={0: 9}))
    world.pass_ms(3_500)
    assert lost(shard) == [(2, 1), (3, 1)]


async def test_stale_results_do_not_end_the_adoption(world):
    world.beat()
    world.pass_ms(4_000)
    shard = world.shard(epoch=9, dispatched=[("default/r", 1, 2, "")])
    shard.recorded([result(1, attempt=1)])
    world.beat(epochs={0: 9})
    assert lost(shard) == [(1, 2)]


async def test_workers_learn_of_an_owner_that_adopted_nothing(world):
    shard = world.shard(epoch=9)
    world.beat()
    assert [notice.epoch for _, notice in world.orders(EpochNotice)] == [9]
    # An epoch that came with an append's doubt counts from then on.
    shard.send(12, lane(), "l", tasks(1))
    world.beat(epochs={0: 9})
    assert [notice.epoch for _, notice in world.orders(EpochNotice)] == [12]
    world.beat(epochs={0: 12})
    assert world.orders(EpochNotice) == []


# -- the call itself --------------------------------------------------------------------------


def over(call, *workers, everybody=True, heard_ms=1_500):
    return call.is_over(workers, everybody=everybody, heard_ms=heard_ms, lease_ms=LEASE)


def test_a_call_is_over_when_all_have_told():
    call = RollCall()
    call.told("a")
    assert not call.is_open
    call.begin([("r", 1, 2)], "why", 1_000)
    assert call.is_open
    assert not over(call, "a")
    call.told("a")
    assert over(call, "a")
    assert not over(call, "a", "b")
    assert over(call)
    assert list(call.end()) == [("r", 1, 2, "why")]
    assert not call.is_open
    assert list(call.end()) == []


def test_a_call_waits_for_who_may_still_be_heard_of():
    call = RollCall()
    call.begin([("r", 1, 2)], "why", 1_000)
    call.told("a")
    assert not over(call, "a", everybody=False, heard_ms=1_000 + LEASE)
    assert over(call, "a", everybody=False, heard_ms=1_001 + LEASE)


def test_a_call_goes_on_with_more():
    call = RollCall()
    call.begin([("r", 1, 1), ("r", 2, 1)], "first", 1_000)
    call.told("a")
    call.begin([("r", 2, 1), ("r", 3, 1)], "second", 1_100)
    assert not over(call, "a")
    assert sorted(call.end()) == [
        ("r", 1, 1, "first"),
        ("r", 2, 1, "second"),
        ("r", 3, 1, "second"),
    ]
