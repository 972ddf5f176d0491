"""The owner of a log that grows: what it does without room, and its snapshots."""

from __future__ import annotations

import asyncio

import pytest

from headrace.coordinator.core import Loss, state_hash
from headrace.coordinator.runtime import room
from headrace.coordinator.runtime.room import Room
from headrace.coordinator.shardlog import LogFull
from headrace.coordinator.shardlog.log import LogStatus
from headrace.messages import (
    GetHistory,
    GetRun,
    ListRuns,
)
from support.broker import eventually
from support.ownerkit import (
    ask,
    cancel,
    get,
    report,
    store,
    submission,
    submit,
    view,
)
from support.plans import plan, task

ONE = plan(task("a"))


# -- a full log -------------------------------------------------------------------------------


def status(used, most=1_000):
    return LogStatus(
        level="journal", first=1, last=9, entries=9, bytes=used, bytes_max=most, synced=True
    )


def test_room_by_its_figures():
    found = Room()
    assert found.to_measure(0)
    found.measured(status(700), 5)
    assert (found.nearly_full, found.full, found.to_measure(10_000)) == (False, False, False)
    found.appended(101 - room.ENTRY_OVERHEAD_BYTES)
    assert (found.nearly_full, found.full) == (True, False)
    assert found.to_measure(2_000)
    assert found.to_snapshot(10_000)
    assert not found.to_snapshot(10_000 + room.SNAPSHOT_MS - 1)
    assert found.to_snapshot(10_000 + room.SNAPSHOT_MS)
    found.measured(status(950), 20_000)
    assert found.full
    found.measured(status(100), 30_000)
    assert not found.nearly_full


def test_room_without_a_known_limit():
    found = Room()
    found.measured(status(10**12, 0), 5)
    assert not found.nearly_full
    found.refused()
    assert (found.nearly_full, found.full) == (True, True)
    found.appended(1)
    assert not found.nearly_full


async def fill(kit, owner, digest, share):
    """Submit until the log is as full as that."""
    for number in range(2_000):
        if kit.store.bytes > kit.store.bytes_max * share:
            return
        await ask(owner, submission(owner, digest, f"f{number}")).reply()
    raise AssertionError("it does not fill")


@pytest.fixture
def small(kit, monkeypatch):
    """A log of 100 KB; figures of plain bytes."""
    monkeypatch.setattr(room, "ENTRY_OVERHEAD_BYTES", 0)
    monkeypatch.setattr(room, "SNAPSHOT_MS", 100)
    kit.store.bytes_max = 100_000
    kit.every_touches = 1_000_000
    return kit


