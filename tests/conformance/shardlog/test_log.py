"""What every shard log promises, on every implementation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from headrace.coordinator.shardlog import Fenced, LogFull, ShardLog
from headrace.errors import Unreachable
from support.shardlogs import EVERY, World

every = pytest.mark.parametrize("world", EVERY, indirect=True)


async def entries(world: World, *, after: int = 0) -> list[tuple[int, bytes]]:
    """Return the log's entries as a new owner folds them."""
    found: list[tuple[int, bytes]] = []
    await world.open().take("reader", lambda *entry: found.append(entry), after=after)
    return found


async def owner(world: World, name: str = "owner", *, bytes_max: int = 0) -> ShardLog:
    log = world.open(bytes_max=bytes_max)
    await log.take(name, lambda *_: None)
    return log


def payload(number: int, size: int = 20) -> bytes:
    return f"batch-{number}-".encode().ljust(size, b".")


@every
async def test_a_taker_folds_everything_acknowledged_in_order(world: World):
    log = await owner(world)
    acknowledged = [(await log.append(payload(n)), payload(n)) for n in range(20)]
    assert [position for position, _ in acknowledged] == sorted({p for p, _ in acknowledged})
    assert acknowledged[0][0] > 0
    assert await entries(world) == acknowledged


@every
async def test_a_taker_folds_only_behind_the_position_that_it_names(world: World):
    log = await owner(world)
    positions = [await log.append(payload(n)) for n in range(10)]
    assert await entries(world, after=positions[5]) == [
        (positions[n], payload(n)) for n in range(6, 10)
    ]
    assert await entries(world, after=positions[-1]) == []


async def test_a_fresh_log_is_empty(world: World):
    assert world.open().epoch == 0
    assert await entries(world) == []
    status = await world.opened[-1].status()
    assert (status.first, status.last, status.entries) == (0, 0, 0)


@every
async def test_epochs_rise(world: World):
    epochs = [(await owner(world, f"owner-{n}")).epoch for n in range(4)]
    assert epochs == sorted(set(epochs))
    assert epochs[0] > 0


@every
async def test_a_deposed_owner_is_refused_and_learns_by_whom(world: World):
    old = await owner(world, "old")
    kept = await old.append(payload(1))
    new = await owner(world, "new")
    with pytest.raises(Fenced) as refused:
        await old.append(payload(2))
    assert (refused.value.shard, refused.value.owner) == (new.shard, "new")
    later = await new.append(payload(3))
    assert await entries(world) == [(kept, payload(1)), (later, payload(3))]


async def test_a_deposed_owner_is_refused_however_much_its_successor_wrote(world: World):
    old = await owner(world, "old")
    new = await owner(world, "new")
    written = [(await new.append(payload(n)), payload(n)) for n in range(5)]
    with pytest.raises(Fenced):
        await old.append(payload(99))
    assert await entries(world) == written


async def test_the_same_process_twice_is_two_owners(world: World):
    first = await owner(world, "same")
    await owner(world, "other")
    third = await owner(world, "same")
    with pytest.raises(Fenced):
        await first.append(payload(1))
    position = await third.append(payload(2))
    assert await entries(world) == [(position, payload(2))]


async def test_a_fenced_owner_may_take_again(world: World):
    log = await owner(world, "a")
    other = await owner(world, "b")
    position = await other.append(payload(1))
    with pytest.raises(Fenced):
        await log.append(payload(2))
    found: list[tuple[int, bytes]] = []
    await log.take("a", lambda *entry: found.append(entry))
    assert found == [(position, payload(1))]
    await log.append(payload(3))
    with pytest.raises(Fenced):
        await other.append(payload(4))


@every
async def test_of_two_takers_at_once_exactly_one_can_append(world: World):
    for round_ in range(5):
        rivals = [world.open(), world.open()]
        await asyncio.gather(
            *(log.take(f"rival-{n}-{round_}", lambda *_: None) for n, log in enumerate(rivals))
        )
        outcomes = await asyncio.gather(
            *(log.append(payload(round_ * 2 + n)) for n, log in enumerate(rivals)),
            return_exceptions=True,
        )
        assert sorted(isinstance(outcome, Fenced) for outcome in outcomes) == [False, True]
    assert len(await entries(world)) == 5


@every
async def test_nothing_is_lost_or_added_when_a_busy_owner_is_deposed(world: World):
    old = await owner(world, "old")
    acknowledged: list[tuple[int, bytes]] = []
    busy = asyncio.Event()

    async def write() -> None:
        for number in range(100_000):
            acknowledged.append((await old.append(payload(number)), payload(number)))
            if number == 20:
                busy.set()
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    await asyncio.wait_for(busy.wait(), 30)
    new = world.open()
    folded: list[tuple[int, bytes]] = []
    await new.take("new", lambda *entry: folded.append(entry))
    with pytest.raises(Fenced):
        await asyncio.wait_for(writer, 30)
    assert folded[: len(acknowledged)] == acknowledged
    assert len(folded) <= len(acknowledged) + 1  # the one in flight
    assert await entries(world) == folded


async def test_a_cancelled_append_is_either_there_or_never(world: World):
    log = await owner(world)
    append = asyncio.create_task(log.append(payload(1)))
    await asyncio.sleep(0)
    append.cancel()
    with suppress(asyncio.CancelledError):
        await append
    found: list[tuple[int, bytes]] = []
    await log.take("owner", lambda *entry: found.append(entry))
    assert [data for _, data in found] in ([], [payload(1)])
    position = await log.append(payload(2))
    assert await entries(world) == [*found, (position, payload(2))]


