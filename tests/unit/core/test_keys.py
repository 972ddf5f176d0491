"""Concurrency keys: of runs and of jobs, in one shard and across two."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import OutMessage
from support.core_pair import Pair
from support.corekit import Kit, finish
from support.plans import group, job, key, plan, sleep, task


def keyed(**options: object) -> object:
    return plan(task("a"), concurrency=key("deploy", **options))


# --- runs, one shard ---------------------------------------------------------------------------


def test_the_second_run_waits_for_the_first() -> None:
    kit = Kit()
    digest = kit.store(keyed())
    kit.start(digest, "one")
    kit.start(digest, "two")
    assert (kit.state("one"), kit.state("two")) == ("RUNNING", "PENDING")
    assert kit.explain("two").summary == "waits for concurrency key deploy, held by default/one"
    assert kit.view("two").conditions == ["WAITING"]
    kit.complete("a", run="one")
    assert kit.state("two") == "RUNNING"
    kit.complete("a", run="two")
    assert kit.machine.state.keys == {}
    assert kit.machine.state.outbox == {}


@pytest.mark.parametrize("how", ["fail", "cancel", "timeout"])
def test_however_a_holder_ends_it_frees_the_key(how: str) -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), concurrency=key("k"), timeout_ms=5_000))
    kit.start(digest, "one")
    kit.start(digest, "two")
    if how == "fail":
        kit.fail("a", run="one")
    else:
        if how == "cancel":
            kit.cancel("one")
        else:
            kit.advance(5_000)
        assert kit.state("two") == "PENDING", "the first one's step is not dead yet"
        kit.cancelled("a", run="one")
    assert kit.state("two") == "RUNNING"


def test_a_limit_of_two() -> None:
    kit = Kit()
    digest = kit.store(keyed(limit=2))
    for name in "abc":
        kit.start(digest, name)
    assert [kit.state(name) for name in "abc"] == ["RUNNING", "RUNNING", "PENDING"]
    kit.complete("a", run="b")
    assert kit.state("c") == "RUNNING"


def test_waiters_are_served_in_order() -> None:
    kit = Kit()
    digest = kit.store(keyed())
    for name in "abcd":
        kit.start(digest, name)
    kit.cancel("b")
    order = []
    for _ in range(3):
        (name,) = [n for n in "abcd" if kit.state(n) == "RUNNING"]
        order.append(name)
        kit.kill(snapshot=True)
        kit.complete("a", run=name)
    assert order == ["a", "c", "d"]


def test_cancel_in_progress() -> None:
    kit = Kit()
    digest = kit.store(keyed(cancel_in_progress=True))
    kit.start(digest, "one")
    kit.start(digest, "two")
    assert kit.run("one").cancelling
    assert kit.state("two") == "PENDING"
    kit.cancelled("a", run="one")
    assert kit.state("one") == "CANCELLED"
    assert "cancelled by a newer run in concurrency group deploy" in kit.run("one").ended_reason
    assert kit.state("two") == "RUNNING"


def test_queue_single_keeps_the_newest_waiter() -> None:
    kit = Kit()
    digest = kit.store(keyed(queue="single"))
    for name in "abc":
        kit.start(digest, name)
    assert [kit.state(name) for name in "abc"] == ["RUNNING", "CANCELLED", "PENDING"]
    assert "replaced by a newer run" in kit.run("b").ended_reason
    kit.complete("a", run="a")
    assert kit.state("c") == "RUNNING"


def test_a_key_may_be_an_expression_and_belongs_to_its_namespace() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), concurrency=key("env-${{ inputs.env }}")))
    kit.start(digest, "p", input={"env": "prod"})
    kit.start(digest, "t", input={"env": "test"})
    assert set(kit.machine.state.keys) == {"default/env-prod", "default/env-test"}


def test_a_key_that_cannot_be_evaluated_or_is_too_long_refuses_the_submit() -> None:
    kit = Kit()
    assert kit.submit(plan(task("a"), concurrency=key("${{ foo.bar }}"))).code
    reply = kit.submit(plan(task("a"), concurrency=key("${{ inputs.x }}")), input={"x": "y" * 600})
    assert "characters" in reply.message
    assert kit.machine.state.runs == {}


# --- jobs, one shard ---------------------------------------------------------------------------


def two_jobs(**options: object) -> object:
    return plan(
        job("j", task("a"), task("b"), concurrency=key("db", **options)),
        job("k", task("a"), concurrency=key("db", **options)),
    )


def test_jobs_of_one_run_take_turns() -> None:
    kit = Kit()
    kit.start(two_jobs())
    assert kit.statuses() == {
        "j": "RUNNING",
        "j/a": "DISPATCHED",
        "j/b": "PENDING",
        "k": "WAITING",
        "k/a": "PENDING",
    }
    assert "held by default/r#1" in kit.explain().reasons[1].reason
    kit.complete("j/a")
    kit.kill(snapshot=True)
    kit.complete("j/b")
    assert kit.dispatched() == ["k/a"]
    kit.complete("k/a")
    assert kit.machine.state.keys == {}


def test_a_jobs_restart_keeps_its_key() -> None:
    kit = Kit()
    kit.start(two_jobs())
    kit.complete("j/a")
    kit.lose_worker("w")
    assert kit.status("k") == "WAITING"
    assert finish(kit) == "COMPLETED"


@pytest.mark.parametrize("how", ["cancel", "timeout of what is around it"])
def test_a_job_that_ends_while_it_waits_leaves_the_line(how: str) -> None:
    kit = Kit()
    inner = job("k", task("a"), concurrency=key("db"))
    kit.start(
        plan(
            job("j", task("a"), concurrency=key("db")),
            group("g", inner, timeout_ms=1_000, continue_on_error=True),
        )
    )
    if how == "cancel":
        kit.cancel()
    else:
        kit.advance(1_000)
    assert kit.status("g/k") == "CANCELLED"
    (record,) = kit.machine.state.keys.values()
    assert list(record.waiters) == []
    kit.cancelled("j/a") if how == "cancel" else kit.complete("j/a")
    assert kit.machine.state.keys == {}


def test_a_newer_job_cancels_the_older_job_and_not_its_run() -> None:
    kit = Kit()
    found = plan(
        job("j", task("a"), concurrency=key("db", cancel_in_progress=True)),
        task("other"),
    )
    digest = kit.store(found)
    kit.start(digest, "one")
    kit.start(digest, "two")
    assert kit.status("j", "one") == "CANCELLED"
    assert not kit.run("one").cancelling
    assert sorted(kit.dispatched("one")) == ["j/a", "other"]
    kit.complete("other", run="one")
    kit.cancelled("j/a", run="one")
    assert kit.state("one") == "CANCELLED"
    assert "concurrency group db" in kit.run("one").ended_reason
    assert sorted(kit.dispatched("two")) == ["j/a", "other"]


def test_a_job_that_has_ended_is_not_preempted_any_more() -> None:
    """The message of the key's home may be late: the run goes on."""
    kit = Kit()
    kit.start(plan(job("j", task("a"), concurrency=key("db")), sleep("s", 10_000)))
    (holder,) = next(iter(kit.machine.state.keys.values())).holders
    kit.complete("j/a")
    late = OutMessage("#1", "preempt", ["default/db", holder])
    kit.tick(lambda m: m.deliver("late", late))
    assert kit.status("j") == "COMPLETED"
    assert kit.state() == "RUNNING"


