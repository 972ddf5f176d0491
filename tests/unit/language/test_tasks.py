import time

import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow, node_paths
from headrace.plan import Choice, Group, Join, Loop, Sleep, Task, Wait, validate_plan
from headrace.retry import RetryPolicy


def compiled(text, **options):
    plan = compile_workflow(text, file="w.yaml", **options)
    validate_plan(plan)
    return plan


def by_path(text):
    plan = compiled(text)
    return dict(zip(node_paths(plan), plan.nodes, strict=True))


def refused(text):
    with pytest.raises(InvalidDefinition) as caught:
        compiled(text)
    return caught.value.problems


def test_a_graph_of_tasks():
    found = by_path(
        """
name: pipeline
version: "1.0"
inputs: {day: {default: monday}}
runs-on: [linux]
tasks:
  - name: send
    type: shell
    depends_on: [work, fetch]
    config: {command: "echo ${{ tasks.work.output.count }}"}
  - name: fetch
    type: http
    config: {url: "https://example.org/${{ inputs.day }}", timeout: 30}
  - name: work
    title: Work on it
    type: script
    depends-on: fetch
    if: tasks.fetch.result == 'success'
    timeout: 90s
    retry: {max_attempts: 3}
    continue_on_error: true
    runs_on: gpu
    priority: 2
    env: {A: 1}
    config: {language: python, code: "print(1)"}
""".replace("max_attempts", "max-attempts")
    )
    root, send, fetch, work = found[""], found["send"], found["fetch"], found["work"]
    assert isinstance(root, Group)
    assert (root.kind, root.affinity, root.runs_on) == ("graph", False, ("linux",))
    assert (send.needs, work.needs, fetch.needs) == ((3, 2), (2,), ())
    assert isinstance(send, Task)
    assert (send.uses, list(send.inputs)) == ("shell", ["run"])
    assert (fetch.uses, fetch.inputs["timeout"]) == ("http/request", 30)
    assert (work.uses, work.title, work.runs_on) == ("script", "Work on it", ("gpu",))
    assert work.condition == "tasks.fetch.result == 'success'"
    assert (work.timeout_ms, work.retry) == (90_000, RetryPolicy(max_attempts=3))
    assert (work.continue_on_error, work.priority, work.env) == (True, 2, {"A": "1"})


def test_groups_and_control_nodes():
    found = by_path("""
tasks:
  - name: fan
    type: parallel
    join: 60%
    tasks:
      - {name: a, type: noop}
      - {name: b, type: noop, depends_on: [a]}
  - name: row
    type: pipeline
    depends_on: [fan]
    steps: [{name: a, type: noop}, {name: b, type: noop}]
  - {name: each, type: loop, for_each: [1, 2], as: n, max_parallel: 1,
     tasks: [{name: t, type: shell, config: {command: "echo ${{ n }}"}}]}
  - {name: inorder, type: loop, config: {for-each: "${{ inputs.l }}"},
     steps: [{name: t, type: noop}, {name: u, type: noop}]}
  - name: pick
    type: choose
    branches:
      - {if: inputs.x, tasks: [{name: p, type: noop}]}
      - {else: true, tasks: [{name: q, type: noop}]}
  - {name: ok, type: approval, timeout: 1h, signal: go, depends_on: pick}
  - {name: hold, type: wait, config: {signal: s, timeout: 1d, default: null}}
  - {name: nap, type: sleep, duration: 5}
  - {name: later, type: sleep, until: "${{ inputs.when }}"}
""")
    assert found["fan"].join == Join(kind="percent", value=60)
    assert found["fan/b"].needs == (found["fan"].parent + 2,)
    assert found["row"].kind == "pipeline"
    assert isinstance(found["each"], Loop)
    assert (found["each"].variable, found["each"].max_parallel) == ("n", 1)
    assert found["each[*]"].kind == "graph"
    assert found["inorder[*]"].kind == "pipeline"
    assert found["inorder"].items == "${{ inputs.l }}"
    assert isinstance(found["pick"], Choice)
    assert found["pick/case-1"].condition == "inputs.x"
    assert isinstance(found["ok"], Wait)
    assert (found["ok"].approval, found["ok"].timeout_ms) == (True, 3_600_000)
    assert len(found["ok"].needs) == 1
    assert (found["hold"].has_default, found["hold"].default) == (True, None)
    assert isinstance(found["nap"], Sleep)
    assert found["nap"].duration_ms == 5_000
    assert found["later"].until == "${{ inputs.when }}"


