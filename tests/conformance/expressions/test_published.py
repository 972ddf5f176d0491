"""Every published case of the expression language, error texts included.

The cases stand outside the repository: in the folder that `HEADRACE_CONFORMANCE` names, by
default `../shared/conformance` beside it.
"""

import json
import os
from pathlib import Path

import pytest

from support.expression_cases import check

_REPOSITORY = Path(__file__).parents[3]
_FOLDER = Path(
    os.environ.get("HEADRACE_CONFORMANCE", _REPOSITORY.parent / "shared" / "conformance")
)


def _cases():
    for path in sorted((_FOLDER / "expressions").glob("*.json")):
        for group, cases in json.loads(path.read_text("utf-8")).items():
            for index, case in enumerate(cases):
                yield pytest.param(
                    case, id=f"{path.stem}-{group}-{index}".encode("ascii", "replace").decode()
                )


_CASES = list(_cases())

pytestmark = pytest.mark.skipif(not _CASES, reason=f"no published cases below {_FOLDER}")


@pytest.mark.parametrize("case", _CASES)
def test_published_case(case):
    check(case)
