"""Fleet, leases and credit, as values."""

from __future__ import annotations

import msgspec
import pytest

from headrace.coordinator.dispatch import Fleet, Leases, Settings
from headrace.coordinator.dispatch.credit import WANTED_MS, Credits, Pool, tasks_a_message
from headrace.coordinator.dispatch.leases import ABSENT_MS
from headrace.messages import Held, ResultStatus, StepResult, Task, WorkerHeartbeat

LEASE = 3_000


def beat(id="w", incarnation="1", **options):
    options.setdefault("slots", 4)
    options.setdefault("capabilities", ["default"])
    return WorkerHeartbeat(
        version=1,
        id=id,
        incarnation=incarnation,
        namespace=options.pop("namespace", "default"),
        handlers=options.pop("handlers", {}),
        free=options.pop("free", options["slots"]),
        **options,
    )


def held(*steps, shard=0, attempt=1):
    return {shard: [Held("default/r", step, attempt) for step in steps]}


@pytest.fixture
def fleet():
    return Fleet(LEASE)


# -- fleet ------------------------------------------------------------------------------------


def test_a_lease_lasts_and_lapses(fleet):
    fleet.heard(beat(), 1_000)
    assert fleet.is_live("w.1", 1_000 + LEASE)
    assert not fleet.is_live("w.1", 1_001 + LEASE)
    assert fleet.expire(1_000 + LEASE) == []
    assert [record.name for record in fleet.expire(1_001 + LEASE)] == ["w.1"]
    assert fleet.workers == {}


def test_a_new_life_ends_the_old_one_at_once(fleet):
    fleet.heard(beat(started_ms=10), 1_000)
    version = fleet.version
    assert fleet.heard(beat(incarnation="2", started_ms=20), 1_100)
    assert fleet.version != version
    assert not fleet.is_live("w.1", 1_100)
    assert fleet.is_live("w.2", 1_100)
    # A straggler of the old life changes nothing.
    assert not fleet.heard(beat(started_ms=10), 1_200)
    assert not fleet.heard(beat(started_ms=10, stopped=True), 1_200)
    assert fleet.is_live("w.2", 1_200)


def test_even_a_blind_observer_knows_that_a_new_life_ended_the_old_one(fleet):
    fleet.heard(beat(started_ms=10), 1_000)
    fleet.blind_until(1_050)
    fleet.heard(beat(incarnation="2", started_ms=20), 1_100)
    assert not fleet.is_live("w.1", 1_100)


def test_a_goodbye_ends_a_life(fleet):
    fleet.heard(beat(), 1_000)
    assert fleet.heard(beat(stopped=True), 1_100)
    assert fleet.workers == {}
    assert not fleet.is_live("w.1", 1_100)


def test_a_blind_observer_loses_nobody_for_one_lease(fleet):
    fleet.heard(beat(), 1_000)
    fleet.blind_until(9_000)
    assert fleet.expire(9_000 + LEASE - 1) == []
    assert fleet.is_live("w.1", 9_000 + LEASE - 1)
    # Nor those of whom it never heard.
    assert fleet.is_live("x.1", 9_000 + LEASE - 1)
    fleet.blind_until(2_000)
    assert fleet.is_blind(9_000 + LEASE - 1)
    assert not fleet.is_live("x.1", 9_000 + LEASE)
    assert len(fleet.expire(9_000 + LEASE)) == 1


def test_who_is_able(fleet):
    fleet.heard(beat("a", capabilities=["GPU", "linux"]), 1)
    fleet.heard(beat("b", capabilities=["linux"], handlers={"Acme": {}}), 1)
    fleet.heard(beat("c", capabilities=["linux"], draining=True), 1)
    fleet.heard(beat("d", capabilities=["linux"], namespace="other"), 1)

    def able(*needed):
        return sorted(record.heartbeat.id for record in fleet.able("default", needed))

    assert able() == able("Linux") == ["a", "b"]
    assert able("gpu") == ["a"]
    assert able("uses:acme") == ["b"]
    assert able("gpu", "uses:acme") == []
    assert fleet.missing("default", ("gpu", "fpga")) == ["fpga"]


def test_what_changes_the_version(fleet):
    fleet.heard(beat(), 1)
    version = fleet.version
    fleet.heard(beat(free=0), 2)
    assert fleet.version == version
    for changed in (beat(draining=True), beat(slots=9), beat(capabilities=["x"])):
        fleet.heard(changed, 3)
        assert fleet.version > version
        version = fleet.version
    assert fleet.able("default", ("x",))


# -- leases -----------------------------------------------------------------------------------


def begin(leases, step, attempt=1, lane="l", wire_lane="l", now_ms=0):
    leases.begin("default/r", step, attempt, lane=lane, wire_lane=wire_lane, now_ms=now_ms)


