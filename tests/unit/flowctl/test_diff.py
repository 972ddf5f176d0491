"""`flowctl diff`: its exit codes, and what it prints."""

import json

import pytest

from headrace.messages import StepView

WORKFLOW = """\
name: hello
jobs:
  a:
    runs-on: linux
    steps:
      - {id: say, run: echo a}
"""


@pytest.fixture
def runs(flowctl, cluster, tmp_path):
    """Ids of two ended runs, of definitions and with steps that are not the same."""
    ids = []
    for number, text in enumerate((WORKFLOW, WORKFLOW.replace("echo a", "echo b"))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        step = StepView(
            path="a/say", state="COMPLETED", attempt=1 + number, started_ms=1_000,
            finished_ms=2_000 + 500 * number,
        )  # fmt: skip
        cluster.after_submit = lambda run, step=step: cluster.finish(run, steps=[step])
        ids.append(flowctl("submit", path, "-o", "name").out.strip())
    return ids


def test_zero_for_the_same_one_for_different(flowctl, runs):
    same = flowctl("diff", runs[0], runs[0])
    assert (same.code, same.out) == (0, f"no difference between {runs[0]} and {runs[0]}\n")
    differs = flowctl("diff", *runs)
    assert differs.code == 1
    rows = [line.split() for line in differs.out.splitlines()]
    assert rows[0] == ["WHAT", "PATH", "KEY", "LEFT", runs[0], "RIGHT", runs[1]]
    assert ["definition", "a/say", "inputs.run", "echo", "a", "echo", "b"] in rows
    assert ["step", "a/say", "attempt", "1", "2"] in rows
    assert ["a/say", "1.0s", "1.5s"] in rows


def test_as_json_and_as_names(flowctl, runs):
    ran = flowctl("diff", *runs, "-o", "json")
    shown = json.loads(ran.out)
    assert (ran.code, shown["left"], shown["right"], shown["same"]) == (1, *runs, False)
    assert {
        "what": "step", "path": "a/say", "key": "attempt", "change": "changed", "left": 1,
        "right": 2,
    } in shown["differences"]  # fmt: skip
    assert {"path": "a/say", "left_ms": 1_000, "right_ms": 1_500} in shown["durations"]
    assert flowctl("diff", *runs, "-o", "name").out.split() == ["definition:a/say", "step:a/say"]


def test_trouble_is_told_from_a_difference(flowctl, runs):
    assert flowctl("diff", runs[0], "nowhere").code == 4
    assert flowctl("diff", runs[0]).code == 3
    assert "0 the same, 1 something differs" in flowctl("diff", "--help").out
