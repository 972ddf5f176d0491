"""Scripts of commands, and seeded chaos, on the control plane."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.coordinator.control.machine import (
    Assign,
    Commit,
    DrainCoordinator,
    DropCoordinator,
    PutCoordinator,
    SetStandby,
    TakeControl,
    Unassign,
    apply,
    apply_commit,
    decode_commit,
    encode_commit,
    heal_of,
)
from headrace.coordinator.control.placement import Claims, PlacementPolicy, place
from headrace.coordinator.control.raft import RaftTimings
from headrace.coordinator.control.view import (
    Assignment,
    ControlState,
    CoordinatorRecord,
    decode_state,
    encode_state,
)
from support.control_world import World

names = st.sampled_from(["c0", "c1", "c2", "c10"])
lives = st.sampled_from(["1", "2"])
numbers = st.integers(0, 6)
records = st.builds(
    CoordinatorRecord,
    id=names,
    incarnation=lives,
    status=st.sampled_from(["online", "draining", "offline"]),
    skew_ms=st.sampled_from([0, 0, 0, 9_000]),
    since_ms=st.integers(0, 20_000),
)
assignments = st.builds(
    Assignment, owner=names, incarnation=lives, standby=names, generation=st.integers(1, 9)
)
commands = st.one_of(
    st.builds(TakeControl, names, numbers),
    st.builds(PutCoordinator, records),
    st.builds(DropCoordinator, names, lives),
    st.builds(DrainCoordinator, names, st.sampled_from(["", "1"])),
    st.builds(Assign, numbers, numbers, assignments),
    st.builds(SetStandby, numbers, numbers, names),
    st.builds(Unassign, numbers, numbers),
)
commits = st.builds(
    Commit,
    request=st.integers(0, 30).map(str),
    term=numbers,
    commands=st.lists(commands, min_size=1, max_size=4).map(tuple),
)


@given(st.lists(commits, max_size=20), st.data())
def test_replicas_agree_whatever_way_they_came(script, data):
    """Through encoding, through a snapshot in the middle, or strayed and then healed."""
    cut = data.draw(st.integers(0, len(script)))
    plain, copied, stray = ControlState(), ControlState(), ControlState()
    for index, commit in enumerate(script, start=2):
        apply_commit(plain, commit, index=index)
        apply_commit(copied, decode_commit(encode_commit(commit)), index=index)
        if index - 2 == cut:
            copied = decode_state(encode_state(copied))
        if index - 2 >= cut:
            apply_commit(stray, commit, index=index)
        assert plain.number == index
    assert encode_state(plain) == encode_state(copied)
    end = len(script) + 2
    heal = Commit(request="heal", commands=(heal_of(plain),))
    for state in (plain, stray):
        state.number = end
        if state.changed <= heal.commands[0].at:
            apply_commit(state, heal, index=end)
    assert encode_state(plain) == encode_state(stray)


@given(st.lists(commits, max_size=20))
def test_generations_never_fall_and_a_standby_is_another(script):
    state = ControlState()
    for index, commit in enumerate(script, start=2):
        before = dict(state.shards)
        apply_commit(state, commit, index=index)
        forgotten = {c.shard for c in commit.commands if isinstance(c, Unassign)}
        for shard, held in before.items():
            if shard in state.shards and shard not in forgotten:
                assert state.shards[shard].generation >= held.generation


@given(
    st.lists(records, unique_by=lambda record: record.id, max_size=4),
    st.dictionaries(st.integers(0, 9), assignments, max_size=10),
    st.integers(1, 10),
)
@settings(max_examples=200)
def test_placement_converges_to_a_balanced_map_of_able_owners(coordinators, shards, count):
    state = ControlState(
        coordinators={record.id: record for record in coordinators}, shards=dict(shards)
    )
    policy = PlacementPolicy()
    able = [
        record.id for record in coordinators if record.status == "online" and not record.skew_ms
    ]
    now_ms = 100_000
    for _ in range(12):
        now_ms += policy.balance_after_ms + 1
        round_ = place(
            state,
            expected=range(count),
            claims=Claims(),
            settled=True,
            now_ms=now_ms,
            policy=policy,
        )
        for command in round_:
            apply(state, command)
    assert round_ == []
    if able:
        counts = Counter({name: 0 for name in able})
        counts.update(held.owner for held in state.shards.values())
        assert set(state.shards) == set(range(count))
        assert set(counts) == set(able)
        assert max(counts.values()) - min(counts.values()) <= 1
        for held in state.shards.values():
            assert held.standby != held.owner
            assert bool(held.standby) == (len(able) > 1)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("seed", range(12))
def test_after_any_faults_all_agree_within_seconds(seed, count):
    rng = random.Random(seed * 1009 + count)
    ids = [f"c{number}" for number in range(count)]
    with World(
        seed,
        timings=RaftTimings(compact_entries=rng.choice([8, 30, 256])),
        loss=rng.choice([0.0, 0.0, 0.01, 0.05]),
        delay_s=rng.choice([0.0005, 0.002, 0.02]),
    ) as world:
        world.start_all(*ids)
        world.run(rng.uniform(0.5, 3))
        for _ in range(10):
            world.hurt(rng, ids)
        world.loss = 0.0
        world.run(2)  # views of the past may agree for a moment
        assert world.run_until(world.converged, within_s=8)
        rebuilds = [node.member.rebuilds.copy() for node in world.alive()]
        world.run(6)
        assert world.converged()
        assert len(world.controllers()) == 1
        assert [node.member.rebuilds for node in world.alive()] == rebuilds
