"""Steps in order: chains, fan-out and fan-in, conditions, skips."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Refusal
from headrace.events import StepCompleted
from support.corekit import Kit, finish
from support.plans import chain, choice, group, job, plan, sleep, task, wait


def test_a_chain_runs_step_by_step() -> None:
    kit = Kit()
    kit.start(chain(3))
    assert kit.names() == ["RunCreated", "StepScheduled t0"]
    kit.complete("t0")
    assert kit.names() == ["StepCompleted t0", "StepScheduled t1"]
    kit.complete("t1")
    kit.complete("t2", {"answer": 42})
    assert kit.names() == ["StepCompleted t2", "NodeEnded", "RunEnded"]
    assert kit.state() == "COMPLETED"
    assert kit.run_output() == {"answer": 42}


def test_fan_out_and_fan_in() -> None:
    kit = Kit()
    kit.start(
        plan(task("a"), task("b", needs=["a"]), task("c", needs=["a"]), task("d", needs=["b", "c"]))
    )
    kit.complete("a")
    assert kit.dispatched() == ["b", "c"]
    kit.complete("c")
    assert kit.dispatched() == ["b"]
    kit.complete("b")
    assert kit.dispatched() == ["d"]


def test_needs_may_point_forward() -> None:
    kit = Kit()
    kit.start(plan(task("a", needs=["b"]), task("b")))
    assert kit.dispatched() == ["b"]
    kit.complete("b")
    assert kit.dispatched() == ["a"]


def test_a_plan_without_tasks_completes_at_once() -> None:
    kit = Kit()
    kit.start(plan(group("empty")))
    assert kit.state() == "COMPLETED"


# --- conditions --------------------------------------------------------------------------------


def test_success_is_implied() -> None:
    """What needs a failed node is skipped, and so is what needs a skipped one (GitHub's jobs)."""
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"]), task("c", needs=["b"]), task("d")))
    kit.fail("a")
    assert "StepSkipped b" in kit.names()
    assert kit.statuses() == {"a": "FAILED", "b": "SKIPPED", "c": "SKIPPED", "d": "DISPATCHED"}
    kit.complete("d")
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "a: exit-code: a failed"


def test_a_condition_without_a_status_function_gets_success_in_front() -> None:
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"], condition="1 == 1")))
    kit.fail("a")
    assert kit.status("b") == "SKIPPED"


@pytest.mark.parametrize(
    ("condition", "runs_after_success", "runs_after_failure"),
    [
        ("success()", True, False),
        ("failure()", False, True),
        ("always()", True, True),
        ("!failure()", True, False),
        ("cancelled()", False, False),
        ("success() || failure()", True, True),
        ("failure() && needs.a.result == 'failure'", False, True),
    ],
)
def test_status_functions(
    condition: str, runs_after_success: bool, runs_after_failure: bool
) -> None:
    for fails, expected in ((False, runs_after_success), (True, runs_after_failure)):
        kit = Kit()
        kit.start(plan(task("a"), task("b", needs=["a"], condition=condition)))
        if fails:
            kit.fail("a")
        else:
            kit.complete("a")
        assert kit.status("b") == ("DISPATCHED" if expected else "SKIPPED")


def test_failure_sees_every_ancestor() -> None:
    kit = Kit()
    kit.start(
        plan(task("a"), task("b", needs=["a"]), task("c", needs=["b"], condition="failure()"))
    )
    kit.fail("a")
    assert kit.status("b") == "SKIPPED"
    assert kit.status("c") == "DISPATCHED"


def test_a_false_condition_skips_and_a_skipped_need_skips_too() -> None:
    kit = Kit()
    kit.start(plan(task("a", condition="false"), task("b", needs=["a"])))
    assert kit.statuses() == {"a": "SKIPPED", "b": "SKIPPED"}
    assert kit.state() == "COMPLETED"


def test_a_sequence_does_not_mind_a_skipped_step_but_a_failed_one() -> None:
    """As on GitHub: `success()` looks at all earlier steps of the job, skipped ones are fine."""
    kit = Kit()
    kit.start(
        plan(
            group(
                "p",
                task("a", condition="false"),
                task("b"),
                task("c"),
                task("d", condition="failure()"),
                task("e", condition="always()"),
                task("f"),
                kind="pipeline",
            )
        )
    )
    assert kit.statuses()["p/a"] == "SKIPPED"
    kit.fail("p/b")
    assert kit.statuses()["p/c"] == "SKIPPED"
    kit.complete("p/d")
    kit.complete("p/e")
    assert kit.status("p/f") == "SKIPPED", "the failure of b is not forgotten"
    assert kit.state() == "FAILED"


def test_continue_on_error_splits_outcome_and_conclusion() -> None:
    kit = Kit()
    kit.start(
        plan(
            job(
                "j",
                task("a", continue_on_error=True),
                task("b", inputs={"o": "${{ steps.a.outcome }}", "c": "${{ steps.a.conclusion }}"}),
            )
        )
    )
    kit.fail("j/a")
    assert kit.status("j/a") == "FAILED"
    assert kit.inputs("j/b") == {"o": "failure", "c": "success"}
    kit.complete("j/b")
    assert kit.state() == "COMPLETED"


def test_continue_on_error_of_a_group() -> None:
    kit = Kit()
    kit.start(plan(group("g", task("a"), continue_on_error=True), task("b", needs=["g"])))
    kit.fail("g/a")
    assert kit.statuses() == {"g": "FAILED", "g/a": "FAILED", "b": "DISPATCHED"}
    kit.complete("b")
    assert kit.state() == "COMPLETED"


def test_a_condition_that_cannot_be_evaluated_fails_the_node() -> None:
    kit = Kit()
    kit.start(plan(task("a", condition="nothing.here == 1"), task("b", needs=["a"])))
    assert kit.statuses() == {"a": "FAILED", "b": "SKIPPED"}
    assert "expression" in kit.run().ended_reason


def test_a_choice_runs_the_first_branch_that_holds() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            choice(
                "c",
                task("x", condition="tasks.a.output.n == 1"),
                task("y", condition="tasks.a.output.n == 2"),
                task("z", condition="true"),
                needs=["a"],
            ),
            task("after", needs=["c"]),
        )
    )
    kit.complete("a", {"n": 2})
    assert kit.statuses() == {
        "a": "COMPLETED",
        "c": "RUNNING",
        "c/x": "SKIPPED",
        "c/y": "DISPATCHED",
        "c/z": "SKIPPED",
        "after": "PENDING",
    }
    kit.complete("c/y")
    assert kit.dispatched() == ["after"]