def end(leases, step, *, attempt):
    """Return the lease that ended, or None."""
    nothing = msgspec.Raw(b"\x80")
    result = StepResult("default/r", step, attempt, 1, ResultStatus.COMPLETED, nothing, 1, 2)
    ended = leases.end_all([result])
    return ended[0][0] if ended else None


def test_outstanding_counts_what_is_out_and_what_is_being_logged():
    leases = Leases(0)
    leases.reserve("l", 3)
    leases.reserve("l", 2)
    leases.release("l", 3)
    assert leases.outstanding == {"l": 2}
    leases.release("l", 3)
    assert leases.outstanding == {}
    leases.release("l", 1)
    for step in (1, 2):
        begin(leases, step)
    begin(leases, 2, attempt=2)
    assert leases.outstanding == {"l": 2}
    end(leases, 2, attempt=1)
    assert leases.outstanding == {"l": 2}
    end(leases, 2, attempt=2)
    end(leases, 1, attempt=1)
    assert leases.outstanding == {}


def test_what_is_sent_together_counts_as_if_sent_one_by_one():
    leases = Leases(0)
    begin(leases, 1, lane="other")
    tasks = [Task("default/r", n, "p", 2, n, "noop", msgspec.Raw(b"\x80")) for n in (1, 2, 2)]
    leases.begin_all(tasks, lane="l", wire_lane="w", now_ms=5)
    assert leases.outstanding == {"l": 2}
    ended = end(leases, 1, attempt=2)
    assert (ended.lane, ended.wire_lane, ended.sent_ms) == ("l", "w", 5)
    assert end(leases, 1, attempt=2) is None
    assert leases.outstanding == {"l": 1}


def test_a_lost_holder_loses_its_steps_once(fleet):
    leases = Leases(0)
    for step in (1, 2, 3):
        begin(leases, step)
    fleet.heard(beat(), 0)
    leases.heard(beat(held=held(1) | {1: [Held("default/r", 2, 1)]}), 0)
    leases.heard(beat("x", held=held(3, attempt=7)), 0)
    assert leases.lapsed(fleet, LEASE) == []
    (loss,) = leases.lapsed(fleet, LEASE + 1)
    assert (loss.step, loss.attempt, loss.worker) == (1, 1, "w.1")
    assert leases.lapsed(fleet, LEASE + 1) == []
    assert leases.suspects(before_ms=1) == {"l"}


def test_steps_in_a_dead_workers_own_lane_are_lost_with_it(fleet):
    leases = Leases(0)
    begin(leases, 1, lane="@w-x", wire_lane="@w-x-1")
    fleet.heard(beat("w-x", started_ms=1), 0)
    assert leases.lapsed(fleet, 10) == []
    fleet.heard(beat("w-x", incarnation="2", started_ms=2), 20)
    assert [loss.step for loss in leases.lapsed(fleet, 20)] == [1]


def test_what_its_worker_does_not_list_any_more_is_lost(fleet):
    leases = Leases(0)
    begin(leases, 1)
    fleet.heard(beat(), 0)
    leases.heard(beat(held=held(1)), 0)
    for now_ms in (1, 2, 3, 4):
        # Several heartbeats in a moment: workers are asked for them.
        leases.heard(beat(), now_ms)
    assert leases.lapsed(fleet, 5) == []
    leases.heard(beat(), 1 + ABSENT_MS)
    (loss,) = leases.lapsed(fleet, 1 + ABSENT_MS)
    assert "does not have it" in loss.reason


def test_a_listed_step_counts_as_held_again(fleet):
    leases = Leases(0)
    begin(leases, 1)
    fleet.heard(beat(), 0)
    leases.heard(beat(held=held(1)), 0)
    for _ in range(3):
        leases.heard(beat(), 1)
    leases.heard(beat(held=held(1)), 2)
    leases.heard(beat(), 3)
    assert leases.lapsed(fleet, 2_000) == []


def test_an_adopted_step_takes_a_slot_of_the_worker_that_has_it():
    leases = Leases(0)
    for step in (1, 2):
        begin(leases, step, lane="", wire_lane="")
    leases.heard(beat(held=held(1)), 0)
    assert leases.outstanding == {"": 1, "@w": 1}
    assert [loss.step for loss in leases.unheld([""], before_ms=1, reason="")] == [2]
    end(leases, 1, attempt=1)
    assert leases.outstanding == {}


# -- credit -----------------------------------------------------------------------------------

POOL = Pool({"w": 8}, 8)


@pytest.fixture
def credits():
    return Credits(Settings(window_extra=0))


class Shards:
    """Claims on one pool: what is out, and what they want."""

    def __init__(self, credits, window, *claims):
        self.credits, self.window = credits, window
        self.out = dict.fromkeys(claims, 0)
        self.now_ms = 0
        self.woken = []

    def ask(self, claim, wanted):
        count = self.credits.grant(
            claim,
            wanted,
            self.window,
            {other: out for other, out in self.out.items() if out},
            POOL,
            lambda lane: POOL,
            now_ms=self.now_ms,
            wake=lambda: self.woken.append(claim),
        )
        self.out[claim] += min(count, wanted)
        return count


