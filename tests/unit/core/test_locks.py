"""Locks of steps and jobs: held while they run, lost when their time is over."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core.keys import AUDIT_MS
from headrace.events import KeyGranted, KeyLost, KeyRequested, StepFailed
from support.core_pair import Pair
from support.corekit import Kit, finish
from support.plans import group, job, key, lock, loop, plan, rate, retry, task


def locked(name: str = "db", **options: Any) -> Any:
    return plan(task("a", lock=lock(name, **options)))


def token(kit: Kit, path: str, run: str = "r") -> int:
    options = kit.task(path, run).options
    assert options is not None
    return int(options.env["HEADRACE_LOCK_TOKEN"])


# --- one shard ---------------------------------------------------------------------------------


def test_a_second_step_waits_for_the_first() -> None:
    kit = Kit()
    digest = kit.store(locked())
    kit.start(digest, "one")
    kit.start(digest, "two")
    assert kit.dispatched("one") == ["a"]
    assert kit.dispatched("two") == []
    assert kit.status("a", "two") == "WAITING"
    reason = kit.explain("two").reasons[0]
    assert reason.reason == "waits for lock db, held by one a"
    assert (reason.key, reason.path) == ("lock:default/db", "a")
    first = token(kit, "a", "one")
    kit.complete("a", run="one")
    assert kit.dispatched("two") == ["a"]
    assert token(kit, "a", "two") > first
    kit.complete("a", run="two")
    assert kit.machine.state.keys == {}
    assert kit.machine.state.outbox == {}


def test_steps_without_a_lock_know_of_none() -> None:
    kit = Kit()
    kit.start(plan(task("a", lock=lock("db")), task("b")))
    options = kit.task("b").options
    assert options is None or "HEADRACE_LOCK_TOKEN" not in options.env


@pytest.mark.parametrize("how", ["fail", "cancel", "skip", "lose", "hand_back"])
def test_however_an_attempt_ends_the_lock_is_free(how: str) -> None:
    kit = Kit()
    kit.start(plan(task("a", lock=lock("db"), schedule_timeout_ms=50_000)), "one")
    kit.start(locked(), "two")
    if how == "fail":
        kit.fail("a", run="one")
    elif how == "cancel":
        kit.cancel("one")
        assert kit.dispatched("two") == [], "the first one's step is not dead yet"
        kit.cancelled("a", run="one")
    elif how == "skip":
        task_ = kit.task("a", "one")
        assert kit.report(kit.result(task_, 4)) == []
    elif how == "lose":
        kit.lose("a", run="one")
    else:
        kit.hand_back("a", run="one")
    assert kit.dispatched("two") == ["a"]


def test_a_retry_asks_anew_behind_those_that_wait() -> None:
    kit = Kit()
    kit.start(plan(task("a", lock=lock("db"), retry=retry(3))), "one")
    kit.start(locked(), "two")
    kit.fail("a", run="one")
    assert kit.dispatched("two") == ["a"]
    kit.advance(1_000)
    assert kit.status("a", "one") == "WAITING"
    assert "held by two a" in kit.explain("one").summary
    kit.complete("a", run="two")
    assert kit.task("a", "one").attempt == 2
    kit.complete("a", run="one")
    assert kit.state("one") == "COMPLETED"


def test_a_job_holds_its_lock_until_it_ends() -> None:
    kit = Kit()
    found = plan(job("j", task("a"), task("b"), lock=lock("db")))
    kit.start(found, "one")
    kit.start(found, "two")
    first = token(kit, "j/a", "one")
    kit.complete("j/a", run="one")
    assert token(kit, "j/b", "one") == first
    assert kit.dispatched("two") == []
    assert kit.explain("two").summary == "j: waits for lock db, held by one j"
    kit.complete("j/b", run="one")
    assert kit.dispatched("two") == ["j/a"]


def test_a_job_with_a_concurrency_key_and_a_lock_waits_for_both() -> None:
    kit = Kit()
    kit.start(locked(), "one")
    kit.start(plan(job("j", task("a"), concurrency=key("k"), lock=lock("db"))), "two")
    assert kit.status("j", "two") == "WAITING"
    # Asked whether it has its key, it must not begin for that.
    kit.advance(AUDIT_MS)
    kit.advance(AUDIT_MS)
    assert kit.status("j", "two") == "WAITING"
    kit.complete("a", run="one")
    assert kit.dispatched("two") == ["j/a"]
    assert finish(kit, "two") == "COMPLETED"
    assert kit.machine.state.keys == {}


def test_what_is_inside_of_a_lock_cannot_wait_for_it() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a", lock=lock("db")), lock=lock("db"))))
    assert kit.state() == "FAILED"
    assert "j/a: deadlock: what is around it holds lock db itself" in kit.run().ended_reason
    assert kit.machine.state.keys == {}


def test_names_may_be_expressions_and_are_told_apart() -> None:
    kit = Kit()
    found = plan(loop("l", task("a", lock=lock("db-${{ item }}")), ["x", "y", "x"]))
    kit.start(found)
    assert kit.dispatched() == ["l[0]", "l[1]"]
    kit.complete("l[0]")
    assert kit.dispatched() == ["l[1]", "l[2]"]
    assert finish(kit) == "COMPLETED"


def test_a_name_that_cannot_be_evaluated_fails_the_step() -> None:
    kit = Kit()
    kit.start(plan(task("a", lock=lock("${{ fromJSON('x') }}"))))
    assert kit.state() == "FAILED"
    assert "a: expression:" in kit.run().ended_reason


def test_the_wait_may_have_an_end() -> None:
    kit = Kit()
    kit.start(locked(), "one")
    kit.start(locked(timeout_ms=60_000), "two")
    kit.advance(59_999)
    assert kit.state("two") == "RUNNING"
    assert kit.explain("two").reasons[0].deadline_ms == kit.now_ms + 1
    kit.advance(1)
    assert kit.run("two").ended_reason == "a: lock-timeout: lock db was not free"
    kit.complete("a", run="one")
    assert kit.machine.state.keys == {}


def test_a_paused_run_keeps_what_it_gets_and_asks_for_nothing() -> None:
    kit = Kit()
    kit.start(locked(), "one")
    kit.start(locked(), "two")
    kit.pause("two")
    kit.complete("a", run="one")
    assert kit.dispatched("two") == []
    kit.resume("two")
    assert kit.dispatched("two") == ["a"]


# --- time to live ------------------------------------------------------------------------------


def test_a_step_is_stopped_before_its_lock_expires() -> None:
    kit = Kit()
    kit.start(locked(ttl_ms=60_000), "one")
    options = kit.task("a", "one").options
    assert options is not None
    assert options.timeout_ms == 60_000
    kit.start(plan(task("a", lock=lock("other", ttl_ms=60_000), attempt_timeout_ms=5_000)), "two")
    options = kit.task("a", "two").options
    assert options is not None
    assert options.timeout_ms == 5_000


def test_a_lock_that_expires_goes_to_the_next() -> None:
    kit = Kit()
    kit.start(locked(ttl_ms=60_000), "one")
    kit.start(locked(), "two")
    first = token(kit, "a", "one")
    assert kit.explain("two").summary == (
        "a: waits for lock db, held by one a for at most 60.0 s more"
    )
    kit.advance(59_999)
    assert kit.dispatched("two") == []
    kit.advance(1)
    assert token(kit, "a", "two") > first
    assert [event.reason for event in kit.all_events("one", KeyLost)] == ["expired"]
    # Whoever comes late with a result is still heard: the lock is what it has lost.
    kit.complete("a", run="one")
    assert kit.state("one") == "COMPLETED"
    kit.complete("a", run="two")
    assert kit.machine.state.keys == {}


@pytest.mark.parametrize("placed", [True, False], ids=["placed", "in-line"])
def test_who_loses_its_lock_gives_up_its_place_within_a_rate_limit(placed: bool) -> None:
    kit = Kit(credit=0)
    limit = rate("api", 1, 1_000)
    if not placed:
        kit.start(plan(task("a", rate_limit=limit)), "first")
    kit.start(plan(task("a", lock=lock("db", ttl_ms=60_000), rate_limit=limit)), "one")
    kit.start(plan(task("a", lock=lock("db"), rate_limit=limit)), "two")
    kit.advance(60_000)
    # Else each of the two would have what the other one waits for.
    assert [event.rate for event in kit.all_events("one", KeyLost)] == [True]
    assert "waits for lock db, held by two a" in kit.explain("one").summary
    kit.credit = 10
    kit.tick()
    for run in ("first", "two", "one")[placed:]:
        kit.advance(1_000)
        assert kit.dispatched(run) == ["a"]
        kit.complete("a", run=run)
    kit.advance(2_000)
    assert kit.machine.state.outbox == {}
    assert not any(record.holders for record in kit.machine.state.keys.values())


def test_who_waits_for_a_worker_too_long_asks_again() -> None:
    kit = Kit(credit=0)
    kit.start(locked(ttl_ms=60_000), "one")
    kit.start(locked(), "two")
    kit.advance(60_000)
    assert kit.status("a", "one") == "WAITING"
    assert "held by two a" in kit.explain("one").summary
    kit.credit = 10
    kit.tick()
    assert kit.dispatched("two") == ["a"]
    assert kit.dispatched("one") == []
    kit.complete("a", run="two")
    assert kit.dispatched("one") == ["a"]
    assert finish(kit, "one") == "COMPLETED"


def test_a_job_fails_when_its_lock_expires() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), lock=lock("db", ttl_ms=60_000))))
    kit.advance(60_000)
    assert {order.cancel.step for order in kit.orders} == {2}
    kit.cancelled("j/a")
    assert kit.run().ended_reason == "j: lock-lost: its lock db has expired"


def test_a_lock_without_a_time_is_held_until_the_end() -> None:
    kit = Kit()
    kit.start(locked(), "one")
    kit.start(locked(), "two")
    for _ in range(10):
        kit.advance(AUDIT_MS)
    assert kit.dispatched("one") == ["a"]
    assert kit.dispatched("two") == []


# --- takeover and two shards -------------------------------------------------------------------


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_keeps_holders_waiters_and_times(snapshot: bool) -> None:
    kit = Kit()
    kit.start(locked(ttl_ms=60_000), "one")
    kit.start(locked(), "two")
    kit.start(locked(timeout_ms=90_000), "three")
    held = token(kit, "a", "one")
    kit.kill(snapshot=snapshot)
    assert kit.run("one").gates[1].token == held
    kit.advance(59_999)
    assert kit.dispatched("two") == ["a"]
    kit.kill(snapshot=snapshot)
    kit.advance(30_000)
    assert "lock-timeout" in kit.run("three").ended_reason


def test_across_two_shards() -> None:
    pair = Pair()
    for shard, run in ((1, "one"), (1, "two"), (2, "three")):
        pair.kits[shard].start(plan(task("a", lock=lock("db2"))), run)
        pair.collect()
    pair.calm()
    assert pair.kits[1].dispatched("one") == []
    assert pair.kits[2].dispatched("three") == ["a"]
    assert "waits for lock db2" in pair.kits[1].explain("one").summary
    pair.kits[2].complete("a", run="three")
    pair.calm()
    assert pair.kits[1].dispatched("one") == ["a"]
    pair.kill(1)
    pair.kill(2)
    pair.calm()
    pair.kits[1].complete("a", run="one")
    pair.calm()
    pair.kits[1].complete("a", run="two")
    pair.calm()
    assert pair.kits[2].machine.state.keys == {}


def test_one_that_expires_in_another_shard_is_told() -> None:
    pair = Pair()
    pair.kits[1].start(plan(job("j", task("a"), lock=lock("db2", ttl_ms=5_000))))
    pair.calm()
    assert pair.kits[1].dispatched() == ["j/a"]
    pair.kits[2].advance(5_000)
    pair.calm()
    pair.kits[1].cancelled("j/a")
    assert "lock-lost" in pair.kits[1].run().ended_reason
    pair.calm()
    assert pair.kits[2].machine.state.keys == {}


def test_one_that_hears_of_the_end_of_its_lock_before_it_has_it_asks_anew() -> None:
    pair = Pair()
    pair.kits[1].start(plan(task("a", lock=lock("db2", ttl_ms=5_000))))
    pair.collect()
    pair.deliver(0)
    late = next(at for at in pair.wire if at.content and at.content.kind == "granted")
    pair.wire.remove(late)
    for kit in pair.kits.values():
        kit.advance(5_000)
    pair.collect()
    pair.wire.sort(key=lambda at: at.content is None or at.content.kind != "expired")
    pair.deliver(0)
    assert [event.reason for event in pair.kits[1].all_events(kind=KeyLost)] == ["expired"]
    pair.wire.insert(0, late)
    pair.calm()
    assert pair.kits[1].dispatched() == ["a"], "with a lock that it has now"
    assert len(pair.kits[1].all_events(kind=KeyGranted)) == 1
    assert len(pair.kits[2].machine.state.keys) == 1
    pair.kits[1].complete("a")
    pair.calm()
    assert pair.kits[2].machine.state.keys == {}


def test_the_audit_frees_the_lock_of_one_that_is_gone() -> None:
    pair = Pair()
    pair.kits[1].start(plan(task("a", lock=lock("db2"))))
    pair.calm()
    pair.kits[1].complete("a")
    pair.collect()
    # The release is confirmed, and was never there.
    (letter,) = [at for at in pair.wire if at.content and at.content.kind == "release"]
    pair.wire.remove(letter)
    pair.kits[1].tick(lambda m: m.clear_outbox([letter.message]))
    pair.calm()
    assert len(pair.kits[2].machine.state.keys) == 1
    pair.kits[2].advance(AUDIT_MS)
    pair.calm()
    assert pair.kits[2].machine.state.keys == {}


def test_who_learns_of_its_lock_by_the_audit_learns_its_token() -> None:
    pair = Pair()
    pair.kits[1].start(plan(task("a", lock=lock("db2", ttl_ms=10 * AUDIT_MS))))
    pair.collect()
    (asked,) = [at for at in pair.wire if at.content and at.content.kind == "acquire"]
    pair.deliver(pair.wire.index(asked))
    pair.collect()
    # What the home says of the grant is confirmed, and was never there.
    (letter,) = [at for at in pair.wire if at.content and at.content.kind == "granted"]
    pair.wire.remove(letter)
    pair.kits[2].tick(lambda m: m.clear_outbox([letter.message]))
    pair.calm()
    assert pair.kits[1].dispatched() == []
    pair.kits[2].advance(AUDIT_MS)
    pair.calm()
    assert pair.kits[1].dispatched() == ["a"]
    (terms,) = pair.kits[2].machine.state.keys["lock:default/db2"].terms.values()
    assert token(pair.kits[1], "a") == terms.token
    (got,) = pair.kits[1].all_events(kind=KeyGranted)
    assert (got.token, got.until_ms) == (terms.token, terms.until_ms)


def test_the_history_tells_of_locks() -> None:
    kit = Kit()
    kit.start(plan(group("g", task("a"), lock=lock("db", ttl_ms=5_000))))
    (asked,) = kit.all_events(kind=KeyRequested)
    (got,) = kit.all_events(kind=KeyGranted)
    assert (asked.gate, asked.key, asked.ttl_ms) == ("lock", "lock:default/db", 5_000)
    assert (got.gate, got.until_ms) == ("lock", kit.now_ms + 5_000)
    assert not kit.all_events(kind=StepFailed)
