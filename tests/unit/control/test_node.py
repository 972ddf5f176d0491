import asyncio

import pytest

from headrace.coordinator.control import (
    Cadence,
    ControlOptions,
    ControlPlane,
    DrainCoordinator,
)
from headrace.coordinator.control.raft import RaftTimings
from headrace.errors import Unreachable
from headrace.messages import WorkerHeartbeat, encode, subjects
from headrace.telemetry import SystemClock
from support.broker import eventually
from support.control_bus import MemoryBroker

QUICK = ControlOptions(
    timings=RaftTimings(election_min_s=0.1, election_max_s=0.15, append_period_s=0.025),
    cadence=Cadence(stuck_s=1.0),
)


class Fleet:
    def __init__(self, broker):
        self.broker, self.planes, self.notices, self.lives = broker, {}, {}, 0
        self.dialled = []

    def start(self, name, *peers, **options):
        self.lives += 1
        notices = self.notices[name] = []
        plane = ControlPlane(
            options.pop("bus", None) or self.broker.connect(),
            coordinator_id=name,
            peers=peers,
            incarnation=f"{name}-{self.lives}",
            clock=SystemClock(),
            shards=range(4),
            on_assignments=lambda owned, standby: notices.append((owned, standby)),
            options=options.pop("options", QUICK if len(peers) > 1 else None),
            **options,
        )
        plane.start()
        self.planes[name] = plane
        return plane

    async def redial(self):
        bus = self.broker.connect()
        self.dialled.append(bus)
        return bus

    def owned(self):
        return sorted(shard for plane in self.planes.values() for shard in plane.owned)


@pytest.fixture
async def fleet():
    fleet = Fleet(MemoryBroker())
    yield fleet
    for plane in fleet.planes.values():
        await plane.stop()
    assert all(not bus.subscriptions for bus in fleet.broker.buses)
    assert all(bus.closed for bus in fleet.dialled)


async def settled(fleet, *names):
    planes = [fleet.start(name, *names) for name in names]
    await eventually(
        lambda: fleet.owned() == [0, 1, 2, 3] and len({plane.view.number for plane in planes}) == 1,
        within_s=10,
    )
    return planes


async def test_one_owns_all_at_once(fleet):
    plane = fleet.start("c0", "c0")
    await plane.wait_until(lambda: plane.is_controller and len(plane.owned) == 4, timeout_s=2)
    assert [sorted(owned) for owned, _ in fleet.notices["c0"]] == [[0, 1, 2, 3]]
    status = plane.status()
    assert (status.controller, status.ruling, status.rebuilds) == ("c0", True, {})
    assert [beat.id for beat in plane.living_coordinators()] == ["c0"]


async def test_three_share_and_the_view_is_the_same(fleet):
    planes = await settled(fleet, "c0", "c1", "c2")
    assert sum(plane.is_controller for plane in planes) == 1
    assert len({plane.status().view_hash for plane in planes}) == 1
    assert all(plane.standby.isdisjoint(plane.owned) for plane in planes)


async def test_a_proposal_returns_when_applied_wherever_it_is_made(fleet):
    planes = await settled(fleet, "c0", "c1", "c2")
    asker = next(plane for plane in planes if not plane.is_controller)
    other = next(plane for plane in planes if plane is not asker)
    await asker.propose(DrainCoordinator(other.id), timeout_s=5)
    assert asker.view.coordinators[other.id].drain_asked
    await other.wait_until(lambda: not other.owned, timeout_s=5)


async def test_a_proposal_without_a_majority_is_unknown(fleet):
    plane = fleet.start("c0", "c0", "c1")
    with pytest.raises(Unreachable):
        await plane.propose(DrainCoordinator("c0"), timeout_s=0.7)
    assert plane.view.coordinators == {}


async def test_drain_then_stop_leaves_no_gap(fleet):
    planes = await settled(fleet, "c0", "c1", "c2")
    await planes[0].drain(timeout_s=5)
    assert planes[0].drained
    await eventually(lambda: fleet.owned() == [0, 1, 2, 3])
    await planes[0].stop()
    await planes[0].stop()


