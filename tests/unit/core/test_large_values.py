"""Values in the object store: the core carries references, and never mistakes one for the value."""

from __future__ import annotations

import msgspec

from headrace.messages import Task
from headrace.payloads import reference_to
from support.corekit import Kit
from support.plans import group, job, loop, plan, task

FAR = reference_to("default/r/1", 100_000)
AT = "$at"


def inputs_of(found: Task) -> dict:
    return msgspec.msgpack.decode(found.inputs)


def kit_with(*steps, **options) -> Kit:
    """A run whose step `a` has large outputs, and whose next steps read them."""
    kit = Kit()
    kit.start(plan(task("a"), *steps), **options)
    kit.complete("a", output={"far": FAR, "near": "n"})
    return kit


def test_a_value_that_is_only_passed_on_goes_as_a_reference() -> None:
    inputs = {"x": "${{ tasks.a.outputs.far }}", "y": "${{ tasks.a.outputs.near }}"}
    kit = kit_with(task("b", needs=["a"], inputs=inputs))
    found = kit.task("b")
    assert inputs_of(found) == {"x": FAR, "y": "n"}
    assert found.options is None or not found.options.deferred


def test_what_looks_at_it_is_the_workers_to_evaluate() -> None:
    text = "n=${{ tasks.a.outputs.near }} ${{ tasks.a.outputs.far }}"
    kit = kit_with(task("b", needs=["a"], inputs={"x": text, "y": ["${{ tasks.a.result }}"]}))
    found = kit.task("b")
    assert inputs_of(found) == {"x": text, "y": ["success"]}
    deferred = found.options.deferred
    assert deferred[AT] == [["inputs", "x"]]
    # Only what is read goes along.
    assert list(deferred["tasks"]) == ["a"]
    assert deferred["tasks"]["a"]["outputs"] == {"far": FAR, "near": "n"}


def test_in_the_environment_even_the_value_itself() -> None:
    env = {"FAR": "${{ tasks.a.outputs.far }}", "NEAR": "${{ tasks.a.outputs.near }}"}
    kit = kit_with(task("b", needs=["a"], env=env))
    found = kit.task("b").options
    assert found.env == {"NEAR": "n"}
    assert found.deferred["$env"] == [[{}, {}], [{"NEAR": "n"}, {"FAR": env["FAR"]}]]
    assert found.deferred["tasks"]["a"]["outputs"]["far"] == FAR


def test_inputs_of_the_run_in_a_jobs_environment() -> None:
    kit = Kit()
    inner = job("j", task("b"), env={"TEXT": "${{ inputs.text }}"})
    kit.start(plan(inner), input={"text": FAR})
    found = kit.task("j/b").options
    assert "TEXT" not in found.env
    assert found.deferred == {
        "$env": [[{}, {"TEXT": "${{ inputs.text }}"}]], "inputs": {"text": FAR}
    }  # fmt: skip


def test_a_condition_on_it_fails_by_name() -> None:
    kit = kit_with(task("b", needs=["a"], condition="contains(tasks.a.outputs.far, 'x')"))
    assert kit.status("b") == "FAILED"
    assert "too large for this place" in kit.run().errors[kit.instance("b")].message


def test_a_loop_over_it_fails_by_name() -> None:
    kit = kit_with(loop("b", task("c"), "${{ tasks.a.outputs.far }}", needs=["a"]))
    assert kit.status("b") == "FAILED"
    assert "too large for this place" in kit.run().errors[kit.instance("b")].message


def test_items_that_lie_elsewhere_are_handed_on() -> None:
    body = task("c", inputs={"x": "${{ item }}", "y": "<${{ item }}>"})
    kit = Kit()
    kit.start(plan(loop("b", body, [FAR, "near"], variable="item")))
    found = kit.task("b[0]")
    assert inputs_of(found) == {"x": FAR, "y": "<${{ item }}>"}
    assert found.options.deferred == {AT: [["inputs", "y"]], "item": FAR}
    assert inputs_of(kit.task("b[1]")) == {"x": "near", "y": "<near>"}


def test_outputs_of_groups_hand_it_on() -> None:
    inner = group("g", task("a"), outputs={"out": "${{ tasks.a.outputs.far }}"})
    kit = Kit()
    kit.start(plan(inner, task("b", needs=["g"], inputs={"x": "${{ tasks.g.outputs.out }}"})))
    kit.complete("g/a", output={"far": FAR})
    assert inputs_of(kit.task("b")) == {"x": FAR}


def test_outputs_that_lie_elsewhere_as_a_whole() -> None:
    kit = Kit()
    text = "v ${{ tasks.a.outputs.x }}"
    inputs = {"x": "${{ tasks.a.outputs }}", "y": text}
    kit.start(plan(task("a"), task("b", needs=["a"], inputs=inputs)))
    kit.complete("a", output=FAR)
    found = kit.task("b")
    assert inputs_of(found) == {"x": FAR, "y": text}
    assert found.options.deferred["tasks"]["a"]["outputs"] == FAR


def test_a_title_is_not_worth_a_failure() -> None:
    kit = kit_with(task("b", needs=["a"], title="t ${{ tasks.a.outputs.far }}"))
    assert kit.task("b").options.title == "t ${{ tasks.a.outputs.far }}"


def test_script_tasks_are_fed_with_it() -> None:
    kit = Kit()
    one = task("b", needs=["a"], uses="script", inputs={"code": "x"})
    two = task("c", needs=["a", "b"], uses="script", inputs={"code": "x"})
    kit.start(plan(task("a"), one, two))
    kit.complete("a", output={"result": FAR})
    assert inputs_of(kit.task("b"))["input_data"] == FAR
    kit.complete("b", output={"result": "n"})
    assert inputs_of(kit.task("c"))["input_data"] == {"a": FAR, "b": "n"}


def test_secrets_in_the_inputs_of_a_task_without_an_environment() -> None:
    kit = Kit()
    kit.start(plan(task("a", inputs={"x": "${{ secrets.TOKEN }}"}, effect="at-most-once")))
    found = kit.task("a").options
    assert found.deferred == {AT: [["inputs", "x"]]}
    assert found.start_by_ms > kit.now_ms
