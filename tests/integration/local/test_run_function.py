"""`flowctl run` of a workflow function."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster import Machine

FLOWS = """
import datetime
from headrace.sdk import App, Context

app = App("sums")

@app.step
async def total(numbers: list[int]) -> int:
    return sum(numbers)

@app.workflow
async def count(ctx: Context, numbers: list[int], name: str, on: datetime.date) -> str:
    return f"{name} {await ctx.step(total, numbers)} {on.year}"
"""
GIVEN = ("-i", "numbers=[1, 2]", "-i", "name=7", "-i", "on=2024-05-01")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "sums.py").write_text(FLOWS)
    return Machine(tmp_path / "machine", env={"PYTHONPATH": str(tmp_path)})


@pytest.mark.parametrize("target", ["sums:count", "sums:app/count"])
async def test_its_inputs_are_typed_by_its_signature(machine: Machine, target: str) -> None:
    ran = await machine.flowctl("run", target, *GIVEN, "-q", "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.json["output"] == {"result": "7 3 2024"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sums:count", "-i", "nam=x"], "unknown input 'nam'\n    did you mean 'name'?"),
        (["sums:count", "-i", "name=x"], "input 'on' is required"),
        (["sums:count", *GIVEN, "-i", "on=never"], "input 'on' must be of type date, not 'never'"),
        (["sums:app/cont"], "sums:app has no workflow 'cont' (there are: count)"),
        (["sums:app"], "'sums:app' is an app: say sums:app/NAME (there are: count)"),
        (["sums:days"], "error: 'sums:days': module 'sums' has no attribute 'days'"),
        (["nowhere:flow"], "error: 'nowhere:flow': No module named 'nowhere'"),
    ],
    ids="abcdefg",
)
async def test_mistakes_are_refused(machine: Machine, words: list[str], said: str) -> None:
    ran = await machine.flowctl("run", *words)
    assert (ran.code, "Traceback" in ran.err) == (3, False)
    assert said in ran.err
