import pytest

from headrace.errors import InvalidDefinition
from headrace.language import HandlerSpec, InputField, compile_workflow, node_paths
from headrace.plan import (
    Choice,
    Concurrency,
    Group,
    InputSpec,
    Join,
    Loop,
    Sleep,
    Task,
    Wait,
    validate_plan,
)
from headrace.retry import RetryPolicy


def compiled(text, **options):
    plan = compile_workflow(text, file="w.yaml", **options)
    validate_plan(plan)
    return plan


def steps(yaml, **options):
    """Compile a job of the steps in *yaml*; return {path: node}, paths within the job."""
    body = "\n".join("      " + line for line in yaml.strip("\n").split("\n"))
    plan = compiled(f"jobs:\n  j:\n    steps:\n{body}\n", **options)
    return {
        path.removeprefix("j/"): node
        for path, node in zip(node_paths(plan), plan.nodes, strict=True)
        if "/" in path
    }


def refused(text, **options):
    with pytest.raises(InvalidDefinition) as caught:
        compiled(text, **options)
    return caught.value.problems


ROOT = """
name: deploy
run-name: deploy ${{ inputs.to }}
description: puts it out
version: 1.10
on:
  workflow_dispatch:
    inputs:
      to: {type: choice, options: [dev, prod], default: dev, description: where}
      dry: {type: boolean, default: false}
      count: {type: number, required: true}
env: {A: 1, B: true, C: 1.10, D: null, E: "${{ inputs.to }}"}
vars: {region: eu, list: [1, 2]}
labels: {team: web}
concurrency: {group: "deploy-${{ inputs.to }}", cancel-in-progress: true, queue: single}
timeout-minutes: 1.5
fairness-key: "${{ inputs.to }}"
fairness-weight: 2.5
defaults: {run: {shell: bash}}
jobs:
  build:
    steps: [{run: make}]
"""


def test_root():
    plan = compiled(ROOT)
    assert (plan.name, plan.version, plan.dialect) == ("deploy", "1.10", "jobs")
    assert plan.run_name == "deploy ${{ inputs.to }}"
    assert plan.inputs == {
        "to": InputSpec(type="choice", options=("dev", "prod"), default="dev", description="where"),
        "dry": InputSpec(type="boolean", default=False),
        "count": InputSpec(type="number", required=True),
    }
    assert plan.env == {"A": "1", "B": "true", "C": "1.1", "D": "", "E": "${{ inputs.to }}"}
    assert plan.vars == {"region": "eu", "list": [1, 2]}
    assert plan.labels == {"team": "web"}
    assert plan.timeout_ms == 90_000
    assert plan.concurrency == Concurrency(
        group="deploy-${{ inputs.to }}", cancel_in_progress=True, queue="single"
    )
    assert plan.nodes[2].inputs == {"run": "make", "shell": "bash"}
    assert plan.file == "w.yaml"


JOBS = """
jobs:
  test:
    needs: [build]
    if: ${{ inputs.x != '' }}
    name: Test ${{ matrix.os }}
    runs-on: [linux, "${{ matrix.os }}"]
    strategy:
      matrix: {os: [a, b], include: [{os: c, fast: true}]}
      fail-fast: false
      max-parallel: 2
    env: {X: y}
    outputs: {v: "${{ steps.one.outputs.v }}"}
    timeout-minutes: 5
    continue-on-error: ${{ matrix.os == 'a' }}
    concurrency: lock
    on-worker-loss: continue
    retry: 2
    defaults: {run: {working-directory: src}}
    steps:
      - id: one
        run: a
      - {run: b, retry: {max-attempts: 5, backoff: random, initial: 500ms, max: 2m, not-on: [x]}}
  build:
    runs-on: linux
    steps: [{uses: noop, with: {any: thing}}]
"""