def test_a_group_that_cannot_begin_gives_its_key_back() -> None:
    kit = Kit()
    kit.start(
        plan(
            job("j", task("a"), concurrency=key("db"), timeout_ms="${{ foo.bar }}"),
            job("k", task("a"), concurrency=key("db"), needs=["j"], condition="always()"),
        )
    )
    assert kit.status("j") == "FAILED"
    assert kit.dispatched() == ["k/a"]


def test_a_job_does_not_wait_for_what_is_around_it() -> None:
    kit = Kit()
    inner = job("j", task("a"), concurrency=key("k"))
    kit.start(plan(inner, concurrency=key("k")), "one")
    assert kit.state("one") == "FAILED"
    assert "deadlock" in kit.run("one").ended_reason
    kit.start(plan(group("g", inner, concurrency=key("k"))), "two")
    assert kit.state("two") == "FAILED"
    assert kit.machine.state.keys == {}


# --- two shards --------------------------------------------------------------------------------


def test_a_key_of_another_shard() -> None:
    """Runs live in shard 1, the key in shard 2."""
    pair = Pair()
    kit = pair.kits[1]
    digest = kit.store(plan(task("a"), concurrency=key("k2")))
    kit.start(digest, "one")
    kit.start(digest, "two")
    assert kit.state("one") == "PENDING"
    pair.calm()
    assert (kit.state("one"), kit.state("two")) == ("RUNNING", "PENDING")
    assert "waits for concurrency key k2" in kit.explain("two").summary
    kit.complete("a", run="one")
    pair.calm()
    assert kit.state("two") == "RUNNING"
    assert pair.holders("k2") == {"default/two"}
    kit.complete("a", run="two")
    pair.calm()
    assert pair.kits[2].machine.state.keys == {}


def test_both_owners_die_between_a_holders_end_and_its_release() -> None:
    """The end and the intent to release are one entry: the key is free afterwards."""
    pair = Pair()
    kit = pair.kits[1]
    digest = kit.store(plan(task("a"), concurrency=key("k2")))
    kit.start(digest, "one")
    pair.calm()
    kit.complete("a", run="one")
    pair.wire.clear()
    kit.outgoing.clear()
    assert pair.holders("k2") == {"default/one"}, "the release was never sent"
    pair.kill(1)
    assert [letter.message for letter in pair.wire] == ["release:default/k2:default/one"]
    pair.kill(2)
    pair.calm()
    assert pair.holders("k2") == set()
    kit.start(digest, "two")
    pair.calm()
    assert kit.state("two") == "RUNNING"


def test_a_grant_for_a_run_that_was_cancelled_meanwhile_is_given_back() -> None:
    pair = Pair()
    kit = pair.kits[1]
    kit.start(plan(task("a"), concurrency=key("k2")), "one")
    pair.collect()
    pair.deliver(0)
    kit.cancel("one")
    assert kit.state("one") == "CANCELLED"
    pair.calm()
    assert pair.holders("k2") == set()


def test_a_request_that_comes_behind_its_own_release_gets_nothing() -> None:
    """A doubled message of a run that has ended must not cancel the one that holds the key."""
    pair = Pair()
    kit = pair.kits[1]
    digest = kit.store(plan(task("a"), concurrency=key("k2", cancel_in_progress=True)))
    kit.start(digest, "one")
    pair.collect()
    doubled = pair.wire[0]
    pair.calm()
    kit.complete("a", run="one")
    pair.calm()
    kit.start(digest, "two")
    pair.calm()
    pair.wire.append(doubled)
    pair.calm()
    assert pair.holders("k2") == {"default/two"}
    assert not kit.run("two").cancelling


def test_a_release_overtakes_the_request() -> None:
    pair = Pair()
    kit = pair.kits[1]
    kit.start(plan(task("a"), concurrency=key("k2")), "one")
    pair.collect()
    (late,) = pair.wire
    pair.wire.clear()
    kit.cancel("one")
    pair.calm()
    pair.wire.append(late)
    pair.calm()
    assert pair.kits[2].machine.state.keys == {}
