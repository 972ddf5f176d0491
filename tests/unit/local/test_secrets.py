"""Secrets and variables from the file to the step, through the engine."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.language import compile_workflow
from headrace.local import LocalEngine


class Fixed:
    def __init__(self, **values: str) -> None:
        self._values = values

    def read(self) -> Mapping[str, str]:
        return self._values


async def run(text: str, secrets: Fixed | None = None, variables: Fixed | None = None):
    async with LocalEngine(secrets=secrets or Fixed(), variables=variables or Fixed()) as engine:
        view = await engine.run(compile_workflow(text, file="w.yaml"))
        history = str(await engine.history(view.id))
    return view, history


JOBS = """
name: w
vars: {region: eu}
env: {FROM_ROOT: "${{ secrets.TOKEN }}", WHERE: "${{ vars.region }}-${{ vars.ZONE }}"}
jobs:
  a:
    runs-on: x
    env: {FROM_JOB: "job ${{ secrets.token }}", PLAIN: plain}
    steps:
      - env: {FROM_STEP: "${{ secrets.TOKEN }}", EMPTY: "${{ secrets.NONE }}"}
        run: |
          test "$FROM_ROOT" = hunter2hunter2
          test "$FROM_JOB" = "job hunter2hunter2"
          test "$FROM_STEP" = hunter2hunter2
          test "$EMPTY" = ""
          test "$WHERE" = eu-z1
          test "${{ env.FROM_JOB }}" = "job hunter2hunter2"
          test "${{ env.WHERE }} ${{ env.PLAIN }}" = "eu-z1 plain"
          test "${{ vars.zone }}" = z1
          test "${{ secrets.TOKEN == 'hunter2hunter2' }}" = true
          echo "the token is ${{ secrets.TOKEN }}"
          echo "said=$FROM_ROOT" >> "$GITHUB_OUTPUT"
      - {id: with, uses: noop, with: {a: "${{ secrets.TOKEN }}", b: ["${{ vars.ZONE }}"]}}
      - id: env
        uses: noop
        with: {a: "${{ env.FROM_JOB }}", b: "${{ env.WHERE }}", c: "${{ env.PLAIN }}"}
      - if: vars.region == 'eu'
        run: echo "in the eu"
"""


async def test_every_way_into_a_step() -> None:
    view, history = await run(JOBS, Fixed(TOKEN="hunter2hunter2"), Fixed(ZONE="z1", REGION="us"))
    steps = {step.path: step for step in view.steps}
    assert view.state == "COMPLETED", [(s.path, s.error) for s in view.steps]
    first = next(step for path, step in steps.items() if path.startswith("a/step-1"))
    assert first.outputs["said"] == "***"
    assert "the token is ***" in first.outputs["stdout"]
    assert steps["a/with"].outputs == {"a": "***", "b": ["z1"]}
    assert steps["a/env"].outputs == {"a": "job ***", "b": "eu-z1", "c": "plain"}
    assert "hunter2" not in history + str(view)


async def test_a_secret_that_a_step_finds_elsewhere_is_hidden_too(tmp_path) -> None:
    (tmp_path / "token").write_text("hunter2hunter2")
    text = (
        "name: w\njobs:\n  a:\n    runs-on: x\n    steps:\n"
        f"      - {{id: read, uses: file/read, with: {{path: '{tmp_path}/token'}}}}\n"
        f"      - {{id: fail, uses: file/read, with: {{path: '{tmp_path}/hunter2hunter2'}}}}\n"
    )
    view, history = await run(text, Fixed(TOKEN="hunter2hunter2"))
    steps = {step.path: step for step in view.steps}
    assert steps["a/read"].outputs["content"] == "***"
    assert steps["a/fail"].state == "FAILED"
    assert "***" in steps["a/fail"].error
    assert "hunter2" not in history + str(view)


THREE = """
name: w
run-name: to ${{ vars.target }}
vars: {declared: workflow}
jobs:
  off:
    if: vars.NONE == 'x'
    runs-on: x
    steps: [{run: "true"}]
  on:
    if: vars.TARGET == 'prod'
    runs-on: x
    steps:
      - {id: say, uses: noop, with: {t: "${{ vars.TARGET }}", d: "${{ vars.DECLARED }}",
         w: "${{ vars.THEIRS }}", n: "${{ vars.NONE }}"}}
"""


async def test_variables_of_the_namespace_stand_between_the_workflows_and_the_workers() -> None:
    theirs = Fixed(THEIRS="worker", TARGET="worker", DECLARED="worker")
    async with LocalEngine(secrets=Fixed(), variables=theirs) as engine:
        await engine._client.variables.set("target", "prod")
        await engine._client.variables.set("DECLARED", "namespace")
        view = await engine.run(compile_workflow(THREE, file="w.yaml"))
        (created, *_) = await engine.history(view.id)
    steps = {step.path: step for step in view.steps}
    assert (view.state, view.name, steps["off"].state) == ("COMPLETED", "to prod", "SKIPPED")
    assert steps["on/say"].outputs == {"t": "prod", "d": "workflow", "w": "worker", "n": None}
    assert created.data["variables"] == {"DECLARED": "namespace", "target": "prod"}
