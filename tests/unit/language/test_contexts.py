"""Contexts by position: what may be named where, as GitHub's table has it."""

import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow

FILE = """\
vars: {{x: 1}}
on: {{workflow_dispatch: {{inputs: {{a: {{type: string}}}}}}}}
run-name: {run_name}
env: {{R: "{run_env}"}}
concurrency: "{concurrency}"
defaults: {{run: {{working-directory: "{run_defaults}"}}}}
jobs:
  first:
    outputs: {{v: x}}
    steps: [{{run: "true"}}]
  job:
    needs: first
    name: "{job_name}"
    if: {job_if}
    runs-on: "{runs_on}"
    strategy: {{matrix: {{os: [a, "{matrix}"]}}}}
    env: {{E: "{job_env}"}}
    concurrency: {{group: g, cancel-in-progress: "{cancel}"}}
    defaults: {{run: {{shell: "{job_defaults}"}}}}
    outputs: {{o: "{outputs}"}}
    timeout-minutes: "{timeout}"
    continue-on-error: "{tolerated}"
    steps:
      - id: s
        name: "{step_name}"
        if: {step_if}
        env: {{S: "{step_env}"}}
        run: "{run}"
        working-directory: "{directory}"
        continue-on-error: "{step_tolerated}"
        timeout-minutes: "{step_timeout}"
      - uses: noop
        with: {{w: "{with_}"}}
      - if: {control_if}
        sleep: "{sleep}"
"""
NUMBER = ("timeout", "step_timeout")
FLAG = ("cancel", "tolerated", "step_tolerated")
CONDITION = ("job_if", "step_if", "control_if")
PLAIN = {
    "run_name": "r", "run_env": "x", "concurrency": "g", "run_defaults": "d", "job_name": "n",
    "job_if": "true", "runs_on": "l", "matrix": "m", "job_env": "x", "cancel": "${{ true }}",
    "job_defaults": "bash", "outputs": "x", "timeout": "${{ 1 }}", "tolerated": "${{ false }}",
    "step_name": "n", "step_if": "true", "step_env": "x", "run": "true", "directory": "d",
    "step_tolerated": "${{ false }}", "step_timeout": "${{ 1 }}", "with_": "x",
    "control_if": "true", "sleep": "1s",
}  # fmt: skip
EXAMPLES = {
    "github": "github.run_id", "run": "run.id", "inputs": "inputs.a", "vars": "vars.x",
    "needs": "needs.first.outputs.v", "strategy": "strategy.job-index", "matrix": "matrix.os",
    "job": "job.status", "env": "env.R", "steps": "steps.s.outcome", "secrets": "secrets.T",
    "runner": "runner.os", "jobs": "jobs.first.result", "event": "event.x",
    "hashFiles": "hashFiles('x')",
}  # fmt: skip
BASE = {"github", "run", "inputs", "vars"}
LEG = BASE | {"needs", "strategy", "matrix"}
STEP = LEG | {"job", "env", "steps"}
WORK = STEP | {"runner", "secrets", "hashFiles"}
TABLE = {
    "run_name": BASE, "run_env": BASE | {"secrets"}, "concurrency": BASE,
    "run_defaults": BASE | {"env"}, "job_name": LEG, "job_if": BASE | {"needs"}, "runs_on": LEG,
    "matrix": BASE | {"needs"}, "job_env": LEG | {"secrets"}, "cancel": LEG,
    "job_defaults": LEG | {"env"}, "outputs": STEP, "timeout": LEG, "tolerated": LEG,
    "step_name": WORK, "step_if": WORK - {"secrets"}, "step_env": WORK, "run": WORK,
    "directory": WORK, "step_tolerated": STEP, "step_timeout": STEP, "with_": WORK,
    "control_if": STEP, "sleep": STEP,
}  # fmt: skip


def problems_of(text, **options):
    try:
        compile_workflow(text, file="w.yaml", **options)
    except InvalidDefinition as error:
        return error.problems
    return ()


@pytest.mark.parametrize("place", TABLE)
def test_available_contexts(place):
    for name, expression in EXAMPLES.items():
        value = expression if place in CONDITION else f"${{{{ {expression} }}}}"
        problems = problems_of(FILE.format(**{**PLAIN, place: value}))
        if name in TABLE[place]:
            assert not problems, (place, name, problems)
        else:
            assert [p.message.split(" in ")[0] for p in problems] == [
                f"'{name}' is not available"
            ], (place, name, problems)
            assert problems[0].line > 0


def test_a_refusal_says_what_is_here_and_what_to_do():
    text = "jobs:\n  j:\n    steps:\n      - run: x\n        if: secrets.TOKEN != ''\n"
    problem = problems_of(text)[0]
    assert (problem.line, problem.column) == (5, 13)
    assert problem.message.startswith("'secrets' is not available in jobs.j.steps[0].if (here: ")
    assert "env.NAME" in problem.hint


JOB = "jobs:\n  a:\n    outputs: {version: x}\n    steps: [{id: s, run: x}]\n  b:\n    needs: a\n"


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("github.sha", "'github.sha' has no meaning here", "declare an input"),
        ("github.ref_name", "'github.ref_name' has no meaning here", "declare an input"),
        ("github.token", "'github.token' has no meaning here", "use a secret"),
        ("github.run_idd", "'github.run_idd' does not exist", "did you mean 'run_id'?"),
        ("run.nam", "'run.nam' does not exist", "did you mean 'name'?"),
        ("runner.oss", "'runner.oss' does not exist", "did you mean 'os'?"),
        ("job.state", "'job.state' does not exist", "did you mean 'status'?"),
        ("needs.a.output.x", "'needs.a.output' does not exist", "did you mean 'outputs'?"),
        ("needs.a.outputs.versoin", "outputs.versoin' does not exist", "did you mean 'version'?"),
        ("needs.c.result", "'needs.c' does not exist", ""),
        ("steps.t.outputz.x", "'steps.t.outputz' does not exist", "did you mean 'outputs'?"),
        ("matrix.oss", "'matrix.oss' does not exist", "did you mean 'os'?"),
        ("github.event.inputs.x", "", ""),
        ("GitHub.Run_Id", "", ""),
        ("needs.*.result", "", ""),
        ("matrix.extra", "", ""),
        ("steps[matrix.os].outputs", "", ""),
    ],
)
def test_names_that_do_not_exist(expression, message, hint):
    text = (
        f"{JOB}    strategy: {{matrix: {{os: [x], include: [{{extra: 1}}]}}}}\n"
        f'    steps:\n      - {{id: t, run: "${{{{ {expression} }}}}"}}\n'
    )
    problems = problems_of(text)
    if not message:
        assert not problems
        return
    assert len(problems) == 1
    assert message in problems[0].message
    assert hint in problems[0].hint
    assert problems[0].line == 9


def test_a_matrix_known_only_at_run_time_is_not_checked():
    strategy = "strategy: {matrix: '${{ fromJSON(inputs.m) }}'}"
    text = f"jobs: {{a: {{{strategy}, steps: [{{run: '${{{{ matrix.x }}}}'}}]}}}}"
    assert not problems_of(text)
