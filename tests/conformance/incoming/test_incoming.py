"""What the reader of events from outside counts on: on the broker, and in the tests' fake."""

from __future__ import annotations

import pytest

from headrace.bus import StorageFull, connect
from headrace.coordinator.runtime.arrivals import IncomingStream
from headrace.errors import HeadraceError
from headrace.messages import subjects
from support.broker import eventually
from support.incoming import FakeIncoming

DAY_MS = 86_400_000
BYTES = 64 * 1024


class OnBroker:
    def __init__(self, bus):
        self.bus = bus
        self.stream = IncomingStream(bus, replicas=1, bytes_max=BYTES, age_ms=DAY_MS)

    async def publish(self, subject, data, headers=None):
        place = subjects.incoming("default", subject)
        return (await self.bus.js.publish(place, data, timeout_s=5, headers=headers)).seq

    async def delete(self):
        await self.bus.js.delete_stream(subjects.INCOMING_STREAM)


class Faked:
    def __init__(self):
        self.stream = FakeIncoming(bytes_max=BYTES)

    async def publish(self, subject, data, headers=None):
        return self.stream.publish(subject, data, headers)

    async def delete(self):
        self.stream.delete()


@pytest.fixture(params=["fake", pytest.param("broker", marks=pytest.mark.integration)])
async def place(request):
    if request.param == "fake":
        yield Faked()
        return
    broker = request.getfixturevalue("shared_broker")
    async with await connect(broker.url, name="incoming") as bus:
        made = OnBroker(bus)
        yield made
        await made.delete()


async def test_events_come_in_order_behind_a_number(place):
    made, first = await place.stream.open()
    assert made
    assert first <= 1
    numbers = [await place.publish(f"a.b{n}", b"%d" % n) for n in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    found = await place.stream.read(2)
    assert [(e.sequence, e.namespace, e.subject, e.data) for e in found] == [
        (n + 1, "default", f"a.b{n}", b"%d" % n) for n in (2, 3, 4)
    ]
    assert await place.stream.read(5) == []
    assert all(event.time for event in found)


async def test_headers_are_the_publishers_and_one_is_the_id(place):
    await place.stream.open()
    await place.publish("a", b"", {"Team": "x", "Nats-Msg-Id": "m1"})
    await place.publish("a", b"", {"ce-id": "c1", "Nats-Msg-Id": "m2"})
    await place.publish("a", b"")
    found = await place.stream.read(0)
    assert [event.id for event in found] == ["m1", "c1", ""]
    assert [event.headers for event in found] == [{"Team": "x"}, {"ce-id": "c1"}, {}]


async def test_who_listens_hears_of_it(place):
    heard = []
    listening = place.stream.listen(lambda: heard.append(1))
    await place.stream.open()
    await place.publish("a", b"")
    await eventually(lambda: heard)
    listening.close()


async def test_a_deleted_stream_is_said_and_the_next_one_is_another(place):
    before, _ = await place.stream.open()
    await place.publish("a", b"")
    await place.delete()
    with pytest.raises(HeadraceError):
        await place.stream.read(0)
    after, _ = await place.stream.open()
    assert after != before
    assert await place.publish("a", b"") == 1


async def test_a_full_stream_drops_what_was_read_and_nothing_else(place):
    await place.stream.open()
    for _ in range(5):
        await place.publish("a", b"x" * 8_000)
    await place.stream.shrink(3)
    assert [event.sequence for event in await place.stream.read(0)] == [4, 5]
    assert (await place.stream.open())[1] == 4


@pytest.mark.integration
async def test_full_of_unread_events_it_refuses(shared_broker):
    async with await connect(shared_broker.url, name="incoming") as bus:
        place = OnBroker(bus)
        await place.stream.open()
        for _ in range(7):
            await place.publish("a", b"x" * 8_000)
        with pytest.raises(StorageFull):
            await place.publish("a", b"x" * 16_000)
        assert (await place.stream.read(0))[0].sequence == 1
        await place.delete()
