import logging
import pickle

import pysyncobj
import pytest

from headrace.coordinator.control.machine import (
    Commit,
    DrainCoordinator,
    Heal,
    encode_commit,
)
from headrace.coordinator.control.raft import (
    PAYLOAD_BYTES_MAX,
    RaftTimings,
    _Replicated,
)
from headrace.coordinator.control.wire import (
    AppendEntries,
    Envelope,
    InstallView,
    NextIndex,
    RequestVote,
    Vote,
    decode_envelope,
    encode_envelope,
)
from headrace.errors import LimitExceeded
from support.control_world import World

IDS = ("c0", "c1", "c2")


@pytest.fixture
def world():
    with World(11) as made:
        yield made


def settled(world, *ids):
    world.start_all(*(ids or IDS))
    assert world.run_until(world.converged, within_s=10)
    return world


def test_the_pinned_engine():
    # What `raft` says about its inside was read in this release.
    assert pysyncobj.version.VERSION == "0.3.17"


def test_exactly_one_replicated_method():
    with World(1) as world:
        node = world.start("c0", ["c0"])
        assert set(node.member.replica._raft._methodToID) == {"commit_v0"}
        assert isinstance(node.member.replica._raft, _Replicated)


def test_no_pickle_crosses_the_wire(world):
    seen = []
    world.on_message = lambda _, payload: seen.append(payload)
    world.timings = RaftTimings(compact_entries=5)
    settled(world)
    world.run(10)
    world.start("c1", IDS)  # gets the compacted log as a view
    assert world.run_until(world.converged, within_s=10)
    kinds = {type(decode_envelope(data).message) for data in seen if _is_raft(data)}
    assert kinds >= {RequestVote, Vote, AppendEntries, NextIndex, InstallView}
    marks = [b"\x80" + bytes([protocol, 0x95]) for protocol in (4, 5)] + [b"\x80\x02("]
    assert not any(mark in data for mark in marks for data in seen)


def _is_raft(data):
    try:
        decode_envelope(data)
    except Exception:
        return False
    return True


def test_a_single_replica_does_not_wait_for_the_mute(world):
    world.start("c0", ["c0"])
    assert world.run_until(lambda: world.controllers() == ["c0"], within_s=0.2)


def test_a_fresh_replica_neither_votes_nor_stands(world):
    votes = []

    def note(subject, payload):
        if subject.startswith("headrace.raft."):
            message = decode_envelope(payload).message
            if isinstance(message, RequestVote | Vote):
                votes.append(world.now_s)

    world.on_message = note
    world.start_all(*IDS)
    world.run(RaftTimings().mute_s - 0.01)
    assert votes == []
    assert {node.member.replica.term for node in world.alive()} == {0}
    world.run(1)
    assert votes


def test_a_restarted_follower_does_not_disturb_the_term(world):
    settled(world)
    leader = world.controllers()[0]
    term = world.nodes[leader].member.replica.term
    for follower in set(IDS) - {leader}:
        world.start(follower, IDS)
        assert world.run_until(world.converged, within_s=10)
    assert world.controllers() == [leader]
    assert world.nodes[leader].member.replica.term == term


def test_an_exception_in_apply_wedges_nobody(world, caplog):
    settled(world)
    caplog.set_level(logging.CRITICAL + 1)
    before = world.nodes["c0"].member.view.number
    for payload in (
        b"",
        b"\xc1",
        pickle.dumps(1),
        encode_commit(Commit(request="x", commands=(Heal(1 << 40, b"?"),))),
    ):
        world.nodes["c0"].member.replica.commit(payload)
    world.run(3)
    assert world.converged()
    assert all(node.member.view.number > before + 4 for node in world.alive())
    assert all(not node.member.rebuilds for node in world.alive())


def test_a_follower_forwards_to_its_leader(world):
    settled(world)
    follower = next(node for node in world.alive() if not node.member.is_controller)
    follower.member.propose(DrainCoordinator(follower.id))
    world.run(0.5)
    assert all(
        node.member.view.coordinators[follower.id].status == "draining" for node in world.alive()
    )


def test_a_commit_is_limited(world):
    node = world.start("c0", ["c0"])
    with pytest.raises(LimitExceeded):
        node.member.replica.commit(bytes(PAYLOAD_BYTES_MAX + 1))


