"""The event feed: entries in order, whoever publishes them; what is read together goes together."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from headrace.bus import PubAck, Stored
from headrace.coordinator.runtime import feed as feed_module
from headrace.coordinator.runtime.feed import FeedMessage, feed
from headrace.coordinator.shardlog import MemoryLog, MemoryLogStore
from headrace.errors import LimitExceeded, Unreachable
from headrace.events import BATCH_VERSION, Batch, encode_batch
from headrace.messages import decode
from support.broker import eventually


class Stream:
    """The feed's stream: drops a message whose id it has."""

    def __init__(self, bytes_max=10**6):
        self.bytes_max = bytes_max
        self.ids, self.messages, self.faults = set(), [], []

    @property
    def js(self):
        return self

    async def publish(self, subject, payload, *, headers, timeout_s):
        if len(payload) > self.bytes_max:
            raise LimitExceeded("too large")
        duplicate = headers["Nats-Msg-Id"] in self.ids
        if not duplicate:
            self.ids.add(headers["Nats-Msg-Id"])
            self.messages.append(payload)
        if self.faults:
            raise self.faults.pop(0)
        return PubAck("feed", len(self.messages), duplicate)

    async def get_last(self, stream, subject):
        last = len(self.messages)
        return Stored(last, subject, self.messages[-1]) if last else None

    def told(self):
        return [entry for data in self.messages for entry in decode(FeedMessage, data).entries()]


def entry(number, *, age_ms=0, size=0):
    now_ms = time.time_ns() // 1_000_000 - age_ms
    return encode_batch(
        Batch(
            BATCH_VERSION, f"b{number}" + "x" * size, number, 0, b"", 1, now_ms, False, [], [], []
        )
    )


@pytest.fixture
def log():
    return MemoryLog(0, MemoryLogStore())


async def fill(log, *entries):
    await log.take("o", lambda *_: None)
    return [(log.append_now(data), data) for data in entries]


@asynccontextmanager
async def feeding(stream, log):
    task = asyncio.create_task(feed(stream, log))
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_is_read_together_is_one_message(log):
    stream = Stream()
    written = await fill(log, *map(entry, range(5)))
    async with feeding(stream, log):
        await eventually(lambda: stream.told() == written)
        assert len(stream.messages) == 1
        later = (log.append_now(entry(5)), entry(5))
        await eventually(lambda: len(stream.messages) == 2)
    assert stream.told()[-1][0] == later[0]


async def test_messages_are_bounded(log, monkeypatch):
    monkeypatch.setattr(feed_module, "MESSAGE_BYTES_MAX", 500)
    stream = Stream()
    written = await fill(log, *(entry(n, size=200) for n in range(5)))
    async with feeding(stream, log):
        await eventually(lambda: stream.told() == written)
    assert len(stream.messages) == 3


async def test_what_is_too_large_for_the_broker_goes_alone_or_not_at_all(log):
    stream = Stream(bytes_max=600)
    written = await fill(log, entry(0, size=300), entry(1, size=900), entry(2, size=300))
    async with feeding(stream, log):
        await eventually(lambda: len(stream.messages) == 2)
    assert stream.told() == [written[0], written[2]]


async def test_nothing_is_doubled_when_an_answer_is_lost(log, monkeypatch):
    monkeypatch.setattr(feed_module, "RETRY_S", 0.001)
    stream = Stream()
    stream.faults.append(Unreachable("no answer"))
    written = await fill(log, *map(entry, range(3)))
    async with feeding(stream, log):
        await eventually(lambda: stream.messages and not stream.faults)
        written.append((log.append_now(data := entry(3)), data))
        await eventually(lambda: len(stream.told()) >= 4)
    assert stream.told() == written


async def test_two_publishers_double_and_skip_nothing(log):
    stream = Stream()
    written = await fill(log, *map(entry, range(3)))
    async with feeding(stream, log), feeding(stream, log):
        for number in range(3, 40):
            written.append((log.append_now(data := entry(number)), data))
            if number % 3:
                await asyncio.sleep(0)
        await eventually(lambda: len(stream.told()) >= len(written))
    assert stream.told() == written


async def test_what_has_left_the_feed_is_not_told_again(log):
    stream = Stream()
    hour_ms = 2 * feed_module.AGE_MS_MAX
    old = [entry(n, age_ms=hour_ms) for n in range(3)]
    written = await fill(log, *old, entry(3), entry(4))
    async with feeding(stream, log):
        await eventually(lambda: stream.told() == written[3:])


async def test_an_id_that_is_known_though_the_message_has_gone_stops_nothing(log):
    stream = Stream()
    written = await fill(log, entry(0))
    stream.ids.add(f"0.{written[0][0]}")
    async with feeding(stream, log):
        await asyncio.sleep(0.02)
        written.append((log.append_now(data := entry(1)), data))
        await eventually(lambda: stream.told() == written[1:])