def test_jobs_and_matrix():
    plan = compiled(JOBS)
    loop, job, one, two = plan.nodes[1:5]
    assert isinstance(loop, Loop)
    assert isinstance(job, Group)
    assert (loop.kind, loop.name, loop.variable) == ("matrix", "test", "matrix")
    assert loop.items == {"os": ["a", "b"], "include": [{"os": "c", "fast": True}]}
    assert (loop.fail_fast, loop.max_parallel, loop.needs) == (False, 2, (5,))
    assert loop.condition == "inputs.x != ''"
    assert (job.kind, job.affinity, job.name) == ("job", True, "test")
    assert job.runs_on == ("linux", "${{ matrix.os }}")
    assert job.env == {"X": "y"}
    assert job.outputs == {"v": "${{ steps.one.outputs.v }}"}
    assert job.timeout_ms == 300_000
    assert job.continue_on_error == "${{ matrix.os == 'a' }}"
    assert job.concurrency == Concurrency(group="lock", queue="single")
    assert job.on_worker_loss == "continue"
    assert one.retry == RetryPolicy(max_attempts=2)
    assert one.inputs == {"run": "a", "working-directory": "src"}
    assert two.retry == RetryPolicy(
        max_attempts=5, backoff="random", initial_ms=500, max_ms=120_000, not_on=("x",)
    )
    assert two.needs == (3,)
    assert plan.nodes[5].runs_on == ("linux",)
    assert node_paths(plan)[3] == "test[*]/one"


def test_fail_fast_is_the_default_of_a_matrix():
    plan = compiled("jobs: {j: {strategy: {matrix: {a: [1]}}, steps: [{run: x}]}}")
    assert plan.nodes[1].fail_fast is True


def test_step_fields_and_segments():
    found = steps("""
- name: Say Hello
  run: echo
  if: always()
  env: {N: 1}
  timeout-minutes: ${{ inputs.t }}
  continue-on-error: true
  effect: at-most-once
  heartbeat-timeout: 5s
  schedule-timeout: 1h
  attempt-timeout: 90
  priority: 7
- uses: file/copy
  with: {source: a, destination: "${{ env.N }}"}
- uses: file/copy
  with: {source: a, destination: b}
- run: x
- id: file-copy-3
  run: y
""")
    assert list(found) == ["say-hello", "file-copy", "file-copy-2", "step-4", "file-copy-3"]
    first = found["say-hello"]
    assert isinstance(first, Task)
    assert (first.title, first.uses, first.condition) == ("Say Hello", "shell", "always()")
    assert first.env == {"N": "1"}
    assert first.timeout_ms == "${{ inputs.t }}"
    assert first.continue_on_error is True
    assert first.effect == "at-most-once"
    assert (first.heartbeat_timeout_ms, first.schedule_timeout_ms) == (5_000, 3_600_000)
    assert (first.attempt_timeout_ms, first.priority) == (90_000, 7)
    assert (first.position.line, first.position.column) == (4, 9)


def test_explicit_ids_win_over_derived_names():
    assert list(steps("- run: a\n- {id: step-1, run: b}\n")) == ["step-1-2", "step-1"]


def test_control_nodes():
    found = steps("""
- parallel:
    - run: a
    - pipeline: [{run: b}, {run: c}]
  join: 2
  losers: detach
- id: each
  loop:
    {for-each: "${{ inputs.list }}", as: x, max-parallel: 3, join: any, steps: [{run: "${{ x }}"}]}
- choose:
    - {if: inputs.a, steps: [{run: a}]}
    - {else: true, steps: [{run: b}]}
- wait-for: {signal: "go-${{ run.id }}", timeout: 3d, default: {ok: 1}}
- wait-for: plain
- approval: {name: release, timeout: 1h}
- approval:
- sleep: 1h30m
- sleep: {until: "2027-01-31T08:00:00Z"}
- sleep: ${{ inputs.pause }}
""")  # fmt: skip
    parallel = found["parallel"]
    assert (parallel.kind, parallel.join) == (
        "parallel",
        Join(kind="count", value=2, losers="detach"),
    )
    assert found["parallel/step-1"].needs == found["parallel/pipeline"].needs == ()
    assert found["parallel/pipeline/step-2"].needs != ()
    each = found["each"]
    assert isinstance(each, Loop)
    assert (each.items, each.variable, each.max_parallel) == ("${{ inputs.list }}", "x", 3)
    assert each.join == Join(kind="any")
    assert found["each[*]"].kind == "pipeline"
    assert isinstance(found["choose"], Choice)
    assert found["choose/case-1"].condition == "inputs.a"
    assert found["choose/else"].condition == ""
    wait = found["wait-for"]
    assert isinstance(wait, Wait)
    assert (wait.signal, wait.timeout_ms) == ("go-${{ run.id }}", 259_200_000)
    assert (wait.has_default, wait.default) == (True, {"ok": 1})
    assert found["wait-for-2"].signal == "plain"
    assert (found["approval"].signal, found["approval"].approval) == ("release", True)
    assert found["approval-2"].signal == "approval"
    assert isinstance(found["sleep"], Sleep)
    assert found["sleep"].duration_ms == 5_400_000
    assert found["sleep-2"].until == "2027-01-31T08:00:00Z"
    assert found["sleep-3"].duration_ms == "${{ inputs.pause }}"


