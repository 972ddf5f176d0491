"""Loops with conditions, `if`/`elif`/`else`, trigger rules: what they become, what is refused."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow, node_paths
from headrace.plan import Choice, Group, Loop, Plan, Subworkflow, decode_plan, validate_plan

STEPS = "jobs:\n  j:\n    steps:\n"
TASKS = "name: w\ntasks:\n"


def compiled(text: str) -> Plan:
    plan = compile_workflow(text, file="w.yaml")
    validate_plan(plan)
    return plan


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidDefinition) as refused:
        compiled(text)
    return [f"{p.line}:{p.column} {p.message} | {p.hint}" for p in refused.value.problems]


def node(plan: Plan, path: str) -> object:
    return plan.nodes[node_paths(plan).index(path)]


def test_a_loop_with_conditions() -> None:
    plan = compiled(
        STEPS
        + "      - id: l\n        loop:\n          while: ${{ loop.index < 3 }}\n"
        + "          until: steps.s.outputs.x && loop.previous.steps.s.outputs.x\n"
        + "          repeat: ${{ inputs.n }}\n          max-iterations: 9\n"
        + "          steps:\n            - {id: s, run: 'echo ${{ loop.index }}'}\n"
    )
    loop = node(plan, "j/l")
    assert isinstance(loop, Loop)
    assert (loop.kind, loop.times, loop.limit) == ("repeat", "${{ inputs.n }}", 9)
    assert loop.before == "loop.index < 3"
    assert loop.after.startswith("steps.s.outputs.x")
    assert "j/l[*]/s" in node_paths(plan)


def test_a_number_over_the_usual_limit_raises_it() -> None:
    plan = compiled(STEPS + "      - {id: l, loop: {repeat: 20000, steps: [{run: x}]}}")
    loop = node(plan, "j/l")
    assert isinstance(loop, Loop)
    assert loop.limit == 20_000


def test_a_loop_of_tasks() -> None:
    plan = compiled(
        TASKS
        + "  - name: poll\n    type: loop\n    until: tasks.ask.output.ready\n"
        + "    max_iterations: 5\n    tasks:\n      - {name: ask, type: noop}\n"
    )
    loop = node(plan, "poll")
    assert isinstance(loop, Loop)
    assert (loop.kind, loop.limit) == ("repeat", 5)


IF = """\
      - if: inputs.x == 1
        then: [{id: one, run: x}]
        elif:
          - if: ${{ inputs.x == 2 }}
            then: [{id: two, run: x}]
        else: [{id: many, run: x}]
