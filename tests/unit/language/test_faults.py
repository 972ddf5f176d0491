"""`retry`, `on-failure`, `compensate`, `on-unknown` and `handlers` in both dialects."""

from __future__ import annotations

import textwrap

import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow
from headrace.plan import Group, OnFailure, Plan, Task, validate_plan

JOBS = """
{root}
handlers:
  tell: {{run: 'echo ${{{{ failure.step }}}}'}}
  two: [{{run: a}}, {{run: b}}]
jobs:
  j:
    {job}
    steps:
      - {{id: a, run: x{step}}}
"""


def compiled(*, root: str = "", job: str = "name: j", step: str = "") -> Plan:
    plan = compile_workflow(JOBS.format(root=root, job=job, step=step))
    validate_plan(plan)
    return plan


def named(plan: Plan, name: str) -> Task:
    (found,) = [node for node in plan.nodes if node.name == name]
    assert isinstance(found, Task)
    return found


def refused(text: str) -> list[str]:
    with pytest.raises(InvalidDefinition) as caught:
        compile_workflow(textwrap.dedent(text))
    return [f"{p.line}:{p.column} {p.message} | {p.hint}" for p in caught.value.problems]


def test_retries_are_inherited_from_the_nearest() -> None:
    assert named(compiled(root="retry: 5"), "a").retry.max_attempts == 5
    assert named(compiled(root="retry: 5", job="retry: 4"), "a").retry.max_attempts == 4
    found = compiled(root="retry: 5", job="retry: 4", step=", retry: 2")
    assert named(found, "a").retry.max_attempts == 2


@pytest.mark.parametrize("action", ["skip", "abort", "fail", "compensate", "compensate-and-retry"])
def test_policies_stand_where_they_are_written(action: str) -> None:
    wanted = OnFailure(action=action)  # type: ignore[arg-type]
    assert compiled(root=f"on-failure: {action}").nodes[0].on_failure == wanted
    assert compiled(job=f"on-failure: {action}").nodes[1].on_failure == wanted
    assert named(compiled(step=f", on-failure: {action}"), "a").on_failure == wanted


def test_rounds_of_compensate_and_retry() -> None:
    job = "on-failure: {action: compensate-and-retry, max-rounds: 5}"
    assert compiled(job=job).nodes[1].on_failure.rounds == 5


def test_retry_is_the_usual_policy_unless_there_is_one() -> None:
    assert named(compiled(root="on-failure: retry"), "a").retry.max_attempts == 3
    found = compiled(root="on-failure: retry\nretry: 7")
    assert named(found, "a").retry.max_attempts == 7


@pytest.mark.parametrize("where", ["root", "job", "step"])
def test_a_handler_stands_beside_each_step(where: str) -> None:
    text = "on-failure: run tell"
    plan = compiled(**{where: f", {text}" if where == "step" else text})
    step = named(plan, "a")
    handler = plan.nodes[step.on_failure.handler]
    assert (handler.name, handler.dormant, handler.parent) == ("a~handler", True, step.parent)


def test_a_compensation_is_a_step_or_a_list() -> None:
    plan = compiled(step=", compensate: {run: 'undo ${{ steps.a.outputs.id }}'}")
    assert plan.nodes[named(plan, "a").compensate].name == "a~compensate"
    plan = compiled(step=", compensate: [{run: x}, {run: y}]")
    group = plan.nodes[named(plan, "a").compensate]
    assert isinstance(group, Group)
    assert (group.kind, group.size) == ("pipeline", 3)


def test_steps_around_a_compensation_follow_each_other() -> None:
    plan = compile_workflow(
        "jobs: {j: {steps: [{id: a, run: x, compensate: {run: y}}, {id: b, run: z}]}}"
    )
    validate_plan(plan)
    assert named(plan, "b").needs == (plan.nodes.index(named(plan, "a")),)


def test_unknown_effects() -> None:
    plan = compiled(step=", effect: at-most-once, on-unknown: run two")
    step = named(plan, "a")
    assert step.on_unknown == "run"
    assert plan.nodes[step.unknown_handler].name == "a~reconcile"
    assert (
        named(compiled(step=", effect: at-most-once, on-unknown: wait"), "a").on_unknown == "wait"
    )


def test_on_cancel() -> None:
    root = compiled(root="on-cancel: compensate").nodes[0]
    assert isinstance(root, Group)
    assert root.on_cancel == "compensate"


def test_the_tasks_dialect() -> None:
    plan = compile_workflow(
        textwrap.dedent("""
        on-failure: compensate
        handlers:
          tell: {type: shell, config: {run: "echo ${{ failure.error }}"}}
        tasks:
          - name: a
            type: shell
            config: {run: x}
            on_failure: run tell
            compensate: {type: shell, config: {run: y}}
          - {name: b, type: shell, config: {run: z}, depends_on: [a]}
        """)
    )
    validate_plan(plan)
    step = named(plan, "a")
    assert plan.nodes[step.compensate].name == "a~compensate"
    assert plan.nodes[step.on_failure.handler].name == "a~handler"
    assert named(plan, "b").needs == (1,)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("on-failure: skipp", "cannot be 'skipp' | did you mean 'skip'?"),
        ("on-failure: run tel", "unknown handler 'tel' | did you mean 'tell'?"),
        ("on-failure: {action: skip, max-rounds: 2}", "goes with 'action: compensate-and-retry'"),
        ("on-failure: [a]", "cannot be a list"),
        ("on-unknown: wait", "goes with 'effect: at-most-once'"),
        ("effect: at-most-once\n    on-unknown: ask", "cannot be 'ask' | write fail, wait"),
        ("compensate: {run: x, on-failure: skip}", "has no 'on-failure' of its own"),
        ("compensate: {sleep: 5}", "must be a step that a worker runs"),
        ("env: {X: '${{ failure.step }}'}", "'failure' is not available"),
        ("compensate: {run: 'echo ${{ failure.reason }}'}", "'failure.reason' does not exist"),
    ],
)
def test_refusals_name_place_and_way_out(step: str, expected: str) -> None:
    text = f"handlers:\n  tell: {{run: x}}\njobs:\n j:\n  steps:\n  - run: x\n    {step}\n"
    found = refused(text)
    assert any(expected in problem for problem in found), found
    assert all(problem[0].isdigit() and not problem.startswith("0:") for problem in found)
