"""Repetitions: one iteration after the other, ended by a number, by a condition, or by a limit."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core import Limits
from headrace.events import Expanded
from support.corekit import Kit, finish
from support.plans import group, job, loop, plan, repeat, sleep, task


def once_more(kit: Kit, path: str, **output: Any) -> None:
    kit.complete(path, output)


def test_a_number_of_times_one_at_a_time() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x", inputs={"i": "${{ loop.index }}"}), 3)))
    for index in range(3):
        assert kit.dispatched() == [f"r[{index}]"]
        assert kit.inputs(f"r[{index}]") == {"i": index}
        once_more(kit, f"r[{index}]", n=index)
    assert kit.state() == "COMPLETED"
    assert [event.first for event in kit.all_events(kind=Expanded)] == [0, 0, 1, 2]


@pytest.mark.parametrize("times", [0, "${{ inputs.n }}"])
def test_none_at_all(times: Any) -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), times), task("after", needs=["r"])), input={"n": "0"})
    assert kit.status("r") == "COMPLETED"
    assert kit.dispatched() == ["after"]


@pytest.mark.parametrize("times", ["${{ inputs.n }}", "${{ fromJSON('[]') }}"])
def test_a_number_that_is_none_fails_the_loop(times: str) -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), times)), input={"n": "many"})
    assert kit.state() == "FAILED"
    assert "repeat is a whole number" in kit.run().ended_reason


def test_while_is_asked_before_each_iteration() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), before="loop.index < 2")))
    once_more(kit, "r[0]")
    once_more(kit, "r[1]")
    assert kit.state() == "COMPLETED"
    assert len(kit.run().iterations[kit.instance("r")]) == 2


def test_until_is_asked_after_each_iteration_and_sees_its_steps() -> None:
    kit = Kit()
    body = group("b", task("x"), task("y", needs=["x"]), kind="pipeline")
    kit.start(plan(repeat("r", body, after="steps.y.outputs.done == 'yes' && loop.index > 0")))
    once_more(kit, "r[0]/x")
    once_more(kit, "r[0]/y", done="yes")
    once_more(kit, "r[1]/x")
    once_more(kit, "r[1]/y", done="no")
    once_more(kit, "r[2]/x")
    once_more(kit, "r[2]/y", done="yes")
    assert kit.state() == "COMPLETED"


def test_what_the_iteration_before_gave_is_seen_in_body_and_condition() -> None:
    kit = Kit()
    given = {
        "last": "${{ loop.previous.tasks.x.output.n }}",
        "step": "${{ loop.previous.steps.x.outputs.n }}",
        "same": "${{ loop.previous.outputs.n }}",
    }
    body = group("b", task("x", inputs=given))
    kit.start(plan(repeat("r", body, before="!loop.previous.outputs.stop")))
    assert kit.inputs("r[0]/x") == {"last": None, "step": None, "same": None}
    once_more(kit, "r[0]/x", n=7)
    assert kit.inputs("r[1]/x") == {"last": 7, "step": 7, "same": 7}
    once_more(kit, "r[1]/x", stop=True)
    assert kit.state() == "COMPLETED"


def test_outputs_are_those_of_all_iterations() -> None:
    kit = Kit()
    kit.start(
        plan(
            repeat("r", task("x"), 2),
            task("after", needs=["r"], inputs={"all": "${{ tasks.r.outputs.results }}"}),
        )
    )
    once_more(kit, "r[0]", n=1)
    once_more(kit, "r[1]", n=2)
    assert kit.inputs("after") == {"all": [{"n": 1}, {"n": 2}]}


def test_a_failure_ends_it() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), 3)))
    kit.fail("r[0]")
    assert kit.state() == "FAILED"
    assert "r[1]" not in kit.statuses()


def test_a_tolerated_failure_does_not() -> None:
    kit = Kit()
    body = group("b", task("x", continue_on_error=True))
    kit.start(plan(repeat("r", body, after="steps.x.outcome == 'success'")))
    kit.fail("r[0]/x")
    once_more(kit, "r[1]/x")
    assert kit.state() == "COMPLETED"


def test_too_many_iterations_fail_it() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x", condition="false"), before="true", limit=50)))
    assert kit.state() == "FAILED"
    text = "r: limit-exceeded: 50 iterations, and it has not ended (max-iterations)"
    assert kit.run().ended_reason == text
    assert len(kit.run().iterations[kit.instance("r")]) == 50


def test_exactly_as_many_as_the_limit_are_fine() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x", condition="false"), 50, limit=50)))
    assert kit.state() == "COMPLETED"


def test_a_run_has_only_so_many_nodes() -> None:
    kit = Kit(limits=Limits(nodes=10))
    kit.start(plan(repeat("r", task("x", condition="false"), before="true")))
    assert kit.state() == "FAILED"
    assert "at most 10 nodes" in kit.run().ended_reason


def test_a_condition_that_cannot_be_evaluated_fails_it() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), after="fromJSON('{') == 1")))
    once_more(kit, "r[0]")
    assert kit.state() == "FAILED"


def test_a_cancel_ends_it_with_the_iteration_that_runs() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), 3)))
    once_more(kit, "r[0]")
    kit.cancel()
    kit.cancelled("r[1]")
    assert kit.state() == "CANCELLED"
    assert "r[2]" not in kit.statuses()


def test_a_timeout_is_over_all_iterations() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", sleep("s", 400), 10, timeout_ms=1_000)))
    kit.advance(400)
    kit.advance(400)
    kit.advance(400)
    assert kit.status("r") == "FAILED"


def test_a_pause_holds_the_next_iteration() -> None:
    kit = Kit()
    kit.start(plan(repeat("r", task("x"), 2)))
    kit.pause()
    once_more(kit, "r[0]")
    assert kit.dispatched() == []
    kit.resume()
    assert kit.dispatched() == ["r[1]"]
    assert finish(kit) == "COMPLETED"


@pytest.mark.parametrize("snapshot", [False, True])
def test_another_owner_goes_on_at_any_point(snapshot: bool) -> None:
    kit = Kit()
    kit.start(plan(repeat("r", group("b", task("x"), sleep("s", 5, needs=["x"])), 3)))
    for index in range(3):
        kit.kill(snapshot=snapshot)
        once_more(kit, f"r[{index}]/x")
        kit.kill(snapshot=snapshot)
        kit.next_timer()
    assert kit.state() == "COMPLETED"
    assert len(kit.run().iterations[kit.instance("r")]) == 3


def test_inside_each_other_and_inside_a_job() -> None:
    kit = Kit()
    inner = repeat("in", group("b", task("x", inputs={"i": "${{ loop.index }}"})), 2)
    each = loop("out", group("o", inner), ["a", "b"])
    kit.start(plan(job("j", each)))
    assert finish(kit) == "COMPLETED"
    paths = {path for path in kit.statuses() if path.endswith("/x")}
    assert paths == {f"j/out[{i}]/in[{k}]/x" for i in (0, 1) for k in (0, 1)}


def test_a_job_that_begins_anew_repeats_from_the_first() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), repeat("r", group("b", task("x")), 2))))
    kit.complete("j/a", worker="w")
    kit.complete("j/r[0]/x", worker="w")
    kit.lose_worker("w")
    assert kit.dispatched() == ["j/a"]
    assert finish(kit) == "COMPLETED"