@pytest.mark.parametrize("on", ["push", "[push, pull_request]", "{workflow_dispatch: }", ""])
def test_events_of_github_are_let_through(on):
    compiled(f"on: {on}\njobs: {{j: {{steps: [{{run: x}}]}}}}")


JOB = "jobs:\n  j:\n    runs-on: x\n    steps:\n      - run: x\n"


@pytest.mark.parametrize(
    ("text", "message", "line", "column", "hint"),
    [
        ("- a", "a workflow must be a mapping", 1, 1, ""),
        ("name: x", "needs 'jobs:' or 'tasks:'", 1, 1, ""),
        ("job: {}", "needs 'jobs:' or 'tasks:'", 1, 1, "'jobs'"),
        ("jobs: {}\ntasks: []", "not both", 2, 1, ""),
        ("jobs: {}", "at least one job", 1, 7, ""),
        ("jobs: [a]", "jobs must be a mapping, not a list", 1, 7, ""),
        ("jobs:\n  j:", "jobs.j is empty", 2, 3, ""),
        ("jobs:\n  1j: {steps: [{run: x}]}", "cannot be the id of a job", 2, 3, ""),
        ("jobs:\n  j: {runs-on: x}", "jobs.j needs 'steps'", 2, 3, ""),
        (JOB + "nam: x", "unknown key 'nam' in the workflow", 6, 1, "did you mean 'name'?"),
        (JOB + "permissions: x", "'permissions' is not supported", 6, 1, "remove it"),
        (JOB + "on: {schedule: []}", "on.schedule needs at least one 'cron'", 6, 16, ""),
        (JOB + "on: pushh", "unknown event 'pushh'", 6, 5, "did you mean 'push'?"),
        (JOB + "    services: {}", "'services' is not supported", 6, 5, "compose-up"),
        (JOB + "    need: k", "unknown key 'need' in jobs.j", 6, 5, "did you mean 'needs'?"),
        (JOB + "    needs: k", "unknown need 'k'", 6, 12, ""),
        (JOB + "    needs: j", "'j' needs itself", 6, 12, ""),
        (JOB + "    needs: x\n  k: {steps: [{run: x}]}", "unknown need 'x'", 6, 12, "there are: k"),
        (JOB + "      - run: ${{ contian(1, 2) }}", "Unrecog", 6, 18, "did you mean 'contains'?"),
        (JOB + "      - {id: s, run: '${{ steps.q }}'}", "steps.q", 6, 27, "there are: step-1, s"),
        ("jobs:\n\tj: {}", "cannot start any token", 2, 1, "by spaces, not by tabs"),
        (JOB + "        shel: x", "unknown key 'shel'", 6, 9, "did you mean 'shell'?"),
        (JOB + "        uses: noop", "has 'uses' and 'run'", 5, 9, ""),
        (JOB + "        with: {a: 1}", "'with' does not go with 'run'", 6, 9, ""),
        (JOB + "        background: maybe", "background must be true or false", 6, 21, ""),
        (JOB + "        id: a b", "'a b' cannot be an id", 6, 13, ""),
        (JOB + "        retry: {max: x}", "steps[0].retry.max must be a duration", 6, 22, "90s"),
        (JOB + "        shell: bsh", "shell must be one of bash", 6, 16, "did you mean 'bash'?"),
        (JOB + "    defaults: {run: {shell: cmd}}", "must be one of bash, sh", 6, 29, "{0}"),
        (JOB + "        retry: many", "retry must be a whole number, not 'many'", 6, 16, ""),
        (JOB + "        timeout-minutes: 0", "must be more than 0", 6, 26, ""),
        (JOB + "        timeout-minutes: soon", "must be a number, not 'soon'", 6, 26, ""),
        (JOB + "        priority: 1.5", "must be a whole number", 6, 19, ""),
        (JOB + "        effect: once", "must be one of at-least-once", 6, 17, ""),
        (JOB + "        continue-on-error: maybe", "must be true or false", 6, 28, ""),
        (JOB + "        if: a &&", "invalid expression", 6, 15, ""),
        (JOB + "        if: a ${{ b }}", "true always", 6, 13, "put the whole"),
        (JOB + "        env: {A: [1]}", "'A' must be text, not a list", 6, 18, ""),
        (JOB + "        env: {A: '${{ matrx.x }}'}", "name 'matrx'", 6, 23, "'matrix'"),
        (JOB + "        env: {A: '${{ always() }}'}", "only for conditions", 6, 23, ""),
        (JOB + "        env: {A: '${{ nope() }}'}", "Unrecognized function", 6, 23, ""),
        (JOB + "        env: {A: '${{ a'}", "not closed", 6, 19, ""),
        (JOB + "        if: steps.nope.outputs.x", "'steps.nope' does not exist", 6, 13, ""),
        (JOB + "        if: needs.k.result", "'needs.k' does not exist", 6, 13, ""),
        (JOB + "      - uses: shel", "unknown handler 'shel'", 6, 15, "did you mean 'shell'?"),
        (JOB + "      - uses: a/b@v1", "unknown handler", 6, 15, "actions of GitHub"),
        (JOB + "      - uses: shell", "'shell' needs the input 'run'", 6, 15, ""),
        (JOB + "      - {uses: shell, with: {rn: x}}", "unknown input 'rn'", 6, 30, "'run'"),
        (JOB + "      - {uses: shell, with: {run: [x]}}", "must be text, not a list", 6, 35, ""),
        (JOB + "      - {parallel: []}", "needs at least one step", 6, 20, ""),
        (JOB + "      - {parallel: [{run: x}], join: 0}", "join must be all, any", 6, 38, "60%"),
        (JOB + "      - {parallel: [{run: x}], join: 101%}", "join must be", 6, 38, ""),
        (JOB + "      - {loop: {steps: [{run: x}]}}", "needs one of: for-each", 6, 16, ""),
        (JOB + "      - {loop: {for-each: 3, steps: [{run: x}]}}", "must be a list", 6, 27, ""),
        (JOB + "      - {loop: {for-each: [1], as: env, steps: []}}", "'env' cannot", 6, 36, ""),
        (JOB + "      - {loop: {times: 3, steps: []}}", "'times' is not", 6, 17, "repeat"),
        (JOB + "      - {choose: []}", "at least one branch", 6, 18, ""),
        (JOB + "      - {choose: [{steps: [{run: x}]}]}", "needs 'if' or 'else: true'", 6, 19, ""),
        (JOB + "      - {wait-for: {timeout: 3}}", "needs the name of a signal", 6, 20, ""),
        (JOB + "      - {wait-for: {signal: a, default: 1}}", "needs a 'timeout'", 6, 41, ""),
        (JOB + "      - {sleep: }", "needs a duration", 6, 17, ""),
        (JOB + "      - {sleep: {}}", "a duration or 'until'", 6, 17, ""),
        (JOB + "      - {sleep: {until: now}}", "must be a time, not 'now'", 6, 25, ""),
        (JOB + "    strategy: {matrix: {a: x}}", "a must be a list, not 'x'", 6, 28, ""),
        (JOB + "    strategy: {matrix: {include: [x]}}", "must be a mapping", 6, 35, ""),
        (JOB + "    strategy: {matrix: {a: [1], exclude: [{b: 1}]}}", "no axis 'b'", 6, 44, "a"),
        (JOB + "    runs-on: {group: g}", "duplicate key 'runs-on'", 6, 5, "line 3"),
    ],
)  # fmt: skip
def test_problems(text, message, line, column, hint):
    problems = refused(text)
    found = [p for p in problems if message in p.message]
    assert found, [p.message for p in problems]
    assert (found[0].line, found[0].column) == (line, column)
    assert hint in found[0].hint
    assert found[0].source == text.split("\n")[line - 1]


