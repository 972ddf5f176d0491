from collections import Counter

import pytest

from headrace.coordinator.control.machine import Assign, SetStandby, Unassign, apply
from headrace.coordinator.control.placement import Claims, PlacementPolicy, place
from headrace.coordinator.control.view import Assignment, ControlState, CoordinatorRecord

NOW_MS = 1_000_000
REST = PlacementPolicy().balance_after_ms


def state_of(*names, shards=None, **changes):
    state = ControlState()
    for name in names:
        fields = {"id": name, "incarnation": "1", "since_ms": 0, **changes.get(name, {})}
        state.coordinators[name] = CoordinatorRecord(**fields)
    for shard, (owner, standby) in (shards or {}).items():
        state.shards[shard] = Assignment(
            owner=owner, incarnation="1", standby=standby, generation=5
        )
    return state


def placed(state, *, expected=(0, 1, 2, 3), claims=None, settled=True, now_ms=NOW_MS, **policy):
    commands = place(
        state,
        expected=expected,
        claims=Claims(claims or {}),
        settled=settled,
        now_ms=now_ms,
        policy=PlacementPolicy(**policy),
    )
    for command in commands:
        apply(state, command)
    return commands


def owners(state):
    return {shard: held.owner for shard, held in state.shards.items()}


def test_one_coordinator_owns_all_at_once_without_a_standby():
    state = state_of("c0")
    commands = placed(state)
    assert owners(state) == dict.fromkeys(range(4), "c0")
    assert {held.standby for held in state.shards.values()} == {""}
    assert len(commands) == 4
    assert placed(state) == []


def test_shards_are_spread_and_standbys_differ_from_owners():
    state = state_of("c0", "c1", "c2")
    placed(state, expected=range(8))
    counts = Counter(owners(state).values())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(held.standby not in ("", held.owner) for held in state.shards.values())
    standbys = Counter(held.standby for held in state.shards.values())
    assert max(standbys.values()) - min(standbys.values()) <= 1
    assert placed(state, expected=range(8), now_ms=NOW_MS + 10 * REST) == []


def test_nobody_gets_what_nobody_claims_before_all_are_heard():
    state = state_of("c0", "c1")
    assert placed(state, settled=False) == []
    claims = {1: (77, "c1", "1"), 2: (88, "c1", "former life"), 3: (99, "stranger", "1")}
    placed(state, settled=False, claims=claims)
    assert owners(state) == {1: "c1"}
    assert state.shards[1].generation >= 77


def test_generations_rise_over_what_was_claimed_and_what_the_clock_says():
    state = state_of("c0")
    placed(state, expected=[0], claims={0: (NOW_MS * 5, "gone", "1")})
    assert state.shards[0].generation == NOW_MS * 5 + 1
    state.coordinators["c0"] = CoordinatorRecord(id="c0", incarnation="2")
    placed(state, expected=[0], now_ms=3)
    assert state.shards[0].generation == NOW_MS * 5 + 2


@pytest.mark.parametrize("lost", [{"status": "offline"}, {"incarnation": "2"}])
def test_the_standby_takes_over(lost):
    state = state_of("c0", "c1", "c2", shards={0: ("c0", "c2")}, c0=lost)
    placed(state, expected=[0])
    assert state.shards[0].owner == "c2"
    assert state.shards[0].standby == ("c0" if "incarnation" in lost else "c1")


def test_without_anybody_able_nothing_moves():
    state = state_of("c0", shards={0: ("c0", "")}, c0={"status": "offline"})
    assert placed(state, expected=[0]) == []
    state = state_of("c0", shards={0: ("c0", "")}, c0={"status": "draining"})
    assert placed(state, expected=[0]) == []
    assert placed(ControlState(), expected=[0]) == []


def test_draining_moves_all_shards_and_then_no_more_come():
    shards = dict.fromkeys(range(4), ("c0", "c1"))
    state = state_of("c0", "c1", "c2", shards=shards, c0={"status": "draining"})
    placed(state)
    assert "c0" not in owners(state).values()
    assert "c0" not in {held.standby for held in state.shards.values()}
    for step in range(1, 5):
        placed(state, now_ms=NOW_MS + step * 2 * REST)
    assert "c0" not in owners(state).values()


@pytest.mark.parametrize("unfit", [{"skew_ms": 5_000}, {"skew_ms": -5_000}, {"feature_level": 1}])
def test_a_skewed_or_outdated_coordinator_owns_nothing(unfit):
    level = {"feature_level": 2}
    state = state_of("c0", "c1", shards={0: ("c0", "c1")}, c0={**level, **unfit}, c1=level)
    placed(state, expected=[0], feature_level_min=2)
    assert owners(state) == {0: "c1"}
    assert state.shards[0].standby == ""


def test_balance_waits_then_moves_few_at_a_time_to_warm_ones():
    shards = {shard: ("c0", "c1" if shard == 5 else "c2") for shard in range(6)}
    state = state_of("c0", "c1", shards=shards, c1={"since_ms": NOW_MS})
    early = placed(state.copy(), expected=range(6), now_ms=NOW_MS + REST - 1)
    assert not [command for command in early if isinstance(command, Assign)]
    now_ms = NOW_MS + REST
    commands = placed(state, expected=range(6), now_ms=now_ms, moves_max=1)
    moved = [command for command in commands if isinstance(command, Assign)]
    assert [command.shard for command in moved] == [5]
    assert state.shards[5].standby == "c0"
    assert not placed(state, expected=range(6), now_ms=now_ms + 1)
    for step in range(1, 4):
        placed(state, expected=range(6), now_ms=now_ms + step * REST, moves_max=1)
    assert Counter(owners(state).values()) == {"c0": 3, "c1": 3}
    assert placed(state, expected=range(6), now_ms=now_ms + 9 * REST) == []


def test_a_difference_of_one_is_left_alone():
    state = state_of("c0", "c1", shards={0: ("c0", "c1"), 1: ("c1", "c0"), 2: ("c0", "c1")})
    assert placed(state, expected=range(3)) == []


def test_shards_that_are_no_more_are_forgotten():
    state = state_of("c0", shards={7: ("c0", "")})
    assert Unassign(7, 5) in placed(state, expected=[0])
    assert owners(state) == {0: "c0"}


def test_a_lost_standby_is_replaced_under_the_same_generation():
    state = state_of("c0", "c1", "c2", shards={0: ("c0", "c1")}, c1={"status": "offline"})
    assert placed(state, expected=[0]) == [SetStandby(0, 5, "c2")]
    state.coordinators.pop("c2")
    assert placed(state, expected=[0]) == [SetStandby(0, 5, "")]
    assert placed(state, expected=[0]) == []
