"""JetStream logs on a wire that loses, holds back and misleads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from headrace.bus import BrokerProcess, WrongLastSequence, connect
from headrace.coordinator.shardlog import Fenced
from headrace.coordinator.shardlog.jetstream import JetStreamLog
from support.broker import eventually
from support.shardlogs import JetStreamWorld

pytestmark = pytest.mark.integration


async def entries(world: JetStreamWorld) -> list[bytes]:
    found: list[bytes] = []
    await world.open().take("reader", lambda _, data: found.append(data))
    return found


@pytest.mark.parametrize("fault", ["lost-request", "lost-ack", "late-request"])
async def test_an_unknown_outcome_is_resolved_to_exactly_once(
    wire_world: JetStreamWorld, fault: str
):
    log, wire = wire_world.open_faulty()
    await log.take("owner", lambda *_: None)
    await log.append(b"before")
    wire.fault = fault
    position = await log.append(b"in doubt")
    after = await log.append(b"after")
    assert position < after
    assert all(isinstance(outcome, WrongLastSequence) for outcome in await wire.deliver_late())
    found: list[tuple[int, bytes]] = []
    await wire_world.open().take("reader", lambda *entry: found.append(entry))
    assert [data for _, data in found] == [b"before", b"in doubt", b"after"]
    assert found[1][0] == position


async def test_a_request_that_comes_twice_is_stored_once(wire_world: JetStreamWorld):
    log, wire = wire_world.open_faulty()
    await log.take("owner", lambda *_: None)
    wire.fault = "twice"
    await log.append(b"one")
    assert [type(outcome) for outcome in wire.outcomes] == [WrongLastSequence]
    await log.append(b"two")
    assert await entries(wire_world) == [b"one", b"two"]


@pytest.mark.parametrize("fault", ["lost-request", "lost-ack", "late-request"])
async def test_deposed_while_in_doubt_an_owner_is_fenced(wire_world: JetStreamWorld, fault: str):
    log, wire = wire_world.open_faulty()
    await log.take("old", lambda *_: None)
    await log.append(b"before")
    successor = wire_world.open()
    folded: list[bytes] = []

    async def take_over() -> None:
        await successor.take("new", lambda _, data: folded.append(data))
        await successor.append(b"of the new owner")

    wire.fault, wire.meanwhile = fault, take_over
    with pytest.raises(Fenced) as refused:
        await log.append(b"in doubt")
    assert refused.value.owner == "new"
    await wire.deliver_late()
    stored = [b"before", b"in doubt"] if fault == "lost-ack" else [b"before"]
    assert folded == stored
    assert await entries(wire_world) == [*stored, b"of the new owner"]
    with pytest.raises(AssertionError):
        await log.append(b"more")


async def test_a_deposed_owner_that_is_right_about_the_position_is_refused(
    wire_world: JetStreamWorld,
):
    log, wire = wire_world.open_faulty()
    await log.take("old", lambda *_: None)
    await log.append(b"before")
    successor = wire_world.open()

    async def take_over() -> None:
        await successor.take("new", lambda *_: None)

    wire.fault, wire.meanwhile = "right-position", take_over
    with pytest.raises(Fenced):
        await log.append(b"at the right position")
    await successor.append(b"of the new owner")
    assert await entries(wire_world) == [b"before", b"of the new owner"]


@pytest.mark.parametrize("fault", ["lost-request", "lost-ack", "late-request"])
async def test_a_takeover_survives_an_unknown_outcome_of_its_own(
    wire_world: JetStreamWorld, fault: str
):
    first = wire_world.open()
    await first.take("first", lambda *_: None)
    await first.append(b"one")
    log, wire = wire_world.open_faulty()
    found: list[bytes] = []
    wire.fault = fault
    await log.take("second", lambda _, data: found.append(data))
    assert found == [b"one"]
    await log.append(b"two")
    assert all(isinstance(outcome, WrongLastSequence) for outcome in await wire.deliver_late())
    await log.append(b"three")
    assert await entries(wire_world) == [b"one", b"two", b"three"]


async def test_in_doubt_again_while_resolving(wire_world: JetStreamWorld):
    log, wire = wire_world.open_faulty()
    await log.take("owner", lambda *_: None)

    async def fail_the_epoch_too() -> None:
        wire.fault = "lost-ack"

    wire.fault, wire.meanwhile = "lost-request", fail_the_epoch_too
    await log.append(b"one")
    await log.append(b"two")
    assert await entries(wire_world) == [b"one", b"two"]


async def kill(broker: BrokerProcess) -> None:
    await broker.kill()
    await broker.start()


async def freeze(broker: BrokerProcess) -> None:
    broker.pause()
    await asyncio.sleep(0.3)  # longer than an append may take
    broker.resume()


@pytest.mark.parametrize("harm", [kill, freeze])
async def test_appends_go_on_exactly_once_through_harm_to_the_broker(
    broker: BrokerProcess, harm: Callable[[BrokerProcess], Awaitable[None]]
):
    async with await connect(broker.url, name="owner") as bus:
        log = JetStreamLog(bus, 1, append_timeout_s=0.1)
        await log.take("owner", lambda *_: None)
        acknowledged: list[tuple[int, bytes]] = []
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                data = b"batch %d" % len(acknowledged)
                acknowledged.append((await log.append(data), data))

        writer = asyncio.create_task(write())
        for _ in range(3):
            before = len(acknowledged)
            await eventually(lambda before=before: len(acknowledged) > before + 20, within_s=10)
            await harm(broker)
        stop.set()
        await asyncio.wait_for(writer, 30)
        found: list[tuple[int, bytes]] = []
        reader = JetStreamLog(bus, 1)
        await reader.take("reader", lambda *entry: found.append(entry))
        assert found == acknowledged