A, B, C = (0, "l"), (1, "l"), (0, "m")


def test_one_alone_takes_all_there_is(credits):
    shards = Shards(credits, 8, A)
    assert shards.ask(A, 100) == 8
    assert shards.ask(A, 100) == 0


def test_a_newcomer_gets_its_even_part_and_then_both_stay_there(credits):
    shards = Shards(credits, 8, A, B)
    shards.ask(A, 100)
    assert shards.ask(B, 100) == 4
    for _ in range(20):
        # The first one's steps end; it asks for more at once, each time.
        shards.out[A] -= 1
        shards.ask(A, 100)
        shards.ask(B, 100)
    assert shards.out == {A: 4, B: 4}


def test_what_others_do_not_want_is_for_the_taking(credits):
    shards = Shards(credits, 8, A, B)
    assert shards.ask(B, 1) == 8
    assert shards.out[B] == 1
    # It has all that it wanted: it does not count as waiting.
    assert shards.ask(A, 100) == 7


def test_lanes_of_the_same_workers_share_too(credits):
    shards = Shards(credits, 8, A, C)
    shards.ask(A, 100)
    assert shards.ask(C, 2) >= 2


def test_nobody_starves_when_more_wait_than_there_is_room_for(credits):
    claims = [(shard, "l") for shard in range(5)]
    shards = Shards(credits, 2, *claims)
    served = dict.fromkeys(claims, 0)
    for claim in claims:
        shards.ask(claim, 100)
    for round in range(200):
        shards.now_ms += 50
        # Whoever has something out ends one step, asks again at once, and is served if it may be.
        busy = next((claim for claim in claims if shards.out[claim]), None)
        if busy is not None:
            shards.out[busy] -= 1
            before = shards.out[busy]
            shards.ask(busy, 100)
            served[busy] += shards.out[busy] - before
        for claim in [*shards.woken, claims[round % 5]]:
            before = shards.out[claim]
            shards.ask(claim, 100)
            served[claim] += shards.out[claim] - before
        shards.woken.clear()
        assert sum(shards.out.values()) <= 2
    assert min(served.values()) >= 0.5 * max(served.values()) > 0


def test_who_asks_no_more_holds_nobody_up(credits):
    shards = Shards(credits, 8, A, B)
    shards.ask(A, 100)
    shards.ask(B, 100)
    shards.now_ms += WANTED_MS + 1
    shards.out = {A: 0, B: 0}
    assert shards.ask(A, 100) == 8
    shards.ask(B, 100)
    shards.out = {A: 0, B: 0}
    credits.forget(1)
    assert shards.ask(A, 100) == 8


def test_the_window_grows_for_short_steps_only(credits):
    assert credits.window("l", 4, 1.0) == 4
    rate = credits.rate("l")
    rate.add(10, 100, 5_000)
    for second in range(1, 4):
        rate.add(1_000, 1_000, 5_000 + 1_000 * second)
    assert credits.window("l", 4, 1.0) == 8
    assert credits.window("l", 4, 0.01) == 1
    assert credits.window("other", 4, 1.0) == 4


def test_a_clock_that_was_set_back_does_not_spoil_the_rate(credits):
    rate = credits.rate("l")
    rate.add(1, -10_000, 0)
    assert rate.step_ms > 0


def test_parts_of_pools():
    ab, b = Pool({"a": 6, "b": 2}, 8), Pool({"b": 2}, 2)
    assert (ab.part_in(b), b.part_in(ab), b.part_in(Pool({"c": 1}, 1))) == (0.25, 1.0, 0.0)
    assert Pool({}, 0).part_in(ab) == 0.0


@pytest.mark.parametrize(
    ("slots", "count", "step_ms", "wanted"),
    [
        ([16], 100, 1_000, 1),  # long steps: one by one
        ([16], 100, 1, 16),  # never more than the receiver has slots for
        ([16, 2], 100, 1, 2),  # whoever receives it
        ([128], 1_000, 0.0, 100),
        ([64, 64], 10, 1, 5),  # a burst is split among the workers
        ([], 10, 1, 1),
    ],
)
def test_tasks_of_one_message(slots, count, step_ms, wanted):
    assert tasks_a_message(Settings(), slots, count, step_ms) == wanted


def test_who_waits_behind_a_lane_of_its_own_shard_does_not_wake_it(credits):
    """Woken, the shard would ask again at once, and so on, and let nothing else run meanwhile."""
    woken = []
    for mine, other in ((A, C), (A, B)):
        shards = Shards(credits, 1, mine, other)
        shards.out["taken"] = 1
        shards.ask(other, 3)
        shards.now_ms, shards.out["taken"] = 1, 0
        shards.window = 1
        shards.ask(mine, 3)
        woken.append(shards.woken)
        credits = Credits(Settings(window_extra=0))
    assert woken == [[], [B]]
