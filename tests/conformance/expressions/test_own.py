"""Cases of our own, in the manner of the published ones: each rule of the language has some.

What is expected comes from GitHub's description of expressions and from what the published cases
show, and from no output of ours. A case has `expr`, or `repeat`: a list of (text, times).
"""

import json
from pathlib import Path

import pytest

from support.expression_cases import check

FOLDER = Path(__file__).parent / "cases"


def _cases():
    for path in sorted(FOLDER.glob("*.json")):
        for group, cases in json.loads(path.read_text("utf-8")).items():
            for index, case in enumerate(cases):
                yield pytest.param(case, id=f"{path.stem}-{group}-{index}")


@pytest.mark.parametrize("case", list(_cases()))
def test_case(case):
    check(case)
