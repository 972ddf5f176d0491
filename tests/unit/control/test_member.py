import pytest

from headrace.coordinator.control.heartbeat import decode_heartbeat, encode_heartbeat
from headrace.coordinator.control.machine import DrainCoordinator
from headrace.coordinator.control.member import Cadence
from headrace.errors import InvalidConfig
from support.control_world import World

THREE = ("c0", "c1", "c2")
FIVE = (*THREE, "c3", "c4")


@pytest.fixture
def world():
    with World(3, shards=range(6)) as made:
        yield made


def settled(world, *ids):
    world.start_all(*(ids or THREE))
    assert world.run_until(world.converged, within_s=10)
    world.run(1)
    return world


def owners(world):
    """{shard: coordinators that think they own it}"""
    result = {shard: [] for shard in world.shards}
    for node in world.alive():
        for shard in node.member.owned:
            result[shard].append(node.id)
    return result


def each_shard_has_one_owner(world):
    return all(len(names) == 1 for names in owners(world).values())


def test_one_coordinator_owns_all_at_once(world):
    node = world.start("c0", ["c0"])
    assert world.run_until(lambda: set(node.member.owned) == set(world.shards), within_s=0.5)
    assert node.member.is_controller
    assert node.assignments == [(node.member.owned, frozenset())]


def test_three_agree_on_one_controller_and_on_every_owner(world):
    settled(world)
    assert len(world.controllers()) == 1
    assert each_shard_has_one_owner(world)
    assert {len(node.member.owned) for node in world.alive()} == {2}
    standbys = [shard for node in world.alive() for shard in node.member.standby]
    assert sorted(standbys) == list(world.shards)
    assert all(not node.member.standby & node.member.owned.keys() for node in world.alive())


@pytest.mark.parametrize("which", ["controller", "other"])
def test_a_killed_coordinators_shards_move_within_a_second(world, which):
    settled(world)
    controller = world.controllers()[0]
    lost = controller if which == "controller" else next(n for n in THREE if n != controller)
    standbys = {s: held.standby for s, held in world.nodes[lost].member.view.shards.items()}
    moving = list(world.nodes[lost].member.owned)
    world.kill(lost)
    assert world.run_until(lambda: each_shard_has_one_owner(world), within_s=1.0)
    for shard in moving:
        assert owners(world)[shard] == [standbys[shard]]


def test_a_goodbye_moves_shards_at_once(world):
    settled(world)
    other = next(name for name in THREE if name not in world.controllers())
    world.stop(other)
    assert world.run_until(lambda: each_shard_has_one_owner(world), within_s=0.25)


def test_who_comes_back_gets_its_share_a_few_at_a_time(world):
    settled(world)
    world.kill("c1")
    world.run(3)
    node = world.start("c1", THREE)
    assert world.run_until(lambda: len(node.member.owned) == 2, within_s=20)
    assert world.converged()
    changes = [len(owned) for owned, _ in node.assignments]
    assert changes == sorted(changes)


def test_draining_by_itself_and_by_command(world):
    settled(world)
    node = world.nodes["c1"]
    node.member.draining = True
    assert world.run_until(lambda: not node.member.owned, within_s=1)
    assert world.run_until(lambda: each_shard_has_one_owner(world), within_s=0.1)
    world.nodes["c2"].member.propose(DrainCoordinator("c0"))
    assert world.run_until(lambda: not world.nodes["c0"].member.owned, within_s=1)
    assert set(world.nodes["c2"].member.owned) == set(world.shards)
    world.run(10)
    assert set(world.nodes["c2"].member.owned) == set(world.shards)
    assert world.nodes["c0"].member.view.coordinators["c0"].status == "draining"


def test_a_frozen_coordinator_loses_its_shards_and_knows_it_on_waking(world):
    settled(world)
    frozen = world.controllers()[0]
    world.freeze(frozen)
    world.run(3)
    others = [name for name in THREE if name != frozen]
    assert {owner for shard in world.shards for owner in owners(world)[shard]} >= set(others)
    terms = {world.nodes[name].member.replica.term for name in others}
    world.thaw(frozen)
    assert world.run_until(lambda: world.converged(THREE), within_s=2)
    assert {world.nodes[name].member.replica.term for name in THREE} == terms  # no new election
    assert len(world.controllers()) == 1


def test_a_broker_outage_moves_nothing(world):
    settled(world)
    before = owners(world)
    notices = {node.id: len(node.assignments) for node in world.alive()}
    world.broker_up = False
    world.run(20)
    assert owners(world) == before
    world.broker_up = True
    assert world.run_until(lambda: world.converged() and world.controllers() != [], within_s=3)
    world.run(2)
    assert owners(world) == before
    assert {node.id: len(node.assignments) for node in world.alive()} == notices
    assert all(not node.member.rebuilds for node in world.alive())


