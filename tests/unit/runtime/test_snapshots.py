"""Snapshots, and the standby that goes on from them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from headrace.bus import CorruptObject, JetStreamBusy
from headrace.coordinator.core import BrokenLog, state_hash
from headrace.coordinator.core import capture as capture_module
from headrace.coordinator.runtime import follower as follower_module
from headrace.coordinator.runtime import snapshots as snapshots_module
from headrace.coordinator.runtime.follower import Follower
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.shardlog import MemoryLog, MemorySnapshotStore
from headrace.errors import Unreachable
from headrace.messages import SignalRun
from headrace.telemetry import SystemClock
from support.broker import eventually
from support.ownerkit import BUILTIN, ask, get, report, store, submission, submit
from support.plans import chain, plan, task

ONE = plan(task("a"))


# -- snapshots --------------------------------------------------------------------------------


class Store(MemorySnapshotStore):
    """Reads fail as told."""

    def __init__(self):
        super().__init__()
        self.faults = {}

    async def get(self, shard, name):
        fault = self.faults.get(name)
        if isinstance(fault, Exception):
            raise fault
        return fault if fault is not None else await super().get(shard, name)


async def two_snapshots(kit):
    """Return (their names, oldest first; the state's hash at the end)."""
    kit.every_touches = 1_000_000
    kit.snapshot_store = Store()
    async with kit.leading() as owner:
        for number in range(2):
            await submit(owner, ONE, f"r{number}")
            await owner.snapshot()
        await submit(owner, ONE, "last")
        return await kit.snapshot_store.names(0), state_hash(owner.machine.state)


def snapshots(kit, **options):
    return Snapshots(kit.snapshot_store, SystemClock(), **options)


@pytest.mark.parametrize(
    "fault",
    [
        CorruptObject("b", "n", "digest does not match"),
        b"",
        b"garbage",
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([99, 0, 0, [], 0, [], [], [], [], [], [], [], {}]),
    ],
)
async def test_a_torn_snapshot_is_passed_over(kit, fault):
    (older, newer), wanted = await two_snapshots(kit)
    kit.snapshot_store.faults[newer] = fault
    state = await snapshots(kit).load(0, BUILTIN)
    assert sorted(state.runs) == ["default/r0"]
    async with kit.leading() as owner:
        assert state_hash(owner.machine.state) == wanted
    assert older < newer


@pytest.mark.parametrize("fault", [Unreachable("no answer"), JetStreamBusy("no leader")])
async def test_a_store_that_is_away_is_not_an_empty_one(kit, fault):
    (_, newer), _ = await two_snapshots(kit)
    kit.snapshot_store.faults[newer] = fault
    with pytest.raises(type(fault)):
        await snapshots(kit).load(0, BUILTIN)


async def test_a_cut_off_run_in_a_snapshot_is_passed_over(kit):
    (_, newer), _ = await two_snapshots(kit)
    data = await kit.snapshot_store.get(0, newer)
    image = msgspec.msgpack.decode(data)
    image[6] = [image[6][0][:3]]
    kit.snapshot_store.faults[newer] = msgspec.msgpack.encode(image)
    assert sorted((await snapshots(kit).load(0, BUILTIN)).runs) == ["default/r0"]


async def test_a_snapshot_that_reads_back_differently_is_not_registered(kit):
    class Forgetful(Store):
        async def get(self, shard, name):
            return self.older

    kit.snapshot_store = Forgetful()
    kit.every_touches = 1_000_000
    async with kit.leading() as owner:
        await submit(owner, ONE)
        from headrace.coordinator.core import ShardState, encode_state

        kit.snapshot_store.older = encode_state(ShardState(0, BUILTIN))
        await owner.snapshot()
        assert owner.machine.state.snapshots == []
        assert kit.store.positions[0] == 2


async def test_when_a_snapshot_is_due(kit):
    clock = SimpleNamespace(now_ms=lambda: 1_000)
    found = Snapshots(kit.snapshot_store, clock, every_touches=10, every_ms=500)
    assert not found.due(9_999)
    found.touches += 1
    assert not found.due(1_499)
    assert found.due(1_500)
    found.touches += 9
    assert found.due(1_000)
    found.copy_soon()
    assert not found.due(9_999)
    never = Snapshots(kit.snapshot_store, clock, every_touches=0)
    never.touches += 10**9
    assert not never.due(10**12)


async def test_a_level_whose_positions_mean_nothing_later_purges_nothing(kit):
    await two_snapshots(kit)
    weak = snapshots(kit, survives=False)
    state = await weak.load(0, BUILTIN)
    assert state.batch_position == 0
    assert state.batch_index > 0
    assert weak.purge_position(state) == 0


async def test_ticks_go_on_while_a_snapshot_is_made(kit, monkeypatch):
    monkeypatch.setattr(capture_module, "PIECE_RUNS", 2)
    kit.every_touches = 1_000_000
    async with kit.leading() as owner:
        for number in range(9):
            await submit(owner, ONE, f"r{number}")
        wanted = state_hash(owner.machine.state)
        at = owner.machine.state.batch_index
        later_ms = SystemClock().now_ms() + 60_000
        pauses = []

        async def between(_seconds):
            # All that may happen meanwhile: changes, new runs.
            pauses.append(len(pauses))
            if len(pauses) < 6:
                await submit(owner, ONE, f"new{len(pauses)}")
                run = f"r{len(pauses)}"
                signal = SignalRun(run=run, name="x", request_id=run, not_after_ms=later_ms)
                assert not (await ask(owner, signal).reply()).code

        monkeypatch.setattr(snapshots_module, "_pause", between)
        await owner.snapshot()
        ((_, name, digest),) = owner.machine.state.snapshots
        assert len(pauses) > 6
    assert digest == wanted
    assert int(name.partition("-")[0]) == at
    state = await snapshots(kit).load(0, BUILTIN)
    assert sorted(state.runs) == [f"default/r{number}" for number in range(9)]
    async with kit.leading() as owner:
        assert len(owner.machine.state.runs) == 14


async def test_a_snapshot_that_was_given_up_is_not_captured_later(kit, monkeypatch):
    """Nobody would encode it, and every run that changes would be kept for it."""
    monkeypatch.setattr(snapshots_module, "COPY_TIMEOUT_S", 0.01)
    kit.every_touches = 1_000_000
    async with kit.leading() as owner:
        await submit(owner, ONE, "r0")
        keeper = owner._keeper
        monkeypatch.setattr(keeper, "_wake", lambda: None)
        await owner.snapshot()
        assert keeper.copies == []
        await submit(owner, ONE, "r1")
        assert owner.machine.copying is None
        assert owner.machine.state.snapshots == []


# -- the standby ------------------------------------------------------------------------------


class Following:
    def __init__(self, kit):
        self.log = MemoryLog(0, kit.store)
        self.follower = Follower(self.log, snapshots(kit), BUILTIN, SystemClock())
        self.task = asyncio.create_task(self.follower.run())

    async def at(self, position):
        await eventually(
            lambda: (
                self.follower.state is not None and self.follower.state.batch_position >= position
            )
        )
        return self.follower.state

    async def stop(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_standby_follows_and_is_handed_over(kit):
    following = Following(kit)
    async with kit.leading() as owner:
        await submit(owner, chain(2))
        state = await following.at(owner.machine.state.batch_position)
        assert state_hash(state) == state_hash(owner.machine.state)
        position = state.batch_position
        assert await following.follower.hash_at(position) == state_hash(state)
        later = asyncio.create_task(following.follower.hash_at(position + 1))
        await asyncio.sleep(0)
        await report(owner, *kit.dispatch.sent).reply()
        assert await later in (state_hash(owner.machine.state), "")
        assert await following.follower.hash_at(position) == ""
        await following.at(owner.machine.state.batch_position)
    await following.stop()
    folder = following.follower.folder
    async with kit.leading(folder=folder) as owner:
        assert owner.machine.state is folder.state
        assert (await get(owner)).state == "RUNNING"
        await report(owner, *kit.dispatch.sent).reply()


async def test_a_standby_that_was_away_goes_on_from_a_snapshot(kit, monkeypatch):
    monkeypatch.setattr(follower_module, "RETRY_S", 0.01)
    kit.every_touches = 1_000_000
    async with kit.leading() as owner:
        await submit(owner, ONE, "before")
        following = Following(kit)
        await following.at(owner.machine.state.batch_position)
        await following.stop()
        old = following.follower.folder
        for number in range(3):
            await submit(owner, ONE, f"r{number}")
            await owner.snapshot()
        assert kit.store.positions[0] > old.state.batch_position + 1
        # It comes back with what it had.
        again = Follower(MemoryLog(0, kit.store), snapshots(kit), BUILTIN, SystemClock())
        loads = [old.state]
        real = again._load

        async def load():
            return loads.pop() if loads else await real()

        again._load = load
        running = asyncio.create_task(again.run())
        await eventually(
            lambda: (
                again.state is not None
                and again.state.batch_position == owner.machine.state.batch_position
            )
        )
        assert state_hash(again.state) == state_hash(owner.machine.state)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_hole_that_no_snapshot_covers_is_not_passed_over(kit):
    async with kit.leading() as owner:
        for number in range(3):
            await submit(owner, ONE, f"r{number}")
    del kit.store.positions[1], kit.store.payloads[1]
    follower = Follower(MemoryLog(0, kit.store), snapshots(kit), BUILTIN, SystemClock())
    async with asyncio.timeout(30):
        with pytest.raises(BrokenLog):
            await follower.run()


async def test_a_standby_waits_for_its_store(kit, monkeypatch):
    monkeypatch.setattr(follower_module, "RETRY_S", 0.01)
    (_, newer), wanted = await two_snapshots(kit)
    kit.snapshot_store.faults[newer] = JetStreamBusy("no leader")
    following = Following(kit)
    await asyncio.sleep(0.05)
    assert following.follower.state is None
    kit.snapshot_store.faults.clear()
    assert state_hash(await following.at(kit.store.positions[-1])) == wanted
    await following.stop()


async def test_a_dead_owners_half_tick_is_taken_back_by_its_successor(kit, monkeypatch):
    monkeypatch.setattr("headrace.coordinator.core.entries.PART_BYTES_MAX", 100)
    following = Following(kit)
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        await submit(owner, ONE, "before")
        wanted = state_hash(owner.machine.state)
        size = len(kit.store.positions)
        asked = [ask(owner, submission(owner, digest, f"r{n}")) for n in range(3)]
        for one in asked:
            await one.reply()
    # Only the first part of the last tick made it into the log.
    del kit.store.positions[size + 1 :], kit.store.payloads[size + 1 :]
    await following.stop()
    following = Following(kit)
    await following.at(kit.store.positions[size - 1])
    await eventually(lambda: following.follower.folder._parts)
    await following.stop()
    async with kit.leading(folder=following.follower.folder) as owner:
        assert state_hash(owner.machine.state) == wanted
        await submit(owner, ONE, "after")
        assert sorted(owner.machine.state.runs) == ["default/after", "default/before"]
    assert sorted(kit.folded().runs) == ["default/after", "default/before"]
