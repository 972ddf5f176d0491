"""Trigger rules: what must have become of a node's needs."""

from __future__ import annotations

from itertools import product

import pytest

from headrace.messages import ResultStatus
from support.corekit import Kit
from support.plans import group, plan, task

RULES = {
    "all_success": lambda ok, bad, off: not bad and not off,
    "all_done": lambda ok, bad, off: True,
    "one_success": lambda ok, bad, off: ok > 0,
    "one_failed": lambda ok, bad, off: bad > 0,
    "none_failed": lambda ok, bad, off: not bad,
    "none_failed_min_one_success": lambda ok, bad, off: not bad and ok > 0,
}


def started(rule: str, *ends: str, condition: str = "") -> Kit:
    """Return a run whose node `t` needs one task for each of *ends*; a skipped one has ended."""
    kit = Kit()
    needs = [
        task(f"n{at}", condition="false" if end == "skip" else "") for at, end in enumerate(ends)
    ]
    names = [spec.name for spec in needs]
    kit.start(plan(*needs, task("t", needs=names, trigger_rule=rule, condition=condition)))
    return kit


def end(kit: Kit, at: int, how: str) -> None:
    if how == "ok":
        kit.complete(f"n{at}")
    elif how == "bad":
        kit.fail(f"n{at}")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ends", list(product(["ok", "bad", "skip"], repeat=2)))
def test_each_rule_for_each_pair_of_ends(rule: str, ends: tuple[str, ...]) -> None:
    kit = started(rule, *ends)
    for at, how in enumerate(ends):
        end(kit, at, how)
    wanted = RULES[rule](ends.count("ok"), ends.count("bad"), ends.count("skip"))
    assert (kit.status("t") == "DISPATCHED") is wanted
    if not wanted:
        assert kit.status("t") == "SKIPPED"


@pytest.mark.parametrize(("rule", "first"), [("one_success", "ok"), ("one_failed", "bad")])
def test_one_is_enough_and_later_ends_change_nothing(rule: str, first: str) -> None:
    kit = started(rule, "x", "x", "x")
    end(kit, 1, first)
    assert "t" in kit.dispatched()
    kit.kill()
    end(kit, 0, "bad")
    kit.complete("t")
    end(kit, 2, "ok")
    assert kit.status("t") == "COMPLETED"
    assert len([event for event in kit.scheduled() if event.step == kit.instance("t")]) == 1


@pytest.mark.parametrize("rule", sorted(set(RULES) - {"one_success", "one_failed"}))
def test_the_others_wait_for_all(rule: str) -> None:
    kit = started(rule, "x", "x")
    end(kit, 0, "ok")
    assert kit.status("t") == "PENDING"


def test_who_was_skipped_because_of_a_failure_counts_as_failed() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b", needs=["a"]),
            task("c", needs=["b"], trigger_rule="one_failed"),
            task("d", needs=["b"], trigger_rule="none_failed"),
        )
    )
    kit.fail("a")
    assert kit.dispatched() == ["c"]
    assert kit.status("d") == "SKIPPED"


def test_who_succeeded_after_a_failure_did_succeed() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b", needs=["a"], condition="always()"),
            task("c", needs=["b"], trigger_rule="one_failed"),
            task("d", needs=["b"], trigger_rule="none_failed"),
        )
    )
    kit.fail("a")
    kit.complete("b")
    assert kit.dispatched() == ["d"]
    assert kit.status("c") == "SKIPPED"


def test_a_tolerated_failure_counts_as_success() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a", continue_on_error=True),
            task("b"),
            task("t", needs=["a", "b"], trigger_rule="one_success"),
        )
    )
    kit.fail("a")
    assert "t" in kit.dispatched()


def test_a_condition_comes_on_top() -> None:
    kit = started("all_done", "x", condition="tasks.n0.result == 'success'")
    end(kit, 0, "bad")
    assert kit.status("t") == "SKIPPED"


def test_a_cancelled_run_begins_nothing_by_a_rule() -> None:
    kit = started("all_done", "x")
    kit.cancel()
    kit.cancelled("n0")
    assert kit.state() == "CANCELLED"
    assert kit.status("t") == "CANCELLED"


def test_the_history_names_the_rule() -> None:
    kit = started("one_success", "x")
    end(kit, 0, "bad")
    (skipped,) = [entry for entry in kit.history() if entry.type == "StepSkipped"]
    assert skipped.data == {"reason": "rule"}


def test_two_results_in_one_tick_fire_once() -> None:
    kit = started("one_success", "x", "x")
    results = [kit.result(kit.task(f"n{at}"), ResultStatus.COMPLETED) for at in (0, 1)]
    assert kit.report(*results) == []
    assert kit.dispatched() == ["t"]
    kit.complete("t")
    assert kit.state() == "COMPLETED"


def test_groups_have_rules_too() -> None:
    kit = Kit()
    kit.start(plan(task("a"), group("g", task("x"), needs=["a"], trigger_rule="all_done")))
    kit.fail("a")
    assert kit.dispatched() == ["g/x"]
