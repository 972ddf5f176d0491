"""Jobs that call a workflow."""

import pytest

from headrace.errors import InvalidDefinition, NotFound
from headrace.language import compile_workflow, node_paths
from headrace.plan import Group, Loop, decode_plan, encode_plan, validate_plan

CALLED = """\
on:
  workflow_call:
    inputs:
      to: {type: string, required: true}
      times: {type: number, default: 2}
    secrets: {TOKEN: {required: true}}
    outputs:
      url: {value: "${{ jobs.put.outputs.url }}"}
env: {REGION: eu}
concurrency: deploy-${{ inputs.to }}
jobs:
  build:
    steps: [{id: s, run: make}]
  put:
    needs: build
    outputs: {url: "${{ steps.one.outputs.url }}"}
    steps: [{id: one, run: "put ${{ inputs.to }}"}]
"""
CALLER = """\
on: {workflow_dispatch: {inputs: {stage: {type: string}}}}
jobs:
  test:
    steps: [{run: make test}]
  deploy:
    needs: test
    if: inputs.stage != ''
    uses: ./parts/deploy.yaml
    with: {to: "${{ inputs.stage }}", times: 3}
    secrets: {TOKEN: "${{ secrets.PROD_TOKEN }}"}
  tell:
    needs: deploy
    steps: [{run: "echo ${{ needs.deploy.outputs.url }}"}]
"""


def compiled(text, files, file="flows/main.yaml", **options):
    def load(name):
        if name not in files:
            raise NotFound(f"no file {name}")
        return files[name]

    plan = compile_workflow(text, file=file, load=load, **options)
    validate_plan(plan)
    assert decode_plan(encode_plan(plan)) == plan
    return plan


def refused(text, files, **options):
    with pytest.raises(InvalidDefinition) as caught:
        compiled(text, files, **options)
    return caught.value


def test_a_call_becomes_a_group():
    plan = compiled(CALLER, {"flows/parts/deploy.yaml": CALLED})
    by_path = dict(zip(node_paths(plan), plan.nodes, strict=True))
    group = by_path["deploy"]
    assert isinstance(group, Group)
    assert (group.kind, group.affinity, group.condition) == ("graph", False, "inputs.stage != ''")
    assert group.call.file == "flows/parts/deploy.yaml"
    assert group.call.given == {"to": "${{ inputs.stage }}", "times": 3}
    assert group.call.secrets == {"TOKEN": "${{ secrets.PROD_TOKEN }}"}
    assert group.call.env == {"REGION": "eu"}
    assert set(group.call.inputs) == {"to", "times"}
    assert group.outputs == {"url": "${{ jobs.put.outputs.url }}"}
    assert group.concurrency is None
    assert group.call.concurrency.group == "deploy-${{ inputs.to }}"
    assert "deploy/put/one" in by_path
    assert by_path["deploy/put"].needs == (plan.nodes.index(by_path["deploy/build"]),)
    # The workflow called has inputs of its own; the caller keeps his.
    assert set(plan.inputs) == {"stage"}


def test_a_call_in_a_matrix():
    text = CALLER.replace(
        '    with: {to: "${{ inputs.stage }}"',
        '    strategy: {matrix: {x: [a, b]}}\n    with: {to: "${{ matrix.x }}"',
    )
    plan = compiled(text, {"flows/parts/deploy.yaml": CALLED})
    by_path = dict(zip(node_paths(plan), plan.nodes, strict=True))
    assert isinstance(by_path["deploy"], Loop)
    assert by_path["deploy[*]"].call.given["to"] == "${{ matrix.x }}"
    assert "deploy[*]/put/one" in by_path


def test_inherited_secrets():
    text = CALLER.replace('secrets: {TOKEN: "${{ secrets.PROD_TOKEN }}"}', "secrets: inherit")
    plan = compiled(text, {"flows/parts/deploy.yaml": CALLED})
    assert next(node.call for node in plan.nodes if node.name == "deploy").secrets is None


def test_calls_within_calls_are_relative_to_each_file():
    files = {
        "a/one.yaml": "on: workflow_call\njobs: {x: {uses: ../b/two.yaml}}",
        "b/two.yaml": "on: workflow_call\njobs: {y: {uses: ./three.yaml}}",
        "b/three.yaml": "on: workflow_call\njobs: {z: {steps: [{id: s, run: x}]}}",
    }
    plan = compiled("jobs: {m: {uses: ./a/one.yaml}}", files, file="main.yaml")
    assert node_paths(plan)[-1] == "m/x/y/z/s"


def call(body="", files=None, callee=CALLED):
    text = f"jobs:\n  j:\n    uses: ./c.yaml\n{body}"
    return refused(text, {"flows/c.yaml": callee, **(files or {})}).problems


GOOD = "    with: {to: x}\n    secrets: inherit\n"