@pytest.mark.parametrize("deaf", ["frozen", "cut off"])
def test_silence_counts_anew_after_we_were_deaf(world, deaf):
    settled(world)
    node = world.nodes["c0"]
    tables = (node.member.coordinators, node.member.workers)
    if deaf == "frozen":
        world.freeze("c0")
        world.run(3)
        world.thaw("c0")
    else:
        node.up = False
        world.run(3)
        node.up = True
        world.run(0.05)
    now_s = world.clock.monotonic()
    assert all(now_s - table.listening_since_s < 0.1 for table in tables)


def test_one_that_is_cut_off_keeps_its_view_and_the_others_go_on(world):
    settled(world)
    lone = world.nodes[world.controllers()[0]]
    owned = dict(lone.member.owned)
    lone.up = False
    world.run(5)
    assert not lone.member.is_controller
    assert lone.member.owned == owned  # fenced in the logs, if need be
    rest = [name for name in THREE if name != lone.id]
    assert len([name for name in rest if world.nodes[name].member.is_controller]) == 1
    lone.up = True
    assert world.run_until(world.converged, within_s=3)


def test_after_a_restart_of_all_claims_keep_most_where_it_was(world):
    settled(world)
    before = owners(world)
    generation = max(held.generation for held in world.nodes["c0"].member.view.shards.values())
    for name in THREE[:2]:
        world.kill(name)
    for name in THREE[:2]:
        world.start(name, THREE)
    assert world.run_until(world.converged, within_s=10)
    kept = [shard for shard, names in before.items() if names == ["c2"]]
    assert all(owners(world)[shard] == ["c2"] for shard in kept)
    for name in THREE:
        world.kill(name)
    world.start_all(*THREE)
    assert world.run_until(world.converged, within_s=10)
    assert all(
        held.generation > generation for held in world.nodes["c0"].member.view.shards.values()
    )


def test_replicas_that_all_forgot_start_from_what_was_shown(world):
    settled(world)
    world.nodes["c0"].member.propose(DrainCoordinator("c1"))
    world.run(1)
    shards = world.nodes["c0"].member.view.shards
    notices = [len(node.assignments) for node in world.alive()]
    for node in world.alive():
        node.member.rebuild("test")
    world.run(4)
    assert len(world.controllers()) == 1
    for node in world.alive():
        assert node.member.replica.index < 15  # a new log
        assert node.member.view.shards == shards
        assert node.member.view.coordinators["c1"].drain_asked  # no heartbeat tells this
    assert [len(node.assignments) for node in world.alive()] == notices


def test_the_view_that_is_shown_never_goes_back_to_the_past(world):
    settled(world)
    node = world.nodes[next(name for name in THREE if name not in world.controllers())]
    notices = len(node.assignments)
    number = node.member.view.number
    node.member.rebuild("test")
    world.run(5)
    assert node.member.view.number > number
    assert len(node.assignments) == notices


def test_shards_leave_coordinators_that_know_too_little(world):
    for name in THREE:
        world.start(name, THREE, feature_level=int(name == "c2"))
    assert world.run_until(world.converged, within_s=10)
    for node in world.alive():
        node.member.require_feature_level(1)
    assert world.run_until(
        lambda: set(world.nodes["c2"].member.owned) == set(world.shards), within_s=1
    )


def test_a_stray_replica_is_healed(world):
    settled(world)
    node = world.nodes[next(name for name in THREE if name not in world.controllers())]
    node.member._host.state.shards.clear()
    node.member._host.state.coordinators.clear()
    world.run(2.5)
    assert world.converged()
    assert not node.member.rebuilds


def test_a_stuck_replica_is_replaced(world):
    settled(world)
    node = world.nodes[next(name for name in THREE if name not in world.controllers())]
    node.member.replica.glue.deliver = lambda *_: None  # hears, and does nothing with it
    assert world.run_until(lambda: bool(node.member.rebuilds), within_s=6)
    assert node.member.rebuilds == {"stuck": 1}
    assert world.run_until(world.converged, within_s=3)


def test_without_a_majority_nobody_is_replaced(world):
    settled(world)
    for name in ("c0", "c1"):
        world.kill(name)
    world.run(30)
    assert not world.nodes["c2"].member.rebuilds
    assert world.controllers() == []


def test_workers_are_registered_and_expire(world):
    settled(world)
    for _ in range(4):
        world.worker("w1", free=0)
        world.run(0.5)
    view = world.nodes["c0"].member.view
    assert view.workers["w1"].status == "busy"
    world.run(4)
    assert world.nodes["c0"].member.view.workers["w1"].status == "offline"


def test_many_workers_arrive_in_commits_that_fit(world):
    settled(world)
    for number in range(1500):
        world.worker(
            f"w{number}", capabilities=[f"{number}-{'x' * 300}-{part}" for part in range(3)]
        )
    world.run(2.8)
    assert len(world.nodes["c0"].member.view.workers) == 1500
    assert world.converged()