def test_tasks_by_name():
    assert list(by_path("tasks: {a: {type: noop}, b: {type: noop, needs: a}}")) == ["", "a", "b"]


TASK = "tasks:\n  - name: a\n    type: noop\n"


@pytest.mark.parametrize(
    ("text", "message", "line", "column", "hint"),
    [
        ("tasks: []", "at least one task", 1, 8, ""),
        ("tasks: [x]", "tasks[0] must be a mapping, not 'x'", 1, 9, ""),
        ("tasks: [{type: noop}]", "tasks[0] needs a 'name'", 1, 9, ""),
        ("tasks: [{name: a}]", "needs a 'type'", 1, 9, "http"),
        ("tasks: [{name: Get it, type: noop}]", "cannot be the name", 1, 16, "name: get_it"),
        (TASK + "    typ: x", "unknown key 'typ' in tasks[0]", 4, 5, "did you mean 'type'?"),
        (TASK + "    depends_on: b", "unknown need 'b'", 4, 17, ""),
        (TASK + "    depends_on: a", "'a' needs itself", 4, 17, ""),
        (TASK + "    join: all", "'join' does not go with 'type: noop'", 4, 5, ""),
        (TASK + "    continue_on-error: 1", "must be true or false", 4, 24, ""),
        (TASK + "    for_each: [1]", "'for-each' does not go with", 4, 5, ""),
        (TASK + "    depends_on: b\n    depends-on: b", "duplicate key", 5, 5, ""),
        (TASK + "  - {name: A, type: noop}", "duplicate task 'A'", 4, 12, ""),
        (TASK + "  - {name: b, type: htp}", "unknown handler 'htp'", 4, 21, "did you mean 'http'?"),
        (TASK + "  - {name: b, type: http}", "'http/request' needs the input 'url'", 4, 21, ""),
        (TASK + "  - {name: b, type: shell, config: {comand: x}}", "unknown input", 4, 37, ""),
        (TASK + "  - {name: b, type: parallel}", "needs 'tasks'", 4, 5, ""),
        (TASK + "  - {name: b, type: choose}", "needs 'branches'", 4, 5, ""),
        (TASK + "  - {name: b, type: wait}", "name of a signal", 4, 5, ""),
        (TASK + "    if: tasks.b.output", "'tasks.b' does not exist", 4, 9, ""),
        (TASK + "  - {name: r, type: pipeline, tasks: [{name: x, type: noop, needs: y}]}",
         "run in order", 4, 68, ""),
    ],
)  # fmt: skip
def test_problems(text, message, line, column, hint):
    problems = refused(text)
    found = [p for p in problems if message in p.message]
    assert found, [p.message for p in problems]
    assert (found[0].line, found[0].column) == (line, column)
    assert hint in found[0].hint


def test_ten_thousand_tasks_compile_quickly():
    lines = ["tasks:"]
    for i in range(10_000):
        needs = f"t{i // 2}, t{i // 3}" if i > 2 else ""
        lines += [f"  - name: t{i}", "    type: shell", f"    depends_on: [{needs}]"]
        lines += [f"    config: {{command: 'echo ${{{{ tasks.t{i // 2}.output }}}} {i}'}}"]
    begin = time.process_time()
    plan = compiled("\n".join(lines))
    # The budget is one second; the bound is wide because machines of tests are slow and shared.
    assert time.process_time() - begin < 10
    assert len(plan.nodes) == 10_001


def test_settings_of_a_group_may_stand_under_config():
    both = """
name: w
tasks:
  - name: p
    type: parallel
    {}
"""
    beside = by_path(
        both.format("join: any\n    losers: await\n    tasks: [{name: a, type: noop}]")
    )
    under = by_path(
        both.format("config: {join: any, losers: await, tasks: [{name: a, type: noop}]}")
    )
    assert under["p"].join == beside["p"].join == Join(kind="any", losers="await")
    assert under.keys() == beside.keys()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{max: 3}", "unknown key 'max' in task 'p': config"),
        ("{jion: any}", "unknown key 'jion' in task 'p': config"),
        ("{join: any}", "'join' stands beside 'config' too"),
        ("fast", "must be a mapping"),
    ],
)
def test_nothing_under_config_of_a_group_is_ignored(config, message):
    problems = refused(
        f"""
name: w
tasks:
  - name: p
    type: parallel
    join: all
    config: {config}
    tasks: [{{name: a, type: noop}}]
"""
    )
    assert message in problems[0].message
    assert problems[0].line == 7