async def test_drain_with_nobody_to_take_over_says_so(fleet):
    plane = fleet.start("c0", "c0")
    await plane.wait_until(lambda: len(plane.owned) == 4, timeout_s=2)
    with pytest.raises(Unreachable):
        await plane.drain(timeout_s=0.3)
    assert len(plane.owned) == 4


SUBJECT = subjects.worker_heartbeat("default", "w", ["gpu"])


async def test_workers_and_garbage(fleet, caplog):
    plane = fleet.start("c0", "c0")
    bus = fleet.broker.connect()
    bus.publish(SUBJECT, b"\xc1")
    beat = WorkerHeartbeat(
        version=1, id="w", incarnation="1", namespace="default", capabilities=["gpu"],
        handlers={}, slots=3, free=3,
    )  # fmt: skip
    bus.publish(SUBJECT, encode(beat))
    bus.publish(SUBJECT[:-1] + "other", encode(beat))
    bus.publish("headrace.raft.c0", b"garbage")
    await plane.wait_until(lambda: "w" in plane.view.workers, timeout_s=2)
    assert set(plane.view.workers) == {"w"}
    assert plane.status().refused == {"malformed": 1}
    assert "heartbeat not understood" in caplog.text
    assert "heartbeat under a wrong name" in caplog.text


async def test_more_shards_can_be_expected_later_and_figures_advertised(fleet):
    plane = fleet.start("c0", "c0")
    plane.advertise(backlog=7, skew_ms=-3)
    plane.expect_shards(range(6))
    await plane.wait_until(lambda: len(plane.owned) == 6, timeout_s=2)
    plane.expect_shards(range(2))
    await plane.wait_until(lambda: len(plane.owned) == 2, timeout_s=2)
    assert plane.living_coordinators()[0].backlog == 7


async def test_a_sick_replica_is_replaced_on_a_fresh_connection(fleet):
    names = ("c0", "c1", "c2")
    planes = [fleet.start(name, *names, redial=fleet.redial) for name in names]
    await eventually(lambda: fleet.owned() == [0, 1, 2, 3], within_s=10)
    patient = next(plane for plane in planes if not plane.is_controller)
    owned = patient.owned
    for _ in range(2):
        number = patient.view.number
        patient._member.replica.fail("critical", "test")
        await patient.wait_until(lambda number=number: patient.view.number > number, timeout_s=10)
    assert patient.status().rebuilds == {"critical": 2}
    assert len(fleet.dialled) == 2
    assert [bus.closed for bus in fleet.dialled] == [True, False]
    assert patient.owned == owned


async def test_no_fresh_connection_is_no_reason_to_stay_sick(fleet):
    async def nobody():
        raise Unreachable("nobody")

    plane = fleet.start("c0", "c0", redial=nobody)
    await plane.wait_until(lambda: len(plane.owned) == 4, timeout_s=2)
    plane._member.replica.fail("critical", "test")
    await plane.wait_until(lambda: plane.status().rebuilds == {"critical": 1}, timeout_s=5)
    await plane.wait_until(lambda: plane.is_controller, timeout_s=5)


async def test_a_tick_that_fails_does_not_end_the_ticks(fleet, caplog):
    plane = fleet.start("c0", "c0")
    await plane.wait_until(lambda: plane.is_controller, timeout_s=2)
    member, beats = plane._member, asyncio.Event()
    beat, member.beat = member.beat, lambda: 1 / 0

    def well():
        member.beat = beat
        beats.set()
        raise ValueError("once")

    asyncio.get_running_loop().call_later(0.2, lambda: setattr(member, "beat", well))
    await asyncio.wait_for(beats.wait(), 30)
    number = plane.view.number
    await plane.propose(DrainCoordinator("c0"), timeout_s=5)
    assert plane.view.number > number
    assert "control plane tick failed" in caplog.text