def test_heartbeats_tell_what_the_view_says(world):
    beats = {}

    def note(subject, payload):
        if subject.startswith("headrace.hb.coordinator."):
            beat = decode_heartbeat(payload)
            beats[beat.id] = beat

    world.on_message = note
    settled(world)
    assert {name for name, beat in beats.items() if beat.controller} == set(world.controllers())
    assert {shard for beat in beats.values() for shard in beat.owned} == set(world.shards)
    assert len({beat.view_hash for beat in beats.values()}) == 1
    assert len({beat.term for beat in beats.values()}) == 1


def test_heartbeats_under_a_wrong_name_are_not_heard(world):
    node = world.start("c0", ["c0"])
    world.run(0.1)
    own = node.member.coordinators.get("c0").beat
    node.member.hear_coordinator("headrace.hb.coordinator.c7", encode_heartbeat(own))
    node.member.hear_coordinator("headrace.hb.coordinator.c7", b"\xc1")
    assert node.member.coordinators.get("c7") is None


def rolling(world, start, restart, stop, peers):
    """The documented way: new ones first, then the others one by one, then stop the rest.

    Returns the longest time that some shard was without exactly one owner.
    """
    longest, since = 0.0, None

    def watch():
        nonlocal longest, since
        if each_shard_has_one_owner(world):
            since = None
        else:
            since = world.now_s if since is None else since
            longest = max(longest, world.now_s - since)
        return False

    for name in start:
        world.start(name, peers)
        world.run_until(watch, within_s=4)
    for name in restart:
        world.stop(name)
        world.run_until(watch, within_s=1)
        world.start(name, peers)
        world.run_until(watch, within_s=6)
    for name in stop:
        world.stop(name)
        world.run_until(watch, within_s=2)
    assert world.run_until(lambda: world.converged(peers), within_s=20)
    world.run(15)
    assert world.converged(peers)
    assert len(world.controllers()) == 1
    counts = [len(world.nodes[name].member.owned) for name in peers]
    assert max(counts) - min(counts) <= 1
    return longest


@pytest.mark.parametrize("seed", range(6))
def test_one_to_three_to_five_to_three_to_one(seed):
    with World(seed, shards=range(6)) as world:
        settled(world, "c0")
        waits = [
            rolling(world, ["c1", "c2"], ["c0"], [], THREE),
            rolling(world, ["c3", "c4"], ["c0", "c1", "c2"], [], FIVE),
            rolling(world, [], ["c2", "c1", "c0"], ["c4", "c3"], THREE),
            rolling(world, [], ["c0"], ["c2", "c1"], ["c0"]),
        ]
        assert set(world.nodes["c0"].member.view.coordinators) == {"c0"}
        assert max(waits) < 3.5, waits


def test_a_minority_list_with_a_controller_owns_nothing(world):
    settled(world)
    lone = world.start("c9", ["c9"])
    world.run(5)
    assert lone.member.replica.is_leader
    assert not lone.member.is_controller
    assert lone.member.owned == {}
    assert world.converged(THREE)
    for name in THREE:
        world.kill(name)
    assert world.run_until(lambda: set(lone.member.owned) == set(world.shards), within_s=5)


@pytest.mark.parametrize("peers", [[], ["c1"], ["c0", "a b"], ["c0", ""]])
def test_a_wrong_list_of_peers_is_refused(world, peers):
    with pytest.raises(InvalidConfig):
        world.start("c0", peers)


def test_a_callback_that_fails_stops_nothing(world, caplog):
    node = world.start("c0", ["c0"])

    def boom(*_):
        raise RuntimeError("x")

    node.member._on_assignments = boom
    world.run(1)
    assert set(node.member.owned) == set(world.shards)
    assert "assignment callback failed" in caplog.text


def test_idle_traffic_is_small(world):
    world.cadence = Cadence()
    settled(world)
    sent = []
    world.on_message = lambda _, payload: sent.append(len(payload))
    world.run(10)
    assert len(sent) / 10 < 130
    assert sum(sent) / 10 < 30_000


def test_alone_and_at_rest_it_wakes_for_heartbeats_only(world):
    node = world.start("c0", ["c0"])
    assert world.run_until(lambda: set(node.member.owned) == set(world.shards), within_s=0.5)
    world.run(1)
    ticks, tick = [], node.member.tick
    node.member.tick = lambda: (ticks.append(world.now_s), tick())
    beats = []
    world.on_message = lambda subject, _: beats.append(subject)
    world.run(10)
    assert len(ticks) <= 10 / Cadence().heartbeat_s
    assert len(beats) > 0.9 * len(ticks)
    # Something to do: it is done as soon as ever.
    node.member.expected = frozenset(range(20))
    assert world.run_until(lambda: len(node.member.owned) == 20, within_s=0.5)
    ticks.clear()
    world.run(10)
    assert len(ticks) <= 10 / Cadence().heartbeat_s
