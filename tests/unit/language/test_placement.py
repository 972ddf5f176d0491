"""`runs-on`: groups, labels, and once on every worker."""

from __future__ import annotations

import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow, graph, node_paths
from headrace.plan import Group, Loop, Plan, Task, validate_plan


def compiled(text: str) -> Plan:
    plan = compile_workflow(text, file="w.yaml")
    validate_plan(plan)
    return plan


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidDefinition) as refused:
        compiled(text)
    return [f"{p.line}:{p.column} {p.message}" for p in refused.value.problems]


def kinds(plan: Plan) -> list[tuple[str, str]]:
    return [
        (path, type(node).__name__) for path, node in zip(node_paths(plan), plan.nodes, strict=True)
    ][1:]


def job(runs_on: str, rest: str = "") -> str:
    return f"jobs:\n  d:\n    runs-on: {runs_on}\n{rest}    steps: [{{run: x}}]\n"


def test_a_group_is_a_label() -> None:
    plan = compiled(job("{group: web, labels: [linux, web]}"))
    found = plan.nodes[1]
    assert isinstance(found, Group)
    assert found.runs_on == ("web", "linux")
    assert kinds(plan)[0] == ("d", "Group")


def test_a_job_on_every_worker() -> None:
    plan = compiled(
        job(
            '{group: web, all: true, join: "60%", losers: await, max-parallel: 2, fail-fast: true}',
            "    if: inputs.go\n    name: on ${{ worker.id }}\n    on-worker-loss: skip\n",
        )
    )
    loop, body = plan.nodes[1:3]
    assert isinstance(loop, Loop)
    assert isinstance(body, Group)
    assert (loop.kind, loop.variable, loop.items) == ("broadcast", "worker", None)
    assert (loop.join.kind, loop.join.value, loop.join.losers) == ("percent", 60, "await")
    assert (loop.max_parallel, loop.fail_fast, loop.on_worker_loss) == (2, True, "skip")
    assert loop.condition == "inputs.go"
    assert body.condition == ""
    assert (body.runs_on, body.title) == (("web",), "on ${{ worker.id }}")
    assert graph(plan).nodes[0].kind == "broadcast"


def test_its_outputs_are_known() -> None:
    text = job("{group: web, all: true}") + "  e:\n    needs: d\n    steps:\n      - run: echo %s\n"
    compiled(text % "${{ toJSON(needs.d.outputs.results) }}")
    assert problems(text % "${{ needs.d.outputs.version }}") == [
        "8:23 'needs.d.outputs.version' does not exist"
    ]


def test_a_step_on_every_worker() -> None:
    plan = compiled(
        "jobs:\n  j:\n    steps:\n      - run: a\n"
        "      - {id: s, if: 'inputs.x', runs-on: {group: web, all: true}, "
        "run: 'echo ${{ worker.id }}'}\n      - run: b\n"
    )
    loop, body = plan.nodes[3:5]
    assert isinstance(loop, Loop)
    assert isinstance(body, Task)
    assert loop.needs == (2,)
    assert (loop.condition, body.condition) == ("inputs.x", "")
    assert body.runs_on == ("web",)


def test_with_a_compensation_of_its_own() -> None:
    plan = compiled(
        "jobs:\n  j:\n    steps:\n      - {id: s, runs-on: {group: web, all: true}, run: x, "
        "compensate: {run: y}}\n"
    )
    assert kinds(plan)[1:] == [
        ("j/s", "Loop"), ("j/s[*]", "Group"), ("j/s[*]/s", "Task"), ("j/s[*]/s~compensate", "Task"),
    ]  # fmt: skip


def test_a_task_and_a_group_of_tasks() -> None:
    plan = compiled(
        "tasks:\n  - {name: a, type: noop, runs_on: {group: web, all: true}}\n"
        "  - name: b\n    type: group\n    depends_on: [a]\n    runs_on: {group: web, all: true}\n"
        "    tasks: [{name: c, type: noop}]\n"
    )
    first, _, second, body = plan.nodes[1:5]
    assert isinstance(first, Loop)
    assert isinstance(second, Loop)
    assert isinstance(body, Group)
    assert second.needs == (1,)
    assert body.runs_on == ("web",)


def test_a_matrix_of_broadcasts() -> None:
    plan = compiled(job("{group: web, all: true}", "    strategy: {matrix: {os: [a, b]}}\n"))
    assert [type(node) for node in plan.nodes[1:4]] == [Loop, Loop, Group]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (job("{all: true}"), "3:14 jobs.d.runs-on needs a 'group', or 'labels'"),
        (job("{}"), "3:14 jobs.d.runs-on needs a 'group', or 'labels'"),
        (job("{group: g, join: 2}"), "3:25 jobs.d.runs-on: 'join' goes with 'all: true'"),
        (job("{group: g, all: yes}"), "3:30 jobs.d.runs-on.all must be true or false, not 'yes'"),
        (
            job("{group: g, all: true}", "    on-worker-loss: restart-job\n"),
            "4:21 jobs.d.on-worker-loss must be one of fail, skip, not 'restart-job'",
        ),
        (
            "jobs:\n  j:\n    steps:\n      - {run: x, runs-on: web}\n",
            "4:27 jobs.j.steps[0]: a step runs on the worker of its job",
        ),
        (
            "jobs:\n  j:\n    steps:\n      - {sleep: 1s, runs-on: {group: g, all: true}}\n",
            "4:21 'runs-on' does not go with 'sleep'",
        ),
        (
            "tasks:\n  - {name: a, type: sleep, for: 1s, runs_on: {group: g, all: true}}\n",
            "2:37 'runs-on' does not go with 'type: sleep'",
        ),
        (
            "runs-on: {group: g, all: true}\ntasks: [{name: a, type: noop}]\n",
            "1:10 runs-on: 'all: true' is not for this place",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(text: str, message: str) -> None:
    assert problems(text) == [message]