@pytest.mark.parametrize(
    ("body", "message", "line", "column"),
    [
        ("    secrets: inherit\n", "'flows/c.yaml' needs the input 'to'", 3, 11),
        ("    with: {to: x}\n", "'flows/c.yaml' needs the secret 'TOKEN'", 3, 11),
        ("    with: {to: x, tu: y}\n    secrets: inherit\n", "has no input 'tu'", 4, 19),
        ("    with: {to: x, times: y}\n    secrets: inherit\n", "must be a number, not 'y'", 4, 26),
        ("    with: {to: x}\n    secrets: {TOKEN: a, TOKN: b}\n", "no secret 'TOKN'", 5, 25),
        ("    with: {to: x}\n    secrets: all\n", "must be a mapping or inherit", 5, 14),
        (GOOD + "    env: {A: b}\n", "'env' does not go with 'uses'", 6, 5),
        (GOOD + "    runs-on: x\n", "'runs-on' does not go with 'uses'", 6, 5),
        (GOOD + "    steps: [{run: x}]\n", "'steps' does not go with 'uses'", 6, 5),
        (GOOD + "    concurrency: mine\n", "two concurrency groups", 6, 18),
        ("    with: {to: '${{ env.X }}'}\n    secrets: inherit\n", "'env' is not available", 4, 21),
        ("    with: {to: '${{ secrets.X }}'}\n    secrets: inherit\n", "'secrets' is not", 4, 21),
    ],
)  # fmt: skip
def test_what_a_call_gives_is_checked(body, message, line, column):
    problems = call(body)
    assert [message in p.message for p in problems] == [True], problems
    assert (problems[0].line, problems[0].column, problems[0].file) == (line, column, "")


@pytest.mark.parametrize(
    ("uses", "message", "hint"),
    [
        ("owner/repo/.github/workflows/x.yml@v1", "are not fetched", "uses: ./file.yaml"),
        ("./nope.yaml", "no file flows/nope.yaml", ""),
        ("c.yaml", "begins with './'", "./c.yaml"),
        ("/etc/passwd", "begins with './'", ""),
        ("''", "names a workflow", ""),
    ],
)
def test_what_cannot_be_called(uses, message, hint):
    problem = refused(f"jobs: {{j: {{uses: {uses}}}}}", {}).problems[0]
    assert message in problem.message
    assert hint in problem.hint


def test_nothing_can_be_called_without_files():
    with pytest.raises(InvalidDefinition, match="there are no files"):
        compile_workflow("jobs: {j: {uses: ./x.yaml}}")


def test_problems_of_all_files_come_together_each_with_its_own():
    callee = "on: workflow_call\njobs:\n  x:\n    steps:\n      - rn: y\n"
    text = "jobs:\n  a: {uses: ./c.yaml}\n  b: {uses: ./c.yaml}\n  c: {stps: []}\n"
    error = refused(text, {"flows/c.yaml": callee})
    assert [(p.file, p.line) for p in error.problems] == [
        ("", 4), ("", 4), ("flows/c.yaml", 5), ("flows/c.yaml", 5),
    ]  # fmt: skip
    assert "flows/main.yaml:4:" in str(error)
    assert "flows/c.yaml:5:9: unknown key 'rn'" in str(error)


def test_bad_yaml_in_a_called_file_does_not_hide_the_rest():
    error = refused("jobs: {a: {uses: ./c.yaml}, b: {x: 1}}", {"flows/c.yaml": "a: ["})
    assert {p.file for p in error.problems} == {"", "flows/c.yaml"}


@pytest.mark.parametrize(
    ("callee", "message"),
    [
        ("jobs: {x: {steps: [{run: y}]}}", "this workflow cannot be called"),
        ("on: push\njobs: {x: {steps: [{run: y}]}}", "this workflow cannot be called"),
        ("on: workflow_call\ntasks: [{name: a, type: noop}]", "has 'jobs:'"),
        ("on: workflow_call\njobs: {}", "at least one job"),
        ("- 1", "must be a mapping, not a list"),
    ],
)
def test_what_is_called_must_be_callable(callee, message):
    problems = call(callee=callee)
    assert [p.file for p in problems] == ["flows/c.yaml"]
    assert message in problems[0].message


def test_cycles_are_named():
    files = {
        "flows/a.yaml": "on: workflow_call\njobs: {x: {uses: ./b.yaml}}",
        "flows/b.yaml": "on: workflow_call\njobs: {x: {uses: ./a.yaml}}",
    }
    error = refused("jobs: {j: {uses: ./a.yaml}}", files)
    ring = "flows/a.yaml → flows/b.yaml → flows/a.yaml"
    assert ring in str(error)
    assert "cycle" in str(refused("jobs: {j: {uses: ./main.yaml}}", {}))


def test_depth_is_bounded():
    files = {
        f"flows/{n}.yaml": f"on: workflow_call\njobs: {{x: {{uses: ./{n + 1}.yaml}}}}"
        for n in range(20)
    }
    assert "CALL_DEPTH_MAX = 10" in str(refused("jobs: {j: {uses: ./0.yaml}}", files))


def test_calls_that_explode_are_bounded():
    jobs = ", ".join(f"j{n}: {{uses: ./NEXT.yaml}}" for n in range(50))
    files = {
        f"flows/{n}.yaml": f"on: workflow_call\njobs: {{{jobs.replace('NEXT', str(n + 1))}}}"
        for n in range(8)
    }
    assert "CALLS_MAX = 1000" in str(refused("jobs: {j: {uses: ./0.yaml}}", files))


def test_the_number_of_files_is_bounded():
    jobs = ", ".join(f"j{n}: {{uses: ./{n}.yaml}}" for n in range(60))
    files = {
        f"flows/{n}.yaml": "on: workflow_call\njobs: {x: {steps: [{run: y}]}}" for n in range(60)
    }
    assert "FILES_MAX = 50" in str(refused(f"jobs: {{{jobs}}}", files))


def test_nodes_of_all_calls_count():
    steps = ", ".join("{run: x}" for _ in range(2_000))
    files = {"flows/c.yaml": f"on: workflow_call\njobs: {{x: {{steps: [{steps}]}}}}"}
    jobs = ", ".join(f"j{n}: {{uses: ./c.yaml}}" for n in range(60))
    assert "NODES_MAX = 100000" in str(refused(f"jobs: {{{jobs}}}", files))
