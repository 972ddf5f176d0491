"""Every published case of the expression language, error texts included.

The cases stand outside the repository: in the folder that `HEADRACE_CONFORMANCE` names, by
default `../shared/conformance` beside it.
"""

import json
import os
from pathlib import Path

import pytest

from headrace.expressions import ExpressionError, kind_of, parse

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


def _matches(expected, message):
    # A whole sentence (it names a position) must be equal; some cases give only a part of it.
    return message == expected if "Located at" in expected else expected in message


@pytest.mark.parametrize("case", _CASES)
def test_published_case(case):
    contexts = case.get("contexts", {})
    if "err" in case:
        with pytest.raises(ExpressionError) as caught:
            parse(case["expr"], contexts=contexts).evaluate(contexts)
        assert caught.value.kind == case["err"]["kind"]
        assert _matches(case["err"]["value"], caught.value.message), caught.value.message
        return
    value = parse(case["expr"], contexts=contexts).evaluate(contexts)
    assert kind_of(value) == case["result"]["kind"]
    assert value == case["result"]["value"]
