import zlib

import msgspec
import pytest

from headrace.coordinator.control.machine import (
    Assign,
    Commit,
    DrainCoordinator,
    DropCoordinator,
    DropWorker,
    Heal,
    PutCoordinator,
    PutWorker,
    SetStandby,
    TakeControl,
    Unassign,
    apply,
    apply_commit,
    decode_commit,
    encode_commit,
    heal_of,
)
from headrace.coordinator.control.view import (
    RECENT_MAX,
    Assignment,
    ControlState,
    CoordinatorRecord,
    WorkerRecord,
    decode_state,
    encode_state,
    ordinal_key,
    state_hash,
)


def coordinator(name="c0", life="1", **changes):
    return CoordinatorRecord(id=name, incarnation=life, **changes)


def assignment(owner="c0", generation=10, **changes):
    return Assignment(owner=owner, incarnation="1", generation=generation, **changes)


def committed(state, *commands, index, request="", term=0):
    apply_commit(
        state, Commit(request=request or f"r{index}", term=term, commands=commands), index=index
    )


def test_a_commit_is_applied_once_and_counts_twice():
    state = ControlState()
    committed(state, Assign(0, 0, assignment(generation=5)), index=3, request="same")
    committed(state, Unassign(0, 5), index=4, request="same")
    assert state.shards == {0: assignment(generation=5)}
    assert (state.number, state.changed) == (4, 3)


def test_a_deposed_controllers_commit_changes_nothing_but_the_number():
    state = ControlState()
    committed(state, TakeControl("c1", 7), index=2, term=7)
    committed(state, PutCoordinator(coordinator()), index=3, term=6)
    assert (state.controller, state.term) == ("c1", 7)
    assert not state.coordinators
    assert (state.number, state.changed) == (3, 2)


def test_a_request_of_no_controller_is_valid_in_any_term():
    state = ControlState(term=7)
    committed(state, PutCoordinator(coordinator()), index=3, term=0)
    assert "c0" in state.coordinators


def test_assign_needs_the_expected_generation_and_a_higher_one():
    state = ControlState()
    apply(state, Assign(1, 0, assignment(generation=10)))
    for late in (
        Assign(1, 0, assignment("c1", generation=20)),
        Assign(1, 10, assignment("c1", generation=10)),
        Assign(1, 9, assignment("c1", generation=20)),
    ):
        apply(state, late)
        assert state.shards[1] == assignment(generation=10)
    apply(state, Assign(1, 10, assignment("c1", generation=11)))
    assert state.shards[1].owner == "c1"


def test_standby_and_unassign_name_the_generation():
    state = ControlState(shards={1: assignment(generation=10)})
    apply(state, SetStandby(1, 9, "c1"))
    apply(state, SetStandby(1, 10, "c0"))  # the owner cannot be its own standby
    assert state.shards[1].standby == ""
    apply(state, SetStandby(1, 10, "c1"))
    assert state.shards[1].standby == "c1"
    assert state.shards[1].generation == 10
    apply(state, Unassign(1, 9))
    assert 1 in state.shards
    apply(state, Unassign(1, 10))
    assert 1 not in state.shards


def test_only_the_offline_life_that_is_named_is_dropped():
    state = ControlState()
    worker = WorkerRecord(id="w", incarnation="1", namespace="default")
    apply(state, PutCoordinator(coordinator()))
    apply(state, PutWorker(worker))
    apply(state, DropCoordinator("c0", "1"))
    apply(state, DropWorker("w", "1"))
    assert set(state.coordinators) | set(state.workers) == {"c0", "w"}
    apply(state, PutCoordinator(coordinator(status="offline")))
    apply(state, PutWorker(msgspec.structs.replace(worker, status="offline")))
    apply(state, DropCoordinator("c0", "2"))
    apply(state, DropWorker("w", "2"))
    assert set(state.coordinators) | set(state.workers) == {"c0", "w"}
    apply(state, DropCoordinator("c0", "1"))
    apply(state, DropWorker("w", "1"))
    assert not state.coordinators
    assert not state.workers


@pytest.mark.parametrize(("life", "asked"), [("", True), ("1", True), ("2", False)])
def test_drain_may_name_a_life(life, asked):
    state = ControlState(coordinators={"c0": coordinator()})
    apply(state, DrainCoordinator("c0", life))
    apply(state, DrainCoordinator("nobody"))
    assert state.coordinators["c0"].drain_asked is asked


