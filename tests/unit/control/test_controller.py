import pytest

from headrace.coordinator.control.controller import (
    RIVAL_REMEMBERED_S,
    Observation,
    Policy,
    decide,
    speaks,
)
from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat, HeartbeatTable
from headrace.coordinator.control.machine import apply
from headrace.coordinator.control.view import ControlState
from headrace.messages import WorkerHeartbeat

POLICY = Policy()
EXPIRE_S = POLICY.registry.coordinator_expire_s


def beat(name, *, membership="mine", members=3, **changes):
    return CoordinatorHeartbeat(
        version=1, id=name, incarnation="1", started_ms=1, sent_ms=1, membership=membership,
        members=members, **changes,
    )  # fmt: skip


def heard(*beats, at_s=10.0):
    table = HeartbeatTable()
    for each in beats:
        table.hear(each, at_s)
    return table


def seen(table, *, now_s=10.0, since_s=10.0, workers=None):
    return Observation(
        coordinators=table,
        workers=workers or HeartbeatTable(),
        members=frozenset({"c0", "c1", "c2"}),
        membership="mine",
        expected=frozenset(range(3)),
        since_s=since_s,
        now_s=now_s,
        now_ms=50_000,
    )


def decided(state, observation, **options):
    commands = decide(state, observation, POLICY, **options)
    for command in commands:
        apply(state, command)
    return commands


def test_one_round_registers_and_assigns_and_then_there_is_peace():
    state = ControlState()
    observation = seen(heard(beat("c0"), beat("c1"), beat("c2")))
    decided(state, observation)
    assert {held.owner for held in state.shards.values()} == {"c0", "c1", "c2"}
    assert decided(state, observation) == []


def test_the_decision_leaves_the_view_alone():
    state = ControlState()
    assert decide(state, seen(heard(beat("c0"))), POLICY)
    assert state == ControlState()


def test_a_new_controller_waits_for_members_it_has_not_heard():
    state = ControlState()
    table = heard(beat("c0"), beat("c1", owned={2: 9}))
    decided(state, seen(table))
    assert {shard: held.owner for shard, held in state.shards.items()} == {2: "c1"}
    later_s = 10.0 + POLICY.settle_s
    for each in (beat("c0"), beat("c1", owned={2: 9})):
        table.hear(each, later_s)
    decided(state, seen(table, now_s=later_s))
    assert set(state.shards) == {0, 1, 2}
    assert state.shards[2].owner == "c1"


def test_of_two_claims_the_later_generation_counts():
    state = ControlState()
    decided(state, seen(heard(beat("c0", owned={1: 5}), beat("c1", owned={1: 7}))))
    assert state.shards[1].owner == "c1"


def test_a_lost_owner_is_replaced_in_the_same_round():
    state = ControlState()
    table = heard(beat("c0"), beat("c1"), beat("c2"))
    decided(state, seen(table))
    now_s = 10.0 + EXPIRE_S + 0.1
    for name in ("c0", "c2"):
        table.hear(beat(name), now_s)
    decided(state, seen(table, now_s=now_s))
    assert state.coordinators["c1"].status == "offline"
    assert {held.owner for held in state.shards.values()} == {"c0", "c2"}


def test_workers_are_looked_at_when_asked():
    workers = HeartbeatTable()
    workers.hear(
        WorkerHeartbeat(
            version=1, id="w", incarnation="1", namespace="n", capabilities=[], handlers={},
            slots=1, free=1,
        ),
        10.0,
    )  # fmt: skip
    state = ControlState()
    decided(state, seen(heard(), workers=workers), workers_too=False)
    assert not state.workers
    decided(state, seen(heard(), workers=workers))
    assert set(state.workers) == {"w"}


def rule(*others, own=None, rivals=None, now_s=10.0, at_s=10.0):
    own = own or beat("c0")
    return speaks(
        heard(own, *others, at_s=at_s),
        own,
        now_s=now_s,
        expire_s=EXPIRE_S,
        rivals={} if rivals is None else rivals,
    )


@pytest.mark.parametrize(
    ("others", "ruling"),
    [
        ([], True),
        ([beat("c1"), beat("c2")], True),
        # Another list without a controller (no majority of its own) is no rival.
        ([beat("x", membership="other"), beat("y", membership="other")], True),
        ([beat("x", membership="other", controller=True), beat("y", membership="other")], False),
        ([beat("c1"), beat("x", membership="other", controller=True)], True),
        # As many members: the longer list, then the digest.
        ([beat("x", membership="other", controller=True, members=5)], False),
        ([beat("x", membership="other", controller=True, members=1)], True),
        ([beat("x", membership="zzz", controller=True)], False),
        ([beat("x", membership="aaa", controller=True)], True),
        ([beat("x", membership="zzz", controller=True, stopped=True)], True),
    ],
)
def test_which_list_of_peers_rules(others, ruling):
    assert rule(*others) is ruling


def test_exactly_one_of_two_lists_rules():
    mine = [beat("a", controller=True), beat("b")]
    other = [beat("x", membership="other", controller=True), beat("y", membership="other")]
    assert rule(*other, mine[1], own=mine[0]) != rule(*mine, other[1], own=other[0])


def test_a_rival_is_remembered_through_its_election():
    rivals = {}
    with_controller = beat("x", membership="zzz", controller=True)
    assert not rule(with_controller, rivals=rivals)
    without = beat("x", membership="zzz")
    assert not rule(without, rivals=rivals, now_s=11.0, at_s=11.0)
    later_s = 10.1 + RIVAL_REMEMBERED_S
    assert rule(without, rivals=rivals, now_s=later_s, at_s=later_s)
    assert rivals == {}