def test_the_largest_commits_pass_whatever_their_bytes(world):
    settled(world)
    leader = world.nodes[world.controllers()[0]]
    sizes = []
    world.on_message = lambda _, payload: sizes.append(len(payload))
    # Bytes above 0x7f are what pysyncobj's pickle doubles.
    for number in range(6):
        noise = Heal(1, bytes([0xFE - number]) * (PAYLOAD_BYTES_MAX - 100))
        leader.member.replica.commit(encode_commit(Commit(request=f"{number}", commands=(noise,))))
    world.run(3)
    assert world.converged()
    assert max(sizes) > PAYLOAD_BYTES_MAX - 100
    assert max(sizes) < 1024 * 1024
    assert all(not node.member.rebuilds for node in world.alive())


def test_the_log_stays_short(world):
    world.timings = RaftTimings(compact_entries=20)
    settled(world)
    world.run(120)
    assert all(node.member.replica.log_entries < 30 for node in world.alive())
    assert all(node.member.replica.index > 100 for node in world.alive())
    assert all(not node.member.rebuilds for node in world.alive())


def test_a_critical_line_of_the_engine_ends_this_life_only(world):
    settled(world)
    replicas = [node.member.replica for node in world.alive()]

    def truncate():
        logging.getLogger("pysyncobj.syncobj").critical("truncating already-applied log entries")

    replicas[0]._guarded(truncate)
    assert [replica.failed for replica in replicas] == ["critical", "", ""]
    truncate()  # nobody's call is under way
    assert replicas[1].failed == ""


def test_the_critical_line_is_noticed_in_an_application_that_logs_nothing(world):
    logger = logging.getLogger("pysyncobj.syncobj")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        replica = world.start("c0", ["c0"]).member.replica
        replica._guarded(logger.critical, "truncating already-applied log entries")
        assert replica.failed == "critical"
    finally:
        logger.setLevel(level)


def test_an_exception_of_the_engine_ends_this_life(world):
    settled(world)
    replica = world.nodes["c1"].member.replica

    def boom():
        raise KeyError("x")

    replica._guarded(boom)
    assert replica.failed == "exception"
    assert not replica.receive(b"")
    world.run(0.1)
    assert world.nodes["c1"].member.rebuilds == {"exception": 1}
    assert world.run_until(world.converged, within_s=10)


def test_an_applied_index_beyond_the_commit_index_ends_this_life(world, monkeypatch):
    settled(world)
    replica = world.nodes["c1"].member.replica
    monkeypatch.setattr(_Replicated, "raftCommitIndex", replica.index - 1)
    replica._guarded(lambda: None)
    assert replica.failed == "index"


def a_follower(world):
    settled(world)
    return next(node for node in world.alive() if not node.member.is_controller).member.replica


def test_a_leader_that_knows_less_for_long_ends_this_life(world):
    follower = a_follower(world)
    behind = AppendEntries(follower.term, follower.index - 1, 1, 0, [])
    follower._compare(behind)
    world.now_s += follower.timings.ahead_s - 0.01
    follower._compare(behind)
    assert follower.failed == ""
    world.now_s += 0.02
    follower._compare(behind)
    assert follower.failed == "ahead"


def test_a_leader_that_catches_up_or_a_newer_one_is_given_time(world):
    follower = a_follower(world)
    for message in (
        AppendEntries(follower.term, follower.index, 1, 0, []),
        AppendEntries(follower.term + 1, follower.index - 1, 1, 0, []),
    ):
        follower._compare(AppendEntries(follower.term, follower.index - 1, 1, 0, []))
        world.now_s += follower.timings.ahead_s + 1
        follower._compare(message)
        assert follower.failed == ""


def test_after_a_stall_ticks_wait_for_the_messages(world):
    settled(world)
    replica = world.nodes["c0"].member.replica
    term = replica.term
    world.now_s += 5
    replica.tick()
    assert replica.term == term  # no election on the strength of an old clock
    world.now_s += 0.05
    replica.tick()
    assert replica.term == term


def test_messages_of_strangers_reach_no_engine(world):
    settled(world)
    replica = world.nodes["c0"].member.replica
    vote = Envelope(1, "other list", "c1", 1 << 60, 0, 1, RequestVote(999, 999, 999))
    assert not replica.receive(encode_envelope(vote))
    assert replica.term < 999
