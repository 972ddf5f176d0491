"""The table of the design's holes in docs/reliability.md is true: its tests and bugs exist."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
HEADING = "## Holes and what closes each"
HOLES = 17
BUGS = {
    bug["name"]
    for bug in tomllib.loads((Path(__file__).parent / "planted.toml").read_text())["bug"]
}
QUOTED = re.compile(r"`([^`]+)`")


def rows():
    """Yield (number, hole, what closes it, tests, bugs) of each row."""
    section = PAGE.read_text().split(HEADING + "\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            number, hole, closed, tests, bugs = cells
            yield int(number), hole, closed, QUOTED.findall(tests), QUOTED.findall(bugs)


ROWS = list(rows())
each = pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))


def test_there_is_a_row_for_each_hole():
    assert [row[0] for row in ROWS] == list(range(1, HOLES + 1))


@each
def test_every_row_says_what_closes_it_and_names_tests_and_bugs(row):
    _, hole, closed, tests, bugs = row
    assert hole
    assert closed
    assert tests
    assert bugs


@each
def test_every_test_in_a_row_exists(row):
    for name in row[3]:
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        defined = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert function in defined, name


@each
def test_every_bug_in_a_row_is_planted(row):
    assert set(row[4]) <= BUGS
