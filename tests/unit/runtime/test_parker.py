"""An owner and a standby park what only waits, between ticks; what comes brings it back."""

from __future__ import annotations

import asyncio

import pytest

from headrace.coordinator.core import Capture, ParkingPolicy, state_hash
from headrace.coordinator.runtime import parker
from headrace.coordinator.runtime.follower import Follower
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.shardlog import MemoryLog
from headrace.events import RequestSeen
from headrace.messages import SignalRun
from support.broker import eventually
from support.corekit import Kit as CoreKit
from support.ownerkit import BUILTIN, Kit, ask, get, submit
from support.plans import plan, sleep, task, wait

WAITS = plan(wait("go"), task("x", needs=["go"]))


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parker, "POLICY", ParkingPolicy(free=0, round_ms=0, near_ms=0))
    monkeypatch.setattr(parker, "LOOK_S", 0.01)


async def test_an_owner_parks_and_a_signal_brings_back() -> None:
    kit = Kit()
    async with kit.leading() as owner:
        await submit(owner, WAITS)
        assert owner.machine is not None
        runs = owner.machine.state.runs
        await eventually(lambda: len(runs.parked) == 1)
        now_ms = owner._clock.now_ms()
        await ask(
            owner, SignalRun(run="r", name="go", request_id="s", not_after_ms=now_ms + 1_000)
        ).reply()
        assert [sent.path for sent in kit.dispatch.sent] == ["x"]
        assert not runs.parked


async def test_a_timer_of_a_parked_run_fires() -> None:
    kit = Kit()
    async with kit.leading() as owner:
        await submit(owner, plan(sleep("s", 300), task("x", needs=["s"])))
        assert owner.machine is not None
        await eventually(lambda: len(owner.machine.state.runs.parked) == 1)
        await eventually(lambda: bool(kit.dispatch.sent))


def test_nothing_is_parked_while_records_are_in_use() -> None:
    kit = CoreKit()
    kit.start(WAITS)
    machine = kit.machine
    assert parker.may_park(machine)
    machine.copying = Capture(machine.state)
    assert not parker.may_park(machine), "a snapshot on its way has records in hand"
    machine.copying = None
    machine.begin(kit.now_ms)
    machine.emit_shard(RequestSeen("q", kit.now_ms + 1))
    assert not parker.may_park(machine), "events are not entries yet"


async def test_a_standby_parks_and_hands_on_what_it_has() -> None:
    kit = Kit()
    standby = Follower(
        MemoryLog(0, kit.store), Snapshots(kit.snapshot_store, kit.clock), BUILTIN, kit.clock
    )
    following = asyncio.create_task(standby.run())
    try:
        async with kit.leading() as owner:
            await submit(owner, WAITS)
            assert owner.machine is not None
            await eventually(lambda: standby.state is not None and bool(standby.state.runs.parked))
            assert standby.state is not None
            assert state_hash(standby.state) == state_hash(owner.machine.state)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    async with kit.leading(folder=standby.folder) as owner:
        assert (await get(owner)).conditions == ["WAITING"]