async def test_submits_are_refused_early_and_everything_else_goes_on(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await eventually(lambda: owner._room.bytes_max, within_s=2)
        # No snapshot makes room for now.
        owner._keeper.room._snapshot_ms = owner._clock.now_ms() + 3_600_000
        await fill(small, owner, digest, 0.8)
        refused = await ask(owner, submission(owner, digest, "one-too-many")).reply()
        assert (refused.code, refused.retry_after_ms > 0) == ("unavailable", True)
        assert (await get(owner, "f0")).state == "RUNNING"
        assert (await report(owner, small.dispatch.sent[0]).reply()).refused == []


async def test_a_log_that_gets_full_is_made_smaller_and_goes_on(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await eventually(lambda: owner._room.bytes_max, within_s=2)
        await fill(small, owner, digest, 0.8)
        # Two snapshots later there is room: they are taken because of the log's size alone.
        await eventually(lambda: small.store.bytes < 50_000, within_s=10)
        await eventually(lambda: not owner._room.nearly_full, within_s=5)
        assert view(await ask(owner, submission(owner, digest, "again")).reply()).id == "again"
    async with small.leading() as owner:
        assert (await get(owner, "again")).state == "RUNNING"


async def test_a_full_log_answers_questions_and_recovers(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await eventually(lambda: owner._room.bytes_max, within_s=2)
        await fill(small, owner, digest, 0.75)
        sent = list(small.dispatch.sent)
        # The store itself says no, whatever the figures say.
        small.log.faults += [LogFull("no space left")]
        results = report(owner, sent[0])
        turned_away = await results.reply()
        assert turned_away.retry_after_ms > 0
        await eventually(lambda: len(small.dispatch.adopted) == 2)
        if owner._room.full:
            refused = await ask(owner, cancel(owner, "f1"), GetRun(run="f1")).replies()
            assert [reply.code for reply in refused] == ["unavailable", ""]
            listed = await ask(owner, ListRuns(limit=5), GetHistory(run="f1")).replies()
            assert [reply.code for reply in listed] == ["", ""]
        # A snapshot's registration goes through, and everything goes on.
        await eventually(lambda: not owner._room.full, within_s=5)
        assert (await report(owner, sent[0]).reply()).refused == []
        assert view(await ask(owner, cancel(owner, "f1")).reply()).id == "f1"


async def test_an_owner_of_a_full_log_does_not_spin(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await submit(owner, plan(task("a", schedule_timeout_ms=1)), "timed")
        small.log.faults += [LogFull("no space left")] * 3
        asked = ask(owner, submission(owner, digest, "x"))
        assert (await asked.reply()).code == "unavailable"
        await eventually(lambda: not owner._room.full, within_s=5)
        # Each failed append costs one rebuild, and the tries are a while apart.
        assert 2 <= len(small.dispatch.adopted) <= 5


async def test_work_that_waited_for_room_needs_nobody_to_come(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        small.log.faults += [LogFull("no space left")]
        assert (await ask(owner, submission(owner, digest, "x")).reply()).code == "unavailable"
        await eventually(lambda: len(small.dispatch.adopted) == 2)
        assert owner._room.full
        done = asyncio.Event()
        owner.post(lambda _: done.set())
        async with asyncio.timeout(30):
            await done.wait()


# -- snapshots --------------------------------------------------------------------------------


async def test_snapshots_are_taken_and_the_log_is_purged_to_the_older_one(kit):
    kit.every_touches = 3
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        for number in range(12):
            await ask(owner, submission(owner, digest, f"r{number}")).reply()
            if number % 3 == 2:
                count = len(owner.machine.state.snapshots)
                kept = [name for _, name, _ in owner.machine.state.snapshots]
                await eventually(
                    lambda kept=kept, count=count: (
                        count < len(owner.machine.state.snapshots)
                        or kept != [name for _, name, _ in owner.machine.state.snapshots]
                    ),
                    within_s=3,
                )
        older = owner.machine.state.snapshots[0][0]
        await eventually(lambda: kit.store.positions[0] > older, within_s=3)
        assert len(await kit.snapshot_store.names(0)) == 2
        wanted = state_hash(owner.machine.state)
    async with kit.leading() as owner:
        assert state_hash(owner.machine.state) == wanted


async def test_the_log_is_not_purged_before_the_registration_is_logged(kit):
    kit.every_touches = 2
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        for number in range(4):
            await ask(owner, submission(owner, digest, f"a{number}")).reply()
            if number % 2:
                want = (number + 1) // 2
                await eventually(
                    lambda want=want: len(owner.machine.state.snapshots) == want, within_s=3
                )
        older = owner.machine.state.snapshots[0][0]
        await eventually(lambda: kit.store.positions[0] > older, within_s=3)
        first = kit.store.positions[0]
        names = set(await kit.snapshot_store.names(0))
        for number in range(2):
            await ask(owner, submission(owner, digest, f"b{number}")).reply()
        kit.log.gate.clear()
        await eventually(lambda: kit.log.waiting, within_s=3)
        await asyncio.sleep(0.3)
        # The third one is stored and read back, but the log does not know it yet.
        assert len(await kit.snapshot_store.names(0)) == 3
        assert names < set(await kit.snapshot_store.names(0))
        assert kit.store.positions[0] == first
        kit.log.gate.set()
        await eventually(lambda: kit.store.positions[0] > first, within_s=3)


async def test_a_store_that_is_away_stops_nothing_else(kit):
    class Slow:
        def __init__(self):
            self.asked = asyncio.Event()

        async def names(self, shard):
            return []

        async def put(self, shard, position, data):
            self.asked.set()
            await asyncio.Event().wait()

    kit.snapshot_store = Slow()
    kit.every_touches = 1
    async with kit.leading() as owner:
        await submit(owner, ONE)
        async with asyncio.timeout(30):
            await kit.snapshot_store.asked.wait()
        # Leases are judged and waiters answered all the same.
        kit.dispatch.losses.append(Loss("default/r", 1, 1, "w.1", "lost"))
        await eventually(lambda: len(kit.dispatch.sent) == 2, within_s=2)
        assert view(await ask(owner, GetRun(run="r", wait_ms=1)).reply(within_s=2)).id == "r"
