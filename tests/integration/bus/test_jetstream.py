"""Streams, pulls and objects on a real broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from headrace.bus import (
    BrokerProcess,
    Bus,
    ConsumerConfig,
    CorruptObject,
    JetStreamMissing,
    Message,
    ObjectBucket,
    Pull,
    StorageFull,
    StreamConfig,
    WrongLastSequence,
    connect,
)
from headrace.errors import NotFound, Unreachable
from support.broker import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
async def stream(bus: Bus) -> AsyncIterator[str]:
    await bus.js.ensure_stream(StreamConfig(name="T", subjects=("t.js.>",)))
    yield "T"
    await bus.js.delete_stream("T")


async def fill(bus: Bus, count: int, subject: str = "t.js.a") -> list[int]:
    return [(await bus.js.publish(subject, str(n).encode(), timeout_s=2)).seq for n in range(count)]


async def test_a_stream_is_made_and_changed_to_order(bus: Bus, stream: str):
    again = await bus.js.ensure_stream(StreamConfig(name=stream, subjects=("t.js.>",)))
    changed = await bus.js.ensure_stream(
        StreamConfig(name=stream, subjects=("t.js.>",), max_bytes=1000, max_age_ms=60_000)
    )
    assert changed.created == again.created
    assert changed.max_bytes == 1000
    assert changed.config["max_age"] == 60_000_000_000
    assert await bus.js.delete_stream(stream)
    assert not await bus.js.delete_stream(stream)
    with pytest.raises(JetStreamMissing):
        await bus.js.stream_info(stream)


async def test_compare_and_set(bus: Bus, stream: str):
    expect = {"Nats-Expected-Last-Subject-Sequence": "0"}
    ack = await bus.js.publish("t.js.cas", b"", timeout_s=2, headers=expect)
    with pytest.raises(WrongLastSequence):
        await bus.js.publish("t.js.cas", b"", timeout_s=2, headers=expect)
    expect = {"Nats-Expected-Last-Sequence": str(ack.seq)}
    assert (await bus.js.publish("t.js.cas", b"", timeout_s=2, headers=expect)).seq == ack.seq + 1


async def test_a_full_stream_says_so(bus: Bus, stream: str):
    await bus.js.ensure_stream(
        StreamConfig(name=stream, subjects=("t.js.>",), discard="new", max_msgs=2)
    )
    await fill(bus, 2)
    with pytest.raises(StorageFull):
        await fill(bus, 1)


async def test_reads(bus: Bus, stream: str):
    await fill(bus, 5)
    await fill(bus, 2, "t.js.b")
    got, more = await bus.js.read(stream, 2, count=3)
    assert ([stored.seq for stored in got], more) == ([2, 3, 4], True)
    assert (got[0].subject, got[0].data) == ("t.js.a", b"1")
    got, more = await bus.js.read(stream, 1, subject="t.js.b")
    assert ([stored.seq for stored in got], more) == ([6, 7], False)
    assert await bus.js.read(stream, 8) == ([], False)
    with pytest.raises(Unreachable):
        await bus.js.read("ABSENT", 1)
    last = await bus.js.get_last(stream, "t.js.a")
    assert last is not None
    assert (last.seq, last.data) == (5, b"4")
    assert await bus.js.get_last(stream, "t.js.c") is None
    assert await bus.js.get_msg(stream, 99) is None
    with pytest.raises(JetStreamMissing):
        await bus.js.get_last("ABSENT", "t.js.a")
    info = await bus.js.stream_info(stream, subjects="t.js.>")
    assert info.state.subjects == {"t.js.a": 5, "t.js.b": 2}


async def test_a_read_of_more_than_fits_in_one_answer(bus: Bus, stream: str):
    data = os.urandom(200_000)
    for _ in range(6):
        await bus.js.publish("t.js.big", data, timeout_s=2)
    got, more = await bus.js.read(stream, 1, bytes_max=500_000)
    assert more
    assert 0 < len(got) < 6
    rest, more = await bus.js.read(stream, got[-1].seq + 1)
    assert not more
    assert [stored.data for stored in got + rest] == [data] * 6


async def test_purges(bus: Bus, stream: str):
    await fill(bus, 5)
    await fill(bus, 3, "t.js.b")
    assert await bus.js.purge(stream, subject="t.js.a", upto=3) == 3
    assert await bus.js.purge(stream, subject="t.js.b", keep=1) == 2
    got, _ = await bus.js.read(stream, 1)
    assert [stored.seq for stored in got] == [4, 5, 8]
    with pytest.raises(AssertionError):
        await bus.js.purge(stream, subject="")


class Taker:
    """A pull that acknowledges and writes down what comes."""

    def __init__(self, bus: Bus, stream: str, **options: float) -> None:
        self.got: list[bytes] = []
        self.acks = True
        self.pull = Pull(bus, stream, "c", self.take, **options)  # type: ignore[arg-type]

    def take(self, message: Message) -> None:
        self.got.append(message.data)
        if self.acks:
            self.pull.ack(message)


async def test_a_pull_takes_everything_and_refills(bus: Bus, stream: str):
    await bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="c"))
    taker = Taker(bus, stream, demand=10)
    taker.pull.start()
    await fill(bus, 100)
    await eventually(lambda: len(taker.got) == 100)
    assert taker.got == [str(n).encode() for n in range(100)]
    assert taker.pull.healthy()
    taker.pull.close()
    taker.pull.close()
    await bus.flush()
    info = await bus.js.consumer_info(stream, "c")
    assert (info.num_pending, info.num_ack_pending) == (0, 0)


async def test_an_expired_pull_is_asked_for_again(bus: Bus, stream: str):
    await bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="c"))
    taker = Taker(bus, stream, demand=4, expires_s=0.2, heartbeat_s=0.1)
    taker.pull.start()
    await eventually(lambda: taker.pull.last_success_s)
    first_s = taker.pull.last_success_s
    await eventually(lambda: taker.pull.last_success_s > first_s + 0.5)
    await fill(bus, 9)
    await eventually(lambda: len(taker.got) == 9)
    taker.pull.close()


async def test_demand_bounds_what_comes_and_zero_stops_it(bus: Bus, stream: str):
    await bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="c", ack_wait_ms=60_000))
    taker = Taker(bus, stream, demand=2)
    taker.pull.start()
    taker.pull.demand = 0
    await fill(bus, 5)
    await bus.flush()
    assert taker.got == []
    taker.pull.demand = 3
    await eventually(lambda: len(taker.got) == 5)
    taker.pull.close()


async def test_a_pause_asks_for_no_more_and_loses_nothing(bus: Bus, stream: str):
    await bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="c", ack_wait_ms=60_000))
    taker = Taker(bus, stream, demand=2)
    taker.pull.start()
    await bus.flush()
    taker.pull.pause()
    # Two were asked for before the pause: they come, and no more.
    await fill(bus, 5)
    await eventually(lambda: len(taker.got) == 2)
    await bus.flush()
    assert taker.got == [b"0", b"1"]
    # Nothing is asked for, so nothing is missing: the pull is as well as the connection.
    assert taker.pull.healthy(within_s=1e-9)
    taker.pull.demand = 3
    await eventually(lambda: len(taker.got) == 5)
    assert not taker.pull.healthy(within_s=1e-9)
    taker.pull.close()


async def test_what_is_on_its_way_when_a_pull_leaves_still_comes(
    bus: Bus, stream: str, shared_broker: BrokerProcess
):
    """The broker takes it for delivered: nobody else gets it before the ack-wait is over."""
    await bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="c", ack_wait_ms=60_000))
    taker = Taker(bus, stream, demand=10)
    taker.pull.start()
    await bus.flush()
    # Nothing is read meanwhile, as by a process that does not get to run.
    transport = bus._client._transport._io_writer.transport  # type: ignore[union-attr]
    transport.pause_reading()
    async with await connect(shared_broker.url, name="other") as other:
        await fill(other, 3)
        while (await other.js.consumer_info(stream, "c")).num_ack_pending < 3:
            await asyncio.sleep(0.01)
        leaving = asyncio.create_task(taker.pull.leave())
        await asyncio.sleep(0)
        transport.resume_reading()
        async with asyncio.timeout(30):
            await leaving
        assert taker.got == [b"0", b"1", b"2"]
        await fill(other, 3)
        await bus.flush()
        info = await other.js.consumer_info(stream, "c")
        assert (info.num_pending, info.num_ack_pending, info.num_waiting) == (3, 0, 0)
        assert len(taker.got) == 3


async def test_a_consumer_made_late_or_again_is_found(bus: Bus, stream: str):
    taker = Taker(bus, stream, demand=4, expires_s=1.0, heartbeat_s=0.2)
    taker.pull.start()
    await eventually(lambda: taker.pull.trouble)
    assert not taker.pull.healthy()
    for round_ in (1, 2):
        await bus.js.ensure_consumer(stream, ConsumerConfig(durable_name="c", deliver_policy="new"))
        await fill(bus, 3)
        await eventually(lambda wanted=3 * round_: len(taker.got) == wanted)
        assert taker.pull.healthy()
        assert await bus.js.delete_consumer(stream, "c")
        assert not await bus.js.delete_consumer(stream, "c")
        await eventually(lambda: taker.pull.trouble)
    taker.pull.close()


async def test_a_pull_goes_on_after_a_restart_of_the_broker(broker: BrokerProcess):
    async with await connect(broker.url, name="test") as bus:
        await bus.js.ensure_stream(StreamConfig(name="T", subjects=("t.js.>",)))
        await bus.js.ensure_consumer("T", ConsumerConfig(durable_name="c", ack_wait_ms=300))
        taker = Taker(bus, "T")
        taker.pull.start()
        await fill(bus, 3)
        await eventually(lambda: len(taker.got) == 3)
        await bus.flush()
        await broker.kill()
        await eventually(lambda: not bus.connected)
        await broker.start()
        await eventually(lambda: bus.connected)
        # What was acknowledged just before the kill may come again.
        await bus.js.publish("t.js.a", b"after", timeout_s=2)
        await eventually(lambda: b"after" in taker.got, within_s=2)
        taker.pull.close()


@pytest.fixture
async def bucket(bus: Bus) -> AsyncIterator[ObjectBucket]:
    made = ObjectBucket(bus, "t-objects")
    await made.ensure()
    yield made
    await bus.js.delete_stream("OBJ_t-objects")


async def test_objects(bus: Bus, bucket: ObjectBucket):
    large = os.urandom(3_000_000)
    await bucket.put("a/large", large)
    await bucket.put("empty", b"")
    assert await bucket.get("a/large") == large
    assert await bucket.get("empty") == b""
    assert await bucket.names() == ["a/large", "empty"]
    await bucket.put("a/large", b"small now")
    assert await bucket.get("a/large") == b"small now"
    info = await bus.js.stream_info("OBJ_t-objects")
    assert info.state.bytes < 10_000  # the old chunks are gone
    assert await bucket.delete("a/large")
    assert not await bucket.delete("a/large")
    with pytest.raises(NotFound):
        await bucket.get("a/large")
    assert await bucket.names() == ["empty"]


async def test_a_walk_through_a_bucket_meets_every_object_once(bus: Bus, bucket: ObjectBucket):
    for number in range(7):
        await bucket.put(f"run/{number}", bytes(200_000))
    seen, after = [], 0
    while True:
        entries, after = await bucket.entries(after, count=3)
        assert len(entries) <= 3
        seen += entries
        if not after:
            break
    assert [entry.name for entry in seen] == [f"run/{number}" for number in range(7)]
    assert {entry.size for entry in seen} == {200_000}
    now_ms = (await bus.js.stream_info("OBJ_t-objects")).time_ms
    assert all(0 <= now_ms - entry.time_ms < 60_000 for entry in seen)
    # What is dropped is gone with its bytes, once; and twice is nothing.
    assert await bucket.drop(seen[0])
    assert not await bucket.drop(seen[0])
    assert await bus.js.purge("OBJ_t-objects", subject=f"$O.t-objects.C.{seen[0].nuid}") == 0
    assert (await bucket.entries(0, count=10))[0] == seen[1:]
    # What others keep there is no object, and is walked over.
    await bus.js.publish("$O.t-objects.M.other", b"not json", timeout_s=2)
    assert await bucket.entries(0, count=10) == (seen[1:], 0)


async def test_what_was_touched_or_put_again_is_not_dropped(bus: Bus, bucket: ObjectBucket):
    await bucket.put("x", b"one")
    await bucket.put("y", b"two")
    (old_x, old_y), _ = await bucket.entries(0, count=10)
    assert not await bucket.touch("x", size=4)
    assert not await bucket.touch("z", size=3)
    assert await bucket.touch("x", size=3)
    await bucket.put("y", b"three")
    assert not await bucket.drop(old_x)
    assert not await bucket.drop(old_y)
    assert (await bucket.get("x"), await bucket.get("y")) == (b"one", b"three")
    (x, y), _ = await bucket.entries(0, count=10)
    assert (x.seq > old_x.seq, y.seq > old_y.seq) == (True, True)
    assert await bucket.drop(x)
    assert not await bucket.touch("x", size=3), "a touch brings nothing back"


async def test_a_damaged_object_is_not_returned(bus: Bus, bucket: ObjectBucket):
    info = await bucket.put("x", b"0123456789")
    chunk = await bus.js.get_last("OBJ_t-objects", f"$O.t-objects.C.{info.nuid}")
    assert chunk is not None
    await bus.js.purge("OBJ_t-objects", subject=chunk.subject)
    await bus.js.publish(chunk.subject, b"0123456780", timeout_s=2)
    with pytest.raises(CorruptObject, match="digest"):
        await bucket.get("x")
    await bus.js.purge("OBJ_t-objects", subject=chunk.subject)
    short = ObjectBucket(bus, "t-objects", timeout_s=0.1)
    with pytest.raises(CorruptObject, match="0 of 1"):
        await short.get("x")


async def test_a_failed_put_leaves_what_was_there(bus: Bus, bucket: ObjectBucket):
    await bucket.put("x", b"first")
    await bus.js.ensure_stream(
        StreamConfig(
            name="OBJ_t-objects",
            subjects=("$O.t-objects.C.>", "$O.t-objects.M.>"),
            discard="new",
            max_bytes=500_000,
            allow_rollup_hdrs=True,
        )
    )
    with pytest.raises(StorageFull):
        await bucket.put("x", os.urandom(2_000_000))
    assert await bucket.get("x") == b"first"
    await asyncio.sleep(0)
    info = await bus.js.stream_info("OBJ_t-objects")
    assert info.state.bytes < 10_000
