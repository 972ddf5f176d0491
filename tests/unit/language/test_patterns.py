"""`docs/patterns.md`: 43 patterns, each with a file that runs, or a no."""

import json
import re
from pathlib import Path

import pytest

from support.examples import check_run

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "patterns.md").read_text("utf-8")
ROW = re.compile(
    r"^\| (\d+) \| ([^|]+) \| (yes|no) \| ([^|]+) \| (?:-|\[file\]\((.+?)\)) \|$", re.M
)
FILES = sorted((DOCS / "patterns").glob("*.yaml"))


def test_every_pattern_has_an_answer():
    rows = ROW.findall(PAGE)
    assert [int(number) for number, *_ in rows] == list(range(1, 44))
    linked = {file for *_, file in rows if file}
    assert linked | {"patterns/child.yaml"} == {f"patterns/{path.name}" for path in FILES}
    assert [name for _, name, answer, _, file in rows if answer == "yes" and not file] == []
    yes = sum(answer == "yes" for _, _, answer, _, _ in rows)
    assert f"{yes} times" in PAGE
    assert f"{43 - yes} times no" in PAGE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_pattern(path):
    first, second = path.read_text("utf-8").splitlines()[:2]
    number = re.match(r"# WCP-(\d+) ", first)
    assert number is None or path.name.startswith(f"{int(number[1]):02d}-")
    await check_run(str(path), json.loads(second.removeprefix("# run: ")))
