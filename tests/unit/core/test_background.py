"""Steps in the background of a job, and waits for them."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidDefinition
from support.corekit import Kit, finish
from support.plans import Spec, group, job, plan, task


def started(*steps: Spec) -> Kit:
    kit = Kit()
    kit.start(plan(job("j", task("up"), *steps)))
    kit.complete("j/up")
    return kit


def wait_for(name: str, *ids: str) -> Spec:
    return group(name, needs=ids)


def test_the_next_step_does_not_wait_for_it() -> None:
    kit = started(task("bg", background=True), task("a"), task("b"))
    assert kit.dispatched() == ["j/bg", "j/a"]
    kit.complete("j/a")
    assert kit.dispatched() == ["j/bg", "j/b"]


def test_the_job_waits_for_it() -> None:
    kit = started(task("bg", background=True), task("a"))
    kit.complete("j/a")
    assert kit.status("j") == "RUNNING"
    kit.complete("j/bg")
    assert kit.state() == "COMPLETED"


def test_its_failure_fails_the_job_and_not_the_steps_beside_it() -> None:
    kit = started(task("bg", background=True), task("a"), task("b"))
    kit.fail("j/bg")
    kit.complete("j/a")
    kit.complete("j/b")
    assert kit.state() == "FAILED"


def test_a_wait_holds_what_is_behind_it() -> None:
    kit = started(
        task("one", background=True), task("two", background=True), wait_for("w", "one"), task("a")
    )
    assert kit.dispatched() == ["j/one", "j/two"]
    kit.kill(snapshot=True)
    kit.complete("j/one")
    assert kit.dispatched() == ["j/two", "j/a"]
    assert finish(kit) == "COMPLETED"


def test_behind_a_wait_for_one_that_failed_only_what_asks_for_it_runs() -> None:
    kit = started(
        task("bg", background=True),
        wait_for("w", "bg"),
        task("a"),
        task("rescue", condition="failure()"),
    )
    kit.fail("j/bg")
    assert kit.status("j/a") == "SKIPPED"
    assert kit.dispatched() == ["j/rescue"]
    kit.complete("j/rescue")
    assert kit.state() == "FAILED"


def test_a_failure_before_it_is_waited_for_too() -> None:
    kit = started(task("bg", background=True), task("a"), wait_for("w", "bg"), task("b"))
    kit.fail("j/a")
    assert kit.status("j/w") == "PENDING"
    kit.complete("j/bg")
    assert kit.status("j/b") == "SKIPPED"
    assert kit.state() == "FAILED"


def test_a_cancel_stops_it() -> None:
    kit = started(task("bg", background=True), task("a"))
    kit.cancel()
    kit.cancelled("j/bg")
    kit.cancelled("j/a")
    assert kit.state() == "CANCELLED"


def test_a_job_that_begins_anew_begins_it_anew() -> None:
    kit = started(task("bg", background=True), wait_for("w", "bg"), task("a"))
    kit.complete("j/bg")
    kit.lose_worker("w")
    assert kit.dispatched() == ["j/up"]
    kit.complete("j/up")
    assert kit.dispatched() == ["j/bg"]
    assert finish(kit) == "COMPLETED"


def test_a_sequence_needs_what_is_before_it() -> None:
    with pytest.raises(InvalidDefinition, match="it must need the node before it"):
        plan(job("j", task("a"), task("b"), task("c", needs=["a"])))
