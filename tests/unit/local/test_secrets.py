"""Secrets and variables from the file to the step, through the engine."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from headrace.errors import InvalidDefinition
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


@pytest.mark.parametrize(
    "place",
    [
        "if: vars.NONE == 'x'\n        sleep: 1s",
        "run: 'true'\n        timeout-minutes: ${{ vars.NONE }}",
    ],
)
def test_a_variable_of_workers_where_the_coordinator_decides(place: str) -> None:
    text = f"name: w\njobs:\n  a:\n    runs-on: x\n    steps:\n      - {place}\n"
    with pytest.raises(InvalidDefinition) as caught:
        compile_workflow(text, file="w.yaml")
    (problem,) = caught.value.problems
    assert problem.message == "'vars.NONE' does not exist"
    assert "declare it under 'vars:'" in problem.hint