def test_places_inside_texts():
    script = (
        "jobs:\n  j:\n    steps:\n      - run: |\n          one\n\n          two ${{ nope.x }}\n"
    )
    assert [(p.line, p.column) for p in refused(script)] == [(7, 19)]
    folded = script.replace("|", ">")
    assert [(p.line, p.column) for p in refused(folded)] == [(4, 14)]
    wrapped = "jobs:\n  j:\n    steps:\n      - run: one\n          two ${{ nope.x }}\n"
    assert len(refused(wrapped)) == 1
    condition = JOB + "        if: ${{ success() && ( }}"
    assert [(p.line, p.column) for p in refused(condition)] == [(6, 30)]


def test_inputs_that_do_not_exist_are_found_when_some_are_declared():
    text = "on: {workflow_dispatch: {inputs: {colour: {}}}}\n" + JOB
    problem = refused(text.replace("- run: x", "- run: ${{ inputs.color }}"))[0]
    assert problem.message == "'inputs.color' does not exist"
    assert problem.hint == "did you mean 'colour'?"
    compiled(JOB.replace("- run: x", "- run: ${{ inputs.color }}"))


def test_all_problems_come_at_once_in_the_order_of_the_file():
    problems = refused("nam: x\njobs:\n  a: {needs: b, stps: []}\n  b: {needs: a, steps: 3}\n")
    assert [p.line for p in problems] == sorted(p.line for p in problems)
    assert len(problems) >= 4