"""


def test_if_elif_else() -> None:
    plan = compiled(STEPS + IF)
    choice = node(plan, "j/if")
    assert isinstance(choice, Choice)
    assert choice.condition == ""
    found = {path: n.condition for path, n in zip(node_paths(plan), plan.nodes, strict=True)}
    assert found["j/if/case-1"] == "inputs.x == 1"
    assert found["j/if/case-2"] == "inputs.x == 2"
    assert found["j/if/else"] == ""
    assert {"j/if/case-1/one", "j/if/case-2/two", "j/if/else/many"} <= found.keys()


def test_if_of_tasks_beside_type_and_under_config() -> None:
    beside = compiled(
        TASKS
        + "  - {name: a, type: if, if: inputs.x, then: [{name: b, type: noop}],"
        + " else: [{name: c, type: noop}]}"
    )
    under = compiled(
        TASKS
        + "  - {name: a, type: if, config: {if: inputs.x, then: [{name: b, type: noop}],"
        + " else: [{name: c, type: noop}]}}"
    )
    for plan in (beside, under):
        assert node_paths(plan)[1:] == ["a", "a/case-1", "a/case-1/b", "a/else", "a/else/c"]
        assert plan.nodes[1].condition == ""
        assert plan.nodes[2].condition == "inputs.x"


def test_trigger_rules_of_jobs_and_tasks() -> None:
    plan = compiled(
        "jobs:\n  a:\n    steps: [{run: x}]\n  b:\n    needs: a\n    trigger-rule: one-failed\n"
        "    strategy: {matrix: {v: [1, 2]}}\n    steps: [{run: x}]\n"
    )
    assert getattr(node(plan, "b"), "trigger_rule", "") == "one_failed"
    plan = compiled(
        TASKS
        + "  - {name: a, type: noop}\n"
        + "  - {name: b, type: noop, depends_on: [a], trigger_rule: all_done}\n"
    )
    assert getattr(node(plan, "b"), "trigger_rule", "") == "all_done"


S = STEPS + "      - "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (S + "{loop: {while: '', steps: [{run: x}]}}", "4:24 jobs.j.steps[0].loop.while"),
        (S + "{loop: {while: x, steps: [{run: x}]}}", "4:24 unrecognized name 'x'"),
        (S + "{loop: {repeat: 0, steps: [{run: x}]}}", "4:25 jobs.j.steps[0].loop.repeat"),
        (S + "{loop: {repeat: 5, max-iterations: 3, steps: [{run: x}]}}", "the limit of 3"),
        (S + "{loop: {repeat: 200000, steps: [{run: x}]}}", "the limit of 100000"),
        (S + "{loop: {repeat: 2, as: x, steps: [{run: x}]}}",
         "4:28 'as' goes with 'for-each'"),
        (S + "{loop: {for-each: [1], until: 'true', steps: [{run: x}]}}",
         "4:32 'until' does not go with 'for-each'"),
        (S + "{loop: {repeat: 2, steps: [{run: '${{ loop.nr }}'}]}}",
         "'loop.nr' does not exist"),
        (S + "{loop: {breack: x, steps: [{run: x}]}}", "unknown key 'breack'"),
        (S + "{then: [{run: x}]}", "4:9 jobs.j.steps[0] needs 'if'"),
        (S + "{if: 'true', then: [{run: x}], elif: [{then: [{run: x}]}]}",
         "steps[0].elif[0] needs 'if'"),
        (S + "{if: 'true', then: [{run: x}], elif: [{if: 'true'}]}",
         "steps[0].elif[0] needs 'then'"),
        (S + "{if: 'true', else: [{run: x}]}", "needs one action"),
        (S + "{if: 'true', then: [{run: x}], run: y}", "needs one action, and has"),
        ("jobs:\n  a: {trigger-rule: all_done, steps: [{run: x}]}", "there are no needs"),
        (TASKS + "  - {name: a, type: noop}\n"
         "  - {name: b, type: noop, needs: [a], trigger-rule: one_succes}",
         "did you mean 'one_success'"),
    ],
)  # fmt: skip
def test_problems(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in text for text in found), found


CHILD = """\
name: child
on: {workflow_dispatch: {inputs: {n: {type: number, required: true}}}}
jobs: {a: {steps: [{run: x}]}}
"""


def with_child(text: str, child: str = CHILD) -> Plan:
    files = {"child.yaml": child}
    plan = compile_workflow(text, file="w.yaml", load=files.__getitem__)
    validate_plan(plan)
    return plan


def test_a_subworkflow_is_compiled_in() -> None:
    step = "{id: s, subworkflow: {uses: ./child.yaml, with: {n: 2}, detached: true}}"
    found = node(with_child(S + step), "j/s")
    assert isinstance(found, Subworkflow)
    assert decode_plan(found.plan).name == "child"
    assert (found.inputs, found.detached, found.source) == ({"n": 2}, True, "./child.yaml")
    task = "  - {name: s, type: subworkflow, uses: ./child.yaml, with: {n: 2}}\n"
    found = node(with_child(TASKS + task), "s")
    assert isinstance(found, Subworkflow)
    assert found.inputs == {"n": 2}


@pytest.mark.parametrize(
    ("step", "child", "said"),
    [
        ("{subworkflow: {with: {}}}", CHILD, "4:23 jobs.j.steps[0].subworkflow needs 'uses'"),
        ("{subworkflow: ./child.yaml}", CHILD, "4:23 './child.yaml' needs the input 'n'"),
        ("{subworkflow: {uses: ./child.yaml, with: {m: 1, n: 1}}}", CHILD, "has no input 'm'"),
        ("{subworkflow: {uses: ./child.yaml, with: {n: x}}}", CHILD, "must be a number"),
        ("{subworkflow: {uses: ./child.yaml, file: x}}", CHILD, "'file' is not supported"),
        ("{subworkflow: {uses: child.yaml}}", CHILD, "a called file begins with './'"),
        ("{subworkflow: ./child.yaml}", "jobs: {a: {steps: [{rum: x}]}}", "unknown key 'rum'"),
        (
            "{subworkflow: ./child.yaml}",
            "jobs: {a: {steps: [{subworkflow: ./child.yaml}]}}",
            "in a cycle: child.yaml → child.yaml",
        ),
    ],
)
def test_problems_of_subworkflows(step: str, child: str, said: str) -> None:
    with pytest.raises(InvalidDefinition) as refused:
        with_child(S + step, child)
    found = [f"{p.line}:{p.column} {p.message}" for p in refused.value.problems]
    assert any(said in text for text in found), found


def needs_of(plan: Plan, path: str) -> list[str]:
    paths = node_paths(plan)
    return [paths[need] for need in plan.nodes[paths.index(path)].needs]


def test_background_steps_and_waits() -> None:
    plan = compiled(
        S + "{run: x, id: a}\n      - {id: b, run: x, background: true}\n"
        "      - {id: c, uses: noop, background: true}\n      - {id: d, wait: [b]}\n"
        "      - {id: e, run: x}\n      - {id: f, wait-all: }\n"
    )
    assert needs_of(plan, "j/b") == needs_of(plan, "j/c") == ["j/a"]
    assert needs_of(plan, "j/d") == ["j/a", "j/b"]
    assert needs_of(plan, "j/e") == ["j/d"]
    assert needs_of(plan, "j/f") == ["j/e", "j/b", "j/c"]


def test_nothing_in_the_background_is_first() -> None:
    plan = compiled(S + "{id: b, run: x, background: true}\n      - {id: c, run: x}\n")
    assert node_paths(plan)[2:] == ["j/set-up", "j/b", "j/c"]
    assert needs_of(plan, "j/c") == ["j/set-up"]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("{wait: a}", "4:16 'a' is no background step before this one"),
        ("{id: srv, run: x, background: true}\n      - {wait: srw}", "did you mean 'srv'?"),
        ("{wait: [b]}\n      - {id: b, run: x, background: true}", "'b' is no background step"),
        ("{wait: }", "wait needs the id of a background step"),
        ("{wait-all: 3}", "wait-all must be true or false"),
        ("{wait-all: false}", "wait-all is 'true', or nothing"),
        ("{wait: a, timeout-minutes: 3}", "'timeout-minutes' does not go with 'wait'"),
        ("{wait-all: , background: true}", "'background' does not go with 'wait-all'"),
        ("{run: x, background: 3}", "background must be true or false"),
        ("{parallel: [{run: x, background: true}]}", "stand in a job or a pipeline"),
    ],
)
def test_problems_of_background_steps(steps: str, said: str) -> None:
    found = problems(S + steps)
    assert any(said in text for text in found), found


def test_cancel_names_background_steps_before_it() -> None:
    plan = compiled(
        STEPS
        + "      - {id: a, background: true, run: x}\n      - {id: b, background: true, run: x}\n"
        "      - cancel: [a, B, a]\n"
    )
    found = node(plan, "j/cancel")
    assert isinstance(found, Group)
    assert [plan.nodes[index].name for index in found.cancels] == ["a", "b"]
    assert found.size == 1


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("      - cancel: a\n", "4:17 'a' is no background step before this one"),
        ("      - {id: a, run: x}\n      - cancel: a\n", "5:17 'a' is no background step"),
        ("      - cancel:\n", "4:9 j.steps[0].cancel needs the id of a background step"),
        (
            "      - parallel:\n          - {id: a, run: x}\n          - cancel: a\n",
            "background steps and waits for them stand in a job or a pipeline",
        ),
        ("      - {cancel: a, run: x}\n", "needs one action, and has 'run' and 'cancel'"),
        (
            "      - {cancel: a, timeout-minutes: 1}\n",
            "'timeout-minutes' does not go with 'cancel'",
        ),
    ],
)
def test_what_cancel_refuses(steps: str, message: str) -> None:
    assert any(message.partition(" ")[2] in found for found in problems(STEPS + steps))