def test_healing_makes_a_stray_replica_equal():
    good, stray = ControlState(), ControlState()
    for state in (good, stray):
        committed(state, PutCoordinator(coordinator()), index=2)
    good.shards[0] = assignment()
    stray.coordinators["ghost"] = coordinator("ghost")
    heal = heal_of(good)
    for state in (good, stray):
        committed(state, heal, index=3)
    assert encode_state(good) == encode_state(stray)
    assert stray.shards == {0: assignment()}
    assert stray.number == 3


def test_healing_does_not_erase_a_later_command():
    state = ControlState()
    committed(state, PutCoordinator(coordinator("c0")), index=2)
    heal = heal_of(state)
    committed(state, PutCoordinator(coordinator("c1")), index=3)
    committed(state, heal, index=4)
    assert set(state.coordinators) == {"c0", "c1"}
    assert (state.number, state.changed) == (4, 3)


def test_a_healing_between_does_not_shut_out_the_next():
    state = ControlState()
    committed(state, PutCoordinator(coordinator("c0")), index=2)
    heal = heal_of(state)
    committed(state, heal, index=3)
    state.coordinators.clear()
    committed(state, heal, index=4)
    assert "c0" in state.coordinators


def test_a_broken_view_changes_the_number_only():
    state = ControlState(coordinators={"c0": coordinator()})
    for view in (b"no zlib", zlib.compress(b"\xc1"), zlib.compress(bytes(100))[:-4]):
        with pytest.raises((zlib.error, msgspec.MsgspecError)):
            committed(state, Heal(at=99, view=view), index=state.number + 1)
    assert set(state.coordinators) == {"c0"}
    assert state.number == 3


def test_an_exploding_view_is_refused(monkeypatch):
    monkeypatch.setattr("headrace.coordinator.control.machine.VIEW_BYTES_MAX", 1000)
    with pytest.raises(zlib.error, match="too large"):
        committed(ControlState(), Heal(at=9, view=zlib.compress(bytes(5000))), index=1)


def test_request_ids_are_bounded():
    state = ControlState()
    for index in range(2, RECENT_MAX + 50):
        committed(state, DrainCoordinator("x"), index=index)
    assert len(state.recent) == RECENT_MAX
    assert state.recent[-1] == f"r{RECENT_MAX + 49}"


def test_the_hash_does_not_depend_on_the_order_of_registration():
    names = ["c1", "c0", "c2"]
    one = ControlState(
        coordinators={name: coordinator(name) for name in names},
        shards={2: assignment(), 1: assignment()},
    )
    two = ControlState(
        coordinators={name: coordinator(name) for name in sorted(names)},
        shards={1: assignment(), 2: assignment()},
    )
    assert state_hash(one) == state_hash(two)
    two.shards[1] = assignment(generation=11)
    assert state_hash(one) != state_hash(two)


def test_everything_survives_its_encoding():
    state = ControlState(number=7, changed=6, term=2, controller="c0", recent=["a"])
    state.coordinators["c0"] = coordinator(backlog=3, skew_ms=-2)
    state.workers["w"] = WorkerRecord(id="w", incarnation="i", namespace="n", capabilities=("a",))
    state.shards[3] = assignment(standby="c1")
    assert decode_state(encode_state(state)) == state
    commit = Commit(
        request="r",
        term=3,
        commands=(
            TakeControl("c", 1),
            PutCoordinator(coordinator()),
            DropCoordinator("c", "1"),
            DrainCoordinator("c"),
            PutWorker(state.workers["w"]),
            DropWorker("w", "1"),
            Assign(1, 2, assignment()),
            SetStandby(1, 2, "c"),
            Unassign(1, 2),
            heal_of(state),
        ),
    )
    assert decode_commit(encode_commit(commit)) == commit


def test_copies_are_independent():
    state = ControlState(coordinators={"c0": coordinator()})
    copy = state.copy()
    apply(state, PutCoordinator(coordinator("c1")))
    assert set(copy.coordinators) == {"c0"}


def test_ordinals_sort_as_numbers():
    assert sorted(["c-10", "c-9", "c-1"], key=ordinal_key) == ["c-1", "c-9", "c-10"]