@every
async def test_a_purge_keeps_the_rest_and_the_ownership(world: World):
    log = await owner(world)
    positions = [await log.append(payload(n)) for n in range(10)]
    await log.purge(upto=positions[6])
    later = await log.append(payload(10))
    expected = [(positions[n], payload(n)) for n in range(7, 10)] + [(later, payload(10))]
    assert await entries(world) == expected


async def test_an_emptied_log_goes_on(world: World):
    log = await owner(world)
    last = [await log.append(payload(n)) for n in range(5)][-1]
    await log.purge(upto=last)
    assert (await log.status()).entries == 0
    later = await log.append(payload(6))
    assert later > last
    successor = await owner(world, "successor")
    with pytest.raises(Fenced):
        await log.append(payload(7))
    await successor.purge(upto=later)
    again = await successor.append(payload(8))
    assert await entries(world) == [(again, payload(8))]


async def test_a_purge_upto_zero_or_beyond_the_end_is_fine(world: World):
    log = await owner(world)
    position = await log.append(payload(1))
    await log.purge(upto=0)
    assert (await log.status()).entries == 1
    await log.purge(upto=position + 1000)
    assert (await log.status()).entries == 0
    assert await log.append(payload(2)) > position


@pytest.mark.parametrize("size", [1, 100, 32 * 1024, 512 * 1024, 900 * 1024])
async def test_payloads_of_every_size_come_back(world: World, size: int):
    log = await owner(world)
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    position = await log.append(data)
    second = await log.append(b"2" + data[1:])
    assert await entries(world) == [(position, data), (second, b"2" + data[1:])]


async def test_many_large_entries_are_read_in_several_goes(world: World):
    log = await owner(world)
    written = [
        (await log.append(payload(n, 700 * 1024)), payload(n, 700 * 1024)) for n in range(12)
    ]
    assert await entries(world) == written


@every
async def test_a_follower_sees_everything_in_order(world: World):
    log = await owner(world, "first")
    written = [(await log.append(payload(n)), payload(n)) for n in range(5)]
    follower = world.open()
    seen: list[tuple[int, bytes]] = []
    arrived = asyncio.Event()

    async def follow() -> None:
        async for some in follower.follow(after=written[1][0]):
            seen.extend(some)
            if seen[-1][1] == payload(19):
                arrived.set()

    task = asyncio.create_task(follow())
    for number in range(5, 20):
        if number == 12:  # a change of owner is nothing to a follower
            log = await owner(world, "second")
        written.append((await log.append(payload(number)), payload(number)))
    await asyncio.wait_for(arrived.wait(), 30)
    assert seen == written[2:]
    await follower.close()
    await asyncio.wait_for(task, 30)


async def test_a_follower_that_fell_behind_a_purge_goes_on_with_what_is_left(world: World):
    log = await owner(world)
    positions = [await log.append(payload(n)) for n in range(6)]
    await log.purge(upto=positions[3])
    follower = world.open()
    stream = follower.follow(after=positions[0])
    async with asyncio.timeout(30):
        assert list(await anext(stream)) == [
            (positions[4], payload(4)),
            (positions[5], payload(5)),
        ]


async def test_a_full_log_refuses_definitely_and_keeps_its_owner(world: World):
    limit, size = 1_000_000, 20_000
    log = await owner(world, bytes_max=limit)
    written: list[tuple[int, bytes]] = []

    async def fill() -> None:
        for number in range(limit // size + 1):
            written.append((await log.append(payload(number, size)), payload(number, size)))

    with pytest.raises(LogFull):
        await fill()
    assert len(written) > 10
    with pytest.raises(LogFull):
        await log.append(payload(1000, size))
    assert (await log.status()).entries == len(written)


async def test_a_log_that_is_full_to_the_brim_can_be_taken_over_and_emptied(world: World):
    limit = 300_000
    log = await owner(world, bytes_max=limit)
    written: list[tuple[int, bytes]] = []

    async def fill(size: int) -> None:
        for number in range(limit):
            data = payload(number, size)
            written.append((await log.append(data), data))

    for size in (20_000, 1_000, 100):
        with pytest.raises(LogFull):
            await fill(size)
    taken: list[tuple[int, bytes]] = []
    for number in range(10):
        taken.clear()
        successor = world.open(bytes_max=limit)
        await successor.take(f"successor-{number}", lambda *entry: taken.append(entry))
        assert taken == written
    await successor.purge(upto=written[9][0])
    later = await successor.append(payload(1001, 20_000))
    assert await entries(world) == [*written[10:], (later, payload(1001, 20_000))]


async def test_the_status_tells_the_figures(world: World):
    log = await owner(world)
    positions = [await log.append(payload(n, 1000)) for n in range(4)]
    await log.purge(upto=positions[0])
    status = await log.status()
    assert (status.first, status.last, status.entries) == (positions[1], positions[3], 3)
    assert status.bytes >= 3000
    assert status.level == ("memory" if world.kind == "memory" else "journal")


async def test_append_now_stores_or_does_nothing(world: World):
    log = await owner(world)
    position = log.append_now(payload(1))
    assert await entries(world) == ([(position, payload(1))] if position else [])


async def test_without_an_ownership_there_is_no_append(world: World):
    log = world.open()
    with pytest.raises(AssertionError, match="take"):
        await log.append(payload(1))
    log = await owner(world)
    await log.close()
    with pytest.raises((AssertionError, Unreachable)):
        await log.append(payload(2))


@every
async def test_a_deposed_owner_hears_it_without_appending(world: World):
    log = world.open()
    await log.take("old", lambda *_: None)
    await log.append(b"one")
    await log.confirm()
    await world.open().take("new", lambda *_: None)
    with pytest.raises(Fenced) as refused:
        await log.confirm()
    assert refused.value.owner == "new"
