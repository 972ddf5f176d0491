import msgspec
import pytest

from headrace.coordinator.control.heartbeat import (
    CoordinatorHeartbeat,
    HeartbeatTable,
    membership_digest,
)
from headrace.coordinator.control.machine import DropCoordinator, DropWorker, apply
from headrace.coordinator.control.registry import (
    RegistryPolicy,
    coordinator_changes,
    refreshed,
    worker_changes,
)
from headrace.coordinator.control.view import ControlState
from headrace.messages import WorkerHeartbeat

MEMBERS = ("c0", "c1")
DIGEST = membership_digest(MEMBERS)
POLICY = RegistryPolicy()
T = 100.0


def beat(name="c0", life="1", **changes):
    fields = {
        "version": 1, "id": name, "incarnation": life, "started_ms": 1, "sent_ms": 1,
        "membership": DIGEST, "members": 2,
    }  # fmt: skip
    return CoordinatorHeartbeat(**{**fields, **changes})


def worker(name="w", life="1", **changes):
    fields = {
        "version": 1, "id": name, "incarnation": life, "namespace": "default",
        "capabilities": ["b", "a"], "handlers": {"h": {}}, "slots": 2, "free": 2, "started_ms": 1,
    }  # fmt: skip
    return WorkerHeartbeat(**{**fields, **changes})


@pytest.fixture
def state():
    return ControlState()


@pytest.fixture
def heard():
    return HeartbeatTable()


def coordinators(state, heard, *, now_s=T, now_ms=5_000, members=MEMBERS):
    commands = coordinator_changes(
        state,
        heard,
        members=members,
        membership=DIGEST,
        skew_max_ms=1_000,
        now_s=now_s,
        now_ms=now_ms,
        policy=POLICY,
    )
    for command in commands:
        apply(state, command)
    return commands


def workers(state, heard, *, now_s=T, now_ms=5_000, policy=POLICY):
    commands = worker_changes(state, heard, now_s=now_s, now_ms=now_ms, policy=policy)
    for command in commands:
        apply(state, command)
    return commands


def status(state):
    return {name: record.status for name, record in state.coordinators.items()}


def test_who_beats_is_online_and_who_falls_silent_goes_offline_and_comes_back(state, heard):
    heard.hear(beat(), T)
    coordinators(state, heard)
    assert status(state) == {"c0": "online"}
    assert coordinators(state, heard, now_s=T + POLICY.coordinator_expire_s - 0.01) == []
    coordinators(state, heard, now_s=T + POLICY.coordinator_expire_s + 0.01, now_ms=6_000)
    assert status(state) == {"c0": "offline"}
    assert state.coordinators["c0"].since_ms == 6_000
    heard.hear(beat(), T + 9)
    coordinators(state, heard, now_s=T + 9)
    assert status(state) == {"c0": "online"}


def test_heartbeats_alone_change_nothing(state, heard):
    heard.hear(beat(), T)
    coordinators(state, heard)
    heard.hear(beat(backlog=500, skew_ms=20, view=99, owned={0: 1}), T + 0.1)
    assert coordinators(state, heard, now_s=T + 0.1) == []
    assert refreshed(state, heard).coordinators["c0"].backlog == 500
    assert state.coordinators["c0"].backlog == 0


def test_skew_beyond_the_limit_is_a_change(state, heard):
    heard.hear(beat(), T)
    coordinators(state, heard)
    heard.hear(beat(skew_ms=-1_001), T)
    coordinators(state, heard)
    assert state.coordinators["c0"].skew_ms == -1_001


def test_a_new_life_replaces_the_record(state, heard):
    heard.hear(beat(), T)
    coordinators(state, heard)
    heard.hear(beat(life="2", started_ms=2), T)
    coordinators(state, heard)
    assert state.coordinators["c0"].incarnation == "2"


def test_a_goodbye_counts_at_once(state, heard):
    heard.hear(beat(), T)
    coordinators(state, heard)
    heard.hear(beat(stopped=True), T)
    coordinators(state, heard)
    assert status(state) == {"c0": "offline"}


def test_nobody_is_judged_while_we_were_deaf(state, heard):
    heard.hear(beat(), T)
    coordinators(state, heard)
    heard.deaf(T + 60)
    assert coordinators(state, heard, now_s=T + 60.5) == []
    coordinators(state, heard, now_s=T + 60 + POLICY.coordinator_expire_s + 0.01)
    assert status(state) == {"c0": "offline"}


def test_draining_by_heartbeat_and_by_command(state, heard):
    heard.hear(beat(draining=True), T)
    heard.hear(beat("c1"), T)
    coordinators(state, heard)
    assert status(state) == {"c0": "draining", "c1": "online"}
    record = state.coordinators["c1"]
    state.coordinators["c1"] = msgspec.structs.replace(record, drain_asked=True)
    coordinators(state, heard)
    assert status(state)["c1"] == "draining"
    assert coordinators(state, heard) == []
    heard.hear(beat("c1", "2", started_ms=2), T)
    coordinators(state, heard)
    assert status(state)["c1"] == "online"


def test_another_peer_list_is_another_cluster(state, heard):
    heard.hear(beat(), T)
    heard.hear(beat("c9"), T)
    coordinators(state, heard)
    assert set(state.coordinators) == {"c0"}
    heard.hear(beat(membership="other"), T)
    coordinators(state, heard)
    assert status(state) == {"c0": "offline"}


def test_who_is_no_member_any_more_is_forgotten(state, heard):
    heard.hear(beat("c1"), T)
    coordinators(state, heard)
    coordinators(state, heard, members=["c0"])
    assert status(state) == {"c1": "offline"}
    assert coordinators(state, heard, members=["c0"]) == [DropCoordinator("c1", "1")]
    assert not state.coordinators


def test_workers_come_get_busy_drain_and_go(state, heard):
    heard.hear(worker(), T)
    workers(state, heard)
    record = state.workers["w"]
    assert (record.status, record.capabilities, record.handlers) == ("online", ("a", "b"), ("h",))
    heard.hear(worker(free=0), T)
    assert workers(state, heard, now_ms=5_000 + POLICY.worker_busy_dwell_ms - 1) == []
    workers(state, heard, now_ms=5_000 + POLICY.worker_busy_dwell_ms)
    assert state.workers["w"].status == "busy"
    heard.hear(worker(draining=True), T)
    workers(state, heard, now_ms=7_001)
    assert state.workers["w"].status == "draining"
    heard.hear(worker(stopped=True), T)
    workers(state, heard, now_ms=8_000)
    assert state.workers["w"].status == "offline"
    assert workers(state, heard, now_ms=8_000) == []
    commands = workers(state, heard, now_ms=8_001 + POLICY.worker_forget_ms)
    assert commands == [DropWorker("w", "1")]


def test_a_silent_worker_expires_after_its_lease(state, heard):
    heard.hear(worker(), T)
    workers(state, heard)
    assert workers(state, heard, now_s=T + POLICY.worker_expire_s - 0.01) == []
    workers(state, heard, now_s=T + POLICY.worker_expire_s + 0.1)
    assert state.workers["w"].status == "offline"


def test_workers_are_limited(state, heard):
    for number in range(5):
        heard.hear(worker(f"w{number}"), T)
    workers(state, heard, policy=RegistryPolicy(workers_max=3))
    assert len(state.workers) == 3
    other = ControlState()
    workers(other, heard, policy=RegistryPolicy(commands_max=2))
    assert len(other.workers) == 2
    workers(other, heard, policy=RegistryPolicy(commands_max=2))
    assert len(other.workers) == 4
