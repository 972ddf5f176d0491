"""What a forecast says comes true: the same file, run by the engine, is the oracle."""

import asyncio

import pytest

from headrace.language import _forecast as module
from headrace.language import compile_workflow, forecast
from headrace.local import LocalEngine
from headrace.plan import check_inputs

FILE = """
on:
  workflow_dispatch:
    inputs:
      target: {type: choice, options: [test, prod], default: test}
      list: {type: json, default: [a, b]}
jobs:
  build:
    runs-on: [linux, "${{ matrix.os }}"]
    strategy: {matrix: {os: [x, y], n: [1, 2], exclude: [{os: x, n: 1}]}}
    steps:
      - {uses: noop}
      - {if: matrix.n == 2, uses: noop}
      - {if: failure(), uses: noop}
  deploy:
    needs: build
    if: inputs.target == 'prod'
    steps:
      - {id: ask, uses: noop, with: {ok: true}, compensate: {uses: noop}}
      - {id: dynamic, uses: noop, if: steps.ask.outputs.ok}
      - id: each
        loop: {for-each: "${{ inputs.list }}", as: it, steps: [{uses: noop, if: it == 'b'}]}
      - id: twice
        loop: {repeat: 2, steps: [{uses: noop}]}
      - id: which
        if: inputs.target == 'test'
        then: [{uses: noop}]
        elif: [{if: inputs.target == 'prod', then: [{uses: noop}]}]
        else: [{uses: noop}]
      - {id: behind, uses: noop}
  after: {needs: deploy, steps: [{uses: noop}]}
  last: {needs: [deploy], if: always(), steps: [{uses: noop}]}
  rule: {needs: [deploy, build], trigger-rule: none_failed, steps: [{uses: noop}]}
  broken: {needs: build, trigger-rule: one_failed, steps: [{uses: noop}]}
"""
PLAN = compile_workflow(FILE, file="w.yaml")


def look(**given):
    return {n.path: n for n in forecast(PLAN, check_inputs(PLAN, given)).nodes}


@pytest.mark.parametrize("given", [{}, {"target": "prod"}, {"target": "prod", "list": ["b"]}])
async def test_a_run_does_what_was_said(given):
    said = forecast(PLAN, check_inputs(PLAN, given)).nodes
    async with LocalEngine() as engine, asyncio.timeout(60):
        view = await engine.run(PLAN, given)
    states = {step.path: step.state for step in view.steps}
    assert view.state == "COMPLETED"
    runs = {node.path for node in said if node.decision == "runs"}
    skipped = {node.path for node in said if node.decision == "skipped"}
    assert {path: states.get(path) for path in runs} == dict.fromkeys(runs, "COMPLETED")
    assert {states.get(path, "SKIPPED") for path in skipped} <= {"SKIPPED"}
    tasks = {step.path for step in view.steps if step.kind == "task"}
    assert {path for path in tasks if states[path] == "COMPLETED"} <= {node.path for node in said}


def test_reasons():
    found = look()
    assert found["build"].reason == "3 legs"
    assert found["build[x,2]/noop-2"].reason == "if: matrix.n == 2"
    assert found["build[y,1]/noop-2"].reason == "if: matrix.n == 2 is false"
    assert found["build[y,1]/noop-3"].decision == "depends"
    assert found["build[y,1]/noop"].labels == ["linux", "y"]
    assert found["deploy"].reason == "if: inputs.target == 'prod' is false"
    assert found["deploy"].after == ["build"]
    assert found["after"].reason == "it needs 'deploy', which is skipped"
    assert (found["last"].decision, found["rule"].decision) == ("runs", "runs")
    assert found["broken"].decision == "depends"


def test_what_undoes_a_step_is_only_called_for():
    found = look(target="prod")
    undoes = found["deploy/ask~compensate"]
    assert (undoes.decision, undoes.after) == ("depends", [])
    assert undoes.reason == "undoes 'ask', if that has completed and is compensated"
    assert found["deploy/dynamic"].after == ["deploy/ask"]
    handled = compile_workflow(
        "handlers: {tidy: {run: echo tidy}}\n"
        "jobs: {a: {steps: [{id: f, run: x, on-failure: run tidy}, {run: y}]}}"
    )
    (handler,) = [n for n in forecast(handled, {}).nodes if n.path == "a/f~handler"]
    assert handler.decision == "depends"
    assert handler.reason == "only if a failure or a cancel calls for it"


def test_what_only_the_run_learns_is_not_guessed():
    found = look(target="prod", list=["b"])
    dynamic = found["deploy/dynamic"]
    assert dynamic.decision == "depends"
    assert dynamic.reason == "if: steps.ask.outputs.ok ('steps' is not known yet)"
    assert found["deploy/which/else"].reason == "an earlier branch is taken"
    assert "deploy/each[1]/noop" not in found
    assert found["deploy/behind"].decision == "runs"
    loop = "jobs: {a: {steps: [{loop: {for-each: '${{ github.event.x }}', steps: [{run: x}]}}]}}"
    (each, inside) = forecast(compile_workflow(loop), {}).nodes[1:]
    assert "'github', which is not known yet" in each.reason
    assert inside.path == "a/loop[*]/step-1"


def test_a_forecast_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "STEPS_MAX", 50)
    plan = compile_workflow(
        "jobs: {a: {steps: [{loop: {repeat: 1000, steps: [{run: x}, {run: y}]}}]}}"
    )
    found = forecast(plan, {})
    assert found.truncated
    assert len(found.nodes) <= 52