def test_every_cycle_is_printed():
    text = "jobs:\n" + "".join(
        f"  {name}: {{needs: {needs}, steps: [{{run: x}}]}}\n"
        for name, needs in {"a": "c", "b": "a", "c": "[b, x]", "x": "y", "y": "x", "z": "a"}.items()
    )
    messages = [p.message for p in refused(text)]
    assert messages == [
        "the needs make a cycle: a → c → b → a",
        "the needs make a cycle: x → y → x",
    ]


def test_a_long_cycle_is_cut():
    text = "jobs:\n" + "".join(
        f"  a{i}: {{needs: a{(i + 1) % 500}, steps: [{{run: x}}]}}\n" for i in range(500)
    )
    (problem,) = refused(text)
    assert problem.message.endswith("a18 → a19 → … 480 more … → a0")


def test_many_steps_of_one_name_get_their_own_segments():
    body = ", ".join(["{name: same, run: x}"] * 5_000)
    plan = compiled(f"jobs: {{j: {{steps: [{body}]}}}}")
    assert plan.nodes[-1].name == "same-5000"


def test_more_handlers_can_be_given_or_allowed():
    text = JOB + "      - {uses: my/thing, with: {a: 1}}"
    spec = HandlerSpec(name="my/thing", inputs={"a": InputField(type="number")})
    compiled(text, handlers={"my/thing": spec})
    compiled(text, allow_unknown=True)
    wrong = HandlerSpec(name="my/thing", inputs={"a": InputField(type="boolean")})
    assert "must be true or false" in refused(text, handlers={"my/thing": wrong})[0].message


def test_the_name_comes_from_the_file_if_need_be():
    assert compile_workflow(JOB, file="/some/where/nightly.yaml").name == "nightly"


def test_too_many_nodes_and_too_much_nesting_are_named():
    many = "\n".join("      - run: x" for _ in range(100_001))
    assert "NODES_MAX = 100000" in refused("jobs:\n  j:\n    steps:\n" + many)[0].message
    nested = "{pipeline: [" * 70 + "{run: x}" + "]}" * 70
    text = f"jobs: {{j: {{steps: [{nested}]}}}}"
    assert "_MAX" in refused(text)[0].message
    nested = "{pipeline: [" * 61 + "{run: x}" + "]}" * 61
    compiled(f"jobs: {{j: {{steps: [{nested}]}}}}")


def test_rendering_of_problems():
    with pytest.raises(InvalidDefinition) as caught:
        compile_workflow(JOB + "    need: k", file="w.yaml")
    assert str(caught.value) == (
        "w.yaml:6:5: unknown key 'need' in jobs.j\n"
        "        need: k\n"
        "        ^\n"
        "    did you mean 'needs'?"
    )
