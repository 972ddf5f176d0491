"""Rate limits: starts of steps, jobs and runs, by key."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core.key_record import COOLING_STEPS, KeyRecord
from headrace.coordinator.core.keys import AUDIT_MS
from support.core_pair import Pair
from support.corekit import NAMESPACE, START_MS, Kit, finish
from support.plans import group, job, key, lock, loop, plan, rate, retry, task

MINUTE_MS = 60_000


def limited(limit: int = 2, per_ms: int = MINUTE_MS, **options: Any) -> Any:
    return plan(task("a", rate_limit=rate("api", limit, per_ms, **options)))


def started(kit: Kit, runs: int) -> list[str]:
    return [f"r{i}" for i in range(runs) if kit.run(f"r{i}").attempt[1]]


def test_steps_begin_as_the_limit_lets_them() -> None:
    kit = Kit()
    digest = kit.store(limited())
    for i in range(5):
        kit.start(digest, f"r{i}")
        kit.advance(1_000)
    assert started(kit, 5) == ["r0", "r1"]
    # A minute after the first one, not after its end, and not for all of them at once.
    assert kit.explain("r2").reasons[0].deadline_ms == START_MS + MINUTE_MS
    assert kit.explain("r2").summary == (
        "a: waits for rate limit api (2 per 60 s; 2 have begun in that time), 55.0 s more"
    )
    assert "1 before it" in kit.explain("r3").summary
    assert kit.explain("r3").reasons[0].deadline_ms == START_MS + MINUTE_MS + 1_000
    kit.advance(54_999)
    assert started(kit, 5) == ["r0", "r1"]
    kit.advance(1)
    assert started(kit, 5) == ["r0", "r1", "r2"]
    kit.advance(1_000)
    assert started(kit, 5) == ["r0", "r1", "r2", "r3"]
    kit.advance(2 * MINUTE_MS)
    assert started(kit, 5) == ["r0", "r1", "r2", "r3", "r4"]


def test_a_limit_that_became_lower_is_waited_for_and_looked_at_once() -> None:
    kit = Kit()
    for i in range(2):
        kit.start(kit.store(limited(2)), f"r{i}")
        kit.advance(1_000)
    lower = kit.store(limited(1))
    for i in range(2, 12):
        kit.start(lower, f"r{i}")
    assert kit.explain("r2").reasons[0].deadline_ms == START_MS + MINUTE_MS + 1_000
    # The first place is free; with the lower limit that is not enough, and nothing is due now.
    kit.advance(MINUTE_MS - 2_000)
    assert started(kit, 12) == ["r0", "r1"]
    assert kit.machine.timers.next_ms() == START_MS + MINUTE_MS + 1_000
    # One timer for those who wait, however many they are (and one for the audit).
    assert len(kit.machine.timers) == 2
    kit.advance(1_000)
    assert started(kit, 12) == ["r0", "r1", "r2"]


def test_a_place_that_is_free_again_is_not_looked_at_while_another_is_held() -> None:
    record = KeyRecord(2)
    record.per_ms, record.holders = MINUTE_MS, {"r1#1.1": 0}
    record.started(START_MS)
    assert record.next_ms(START_MS) == START_MS + MINUTE_MS
    assert record.next_ms(START_MS + MINUTE_MS) == 0

    kit = Kit()
    digest = kit.store(limited(2))
    kit.start(digest, "r0")
    kit.credit = 0
    kit.start(digest, "r1")  # it may begin, and waits for a worker
    kit.advance(2 * MINUTE_MS)
    assert started(kit, 2) == ["r0"]
    kit.credit = 10
    kit.tick()
    assert started(kit, 2) == ["r0", "r1"]
    kit.advance(MINUTE_MS)
    assert kit.machine.state.keys == {}, "it was armed again, and is forgotten"


def test_what_a_snapshot_takes_does_not_change_with_the_state() -> None:
    record = KeyRecord(2)
    record.per_ms = MINUTE_MS
    record.started(START_MS)
    taken = record.rest()
    record.started(START_MS)  # counted in the same place
    record.cool(START_MS + MINUTE_MS)
    assert taken[2] == [[START_MS + MINUTE_MS, 1]]


def test_a_limit_that_nobody_uses_is_forgotten() -> None:
    kit = Kit()
    kit.start(limited())
    kit.complete("a")
    assert list(kit.machine.state.keys) == [f"rate:{NAMESPACE}/api"]
    kit.advance(MINUTE_MS - 1)
    assert kit.machine.state.keys
    kit.advance(1)
    assert kit.machine.state.keys == {}
    assert kit.machine.state.outbox == {}


def test_who_waits_for_a_worker_has_not_begun() -> None:
    kit = Kit(credit=0)
    digest = kit.store(limited(1))
    kit.start(digest, "r0")
    kit.start(digest, "r1")
    kit.advance(10 * MINUTE_MS)
    kit.credit = 10
    kit.tick()
    assert started(kit, 2) == ["r0"]
    kit.advance(MINUTE_MS - 1)
    assert started(kit, 2) == ["r0"], "counted from when it began, not from when it might have"
    kit.advance(1)
    assert started(kit, 2) == ["r0", "r1"]


def test_who_is_cancelled_while_it_waits_costs_nothing() -> None:
    kit = Kit()
    digest = kit.store(limited(1))
    for i in range(3):
        kit.start(digest, f"r{i}")
    kit.cancel("r1")
    kit.advance(MINUTE_MS)
    assert started(kit, 3) == ["r0", "r2"]


def test_every_attempt_counts() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(3), rate_limit=rate("api", 1, MINUTE_MS))))
    kit.fail("a")
    kit.advance(1_000)
    assert kit.status("a") == "WAITING"
    assert kit.dispatched() == []
    kit.advance(MINUTE_MS - 1_000)
    assert kit.task("a").attempt == 2
    assert finish(kit) == "COMPLETED"


def test_keys_are_told_apart() -> None:
    kit = Kit()
    found = plan(
        loop("l", task("a", rate_limit=rate("api-${{ item }}", 1, MINUTE_MS)), ["x", "y", "x"])
    )
    kit.start(found)
    assert kit.dispatched() == ["l[0]", "l[1]"]
    kit.advance(MINUTE_MS)
    assert kit.dispatched() == ["l[0]", "l[1]", "l[2]"]


def test_a_lock_is_got_first() -> None:
    kit = Kit()
    both = task("a", lock=lock("db"), rate_limit=rate("api", 1, MINUTE_MS))
    kit.start(plan(both), "r0")
    kit.start(plan(both), "r1")
    assert "waits for lock db" in kit.explain("r1").summary
    kit.complete("a", run="r0")
    assert "waits for rate limit api" in kit.explain("r1").summary
    kit.advance(MINUTE_MS)
    assert kit.dispatched("r1") == ["a"]
    kit.complete("a", run="r1")
    kit.advance(MINUTE_MS)
    assert kit.machine.state.keys == {}


def test_a_lock_that_expires_meanwhile_is_got_again() -> None:
    kit = Kit()
    kit.start(limited(1), "r0")
    both = task("a", lock=lock("db", ttl_ms=10_000), rate_limit=rate("api", 1, MINUTE_MS))
    kit.start(plan(both), "r1")
    kit.start(plan(task("a", lock=lock("db"))), "r2")
    kit.advance(10_000)
    assert kit.dispatched("r2") == ["a"]
    kit.advance(MINUTE_MS)
    assert "waits for lock db" in kit.explain("r1").summary
    kit.complete("a", run="r2")
    assert kit.dispatched("r1") == ["a"]
    assert finish(kit, "r1") == "COMPLETED"


def test_jobs_count_once() -> None:
    kit = Kit()
    found = plan(job("j", task("a"), task("b"), rate_limit=rate("api", 1, MINUTE_MS)))
    kit.start(found, "r0")
    kit.start(found, "r1")
    assert kit.dispatched("r1") == []
    assert finish(kit, "r0") == "COMPLETED"
    kit.advance(MINUTE_MS)
    assert kit.dispatched("r1") == ["j/a"]


def test_starts_of_runs() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), rate_limit=rate("flow", 1, MINUTE_MS)))
    for i in range(3):
        kit.start(digest, f"r{i}")
    assert [kit.state(f"r{i}") for i in range(3)] == ["RUNNING", "PENDING", "PENDING"]
    assert kit.view("r1").conditions == ["WAITING"]
    assert "waits for rate limit flow" in kit.explain("r1").summary
    kit.cancel("r1")
    kit.kill()
    kit.advance(MINUTE_MS)
    assert [kit.state(f"r{i}") for i in range(3)] == ["RUNNING", "CANCELLED", "RUNNING"]
    assert finish(kit, "r2") == "COMPLETED"


def test_a_run_waits_for_its_group_first() -> None:
    kit = Kit()
    wanted = rate("flow", 1, MINUTE_MS)
    digest = kit.store(plan(task("a"), concurrency=key("k"), rate_limit=wanted))
    kit.start(digest, "r0")
    kit.start(digest, "r1")
    assert "waits for concurrency key k" in kit.explain("r1").summary
    assert finish(kit, "r0") == "COMPLETED"
    assert "waits for rate limit flow" in kit.explain("r1").summary
    kit.advance(MINUTE_MS)
    assert finish(kit, "r1") == "COMPLETED"


def test_the_wait_may_have_an_end() -> None:
    kit = Kit()
    kit.start(limited(1), "r0")
    kit.start(limited(1, timeout_ms=5_000), "r1")
    kit.advance(5_000)
    assert kit.run("r1").ended_reason == "a: rate-limit-timeout: rate limit api was not free"


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_keeps_what_has_begun(snapshot: bool) -> None:
    kit = Kit()
    digest = kit.store(limited())
    for i in range(4):
        kit.start(digest, f"r{i}")
    kit.advance(30_000)
    kit.kill(snapshot=snapshot)
    assert started(kit, 4) == ["r0", "r1"]
    kit.advance(29_998)
    assert started(kit, 4) == ["r0", "r1"]
    kit.kill(snapshot=snapshot)
    assert started(kit, 4) == ["r0", "r1", "r2", "r3"]


def test_across_two_shards_a_start_counts_from_when_the_home_knows() -> None:
    pair = Pair()
    found = plan(task("a", rate_limit=rate("api2", 1, MINUTE_MS)))
    pair.kits[1].start(found, "one")
    pair.kits[1].start(found, "two")
    pair.calm()
    names = ("one", "two")
    begun = [name for name in names if pair.kits[1].dispatched(name)]
    assert len(begun) == 1
    pair.kits[2].advance(MINUTE_MS)
    pair.calm()
    assert all(pair.kits[1].dispatched(name) for name in names)


def test_a_word_that_comes_twice_gives_no_place_back() -> None:
    """The word to begin, sent again, comes while the start is on its way: it is no second one."""
    pair = Pair()
    found = plan(task("a", rate_limit=rate("api2", 1, MINUTE_MS)))
    pair.kits[1].start(found, "one")
    pair.collect()
    pair.deliver(0)
    (word,) = [n for n, at in enumerate(pair.wire) if at.content and at.content.kind == "granted"]
    pair.deliver(word, keep=True)
    assert pair.kits[1].dispatched("one") == ["a"]
    (word,) = [n for n, at in enumerate(pair.wire) if at.content and at.content.kind == "granted"]
    pair.deliver(word)
    # Were a place given back, that might overtake the news of the start.
    for kind in ("release", "started"):
        for n, at in enumerate(list(pair.wire)):
            if at.content is not None and at.content.kind == kind:
                pair.deliver(n)
                break
    pair.calm()
    pair.kits[1].start(found, "two")
    pair.calm()
    assert pair.kits[1].dispatched("two") == []


def test_the_audit_frees_the_place_of_one_that_is_gone() -> None:
    kit = Kit(credit=0)
    kit.start(limited(1), "r0")
    record = kit.machine.state.keys[f"rate:{NAMESPACE}/api"]
    (holder,) = record.holders
    assert holder.startswith(f"{NAMESPACE}/r0#1.")
    kit.advance(AUDIT_MS)
    assert list(record.holders) == [holder], "it waits for a worker"


def test_what_is_kept_of_a_large_limit_is_bounded() -> None:
    record = KeyRecord(100_000)
    record.per_ms = 3_600_000
    for ms in range(0, 3_600_000, 100):
        record.started(ms)
        record.cool(ms)
    assert len(record.cooling) <= COOLING_STEPS + 1
    assert all(until_ms >= 3_600_000 for until_ms, _ in record.cooling), "none is free too early"


def test_group_inside_a_loop() -> None:
    kit = Kit()
    kit.start(plan(loop("l", group("g", task("a"), rate_limit=rate("x", 1, 1_000)), [1, 2, 3])))
    assert kit.dispatched() == ["l[0]/a"]
    kit.kill()
    kit.advance(1_000)
    assert kit.dispatched() == ["l[0]/a", "l[1]/a"]