def test_a_choice_without_a_branch_that_holds_is_done() -> None:
    kit = Kit()
    kit.start(plan(choice("c", task("x", condition="false"))))
    assert kit.state() == "COMPLETED"


def test_a_choice_with_a_broken_condition_fails_as_a_whole() -> None:
    kit = Kit()
    kit.start(plan(choice("c", task("x", condition="false"), task("y", condition="foo.bar"))))
    assert kit.state() == "FAILED"
    assert kit.status("c") == "FAILED"


def test_a_choice_has_a_timeout() -> None:
    kit = Kit()
    kit.start(plan(choice("c", wait("x", condition="true"), timeout_ms=1_000)))
    kit.advance(1_000)
    assert kit.statuses() == {"c": "FAILED", "c/x": "CANCELLED"}
    assert kit.run().ended_reason == "c: timeout: its timeout passed"


def test_nested_containers_end_from_the_inside_out() -> None:
    kit = Kit()
    kit.start(plan(group("o", group("i", task("a"), task("b")), task("c", needs=["i"])), task("d")))
    kit.complete("o/i/a")
    kit.complete("o/i/b")
    assert "NodeEnded o/i" in kit.names()
    assert finish(kit) == "COMPLETED"
    assert kit.all_events(kind=StepCompleted) == list(
        {event.step: event for event in kit.all_events(kind=StepCompleted)}.values()
    )


# --- priorities and limits ---------------------------------------------------------------------


def test_a_lane_gives_priority_first_then_age() -> None:
    kit = Kit(credit=0)
    digest = kit.store(plan(task("a"), task("b", priority=5)))
    kit.start(digest, "old")
    kit.start(digest, "young")
    kit.start(digest, "urgent", priority=10)
    kit.credit = 1
    order = []
    for _ in range(6):
        before = set(kit.tasks)
        kit.tick()
        (new,) = set(kit.tasks) - before
        order.append((new[0].partition("/")[2], kit.tasks[new].path))
    assert order == [
        ("urgent", "b"),
        ("urgent", "a"),
        ("old", "b"),
        ("young", "b"),
        ("old", "a"),
        ("young", "a"),
    ]


def test_capabilities_make_lanes() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a", runs_on=("linux",)),
            task("b", uses="custom"),
            group("g", task("c", runs_on=("${{ inputs.os }}",)), runs_on=("gpu",)),
        ),
        input={"os": "mac"},
    )
    lanes = {lane.capabilities for lane in kit.machine.ready.lanes.values()}
    assert lanes == {("linux",), ("uses:custom",), ("gpu", "mac")}


def test_sleep_for_and_until() -> None:
    kit = Kit()
    kit.start(plan(sleep("s", 5_000), sleep("e", "${{ inputs.pause }}")), input={"pause": "7s"})
    kit.advance(4_999)
    assert kit.status("s") == "WAITING"
    kit.advance(1)
    assert kit.statuses() == {"s": "COMPLETED", "e": "WAITING"}
    kit.advance(2_000)
    assert kit.state() == "COMPLETED"


def test_sleep_until_a_moment() -> None:
    kit = Kit(now_ms=0)
    kit.now_ms = 1_000
    kit.start(plan(sleep("s", until="1970-01-01T00:01:00Z")))
    assert kit.next_timer() == 59_000
    assert kit.state() == "COMPLETED"


def test_a_sleep_that_makes_no_sense_fails() -> None:
    kit = Kit()
    kit.start(plan(sleep("s", "${{ 'soon' }}")))
    assert kit.state() == "FAILED"
    assert "not a duration" in kit.run().ended_reason


def test_a_plan_with_a_broken_condition_is_not_stored() -> None:
    kit = Kit()
    reply = kit.submit(plan(task("a")))
    assert not isinstance(reply, Refusal)
    position = len(kit.log)
    with pytest.raises(AssertionError, match="invalid-expression"):
        kit.store(plan(task("a", condition="((")))
    assert len(kit.log) == position
