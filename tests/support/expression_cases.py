"""Runs one case of the expression language; cases are data, published ones and ours."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.expressions import ExpressionError, kind_of, parse


def expression(case: dict[str, Any]) -> str:
    """Return what a case evaluates."""
    if "expr" in case:
        return str(case["expr"])
    return "".join(text * times for text, times in case["repeat"])


def check(case: dict[str, Any]) -> None:
    """Evaluate a case, and compare: the kind and the value, or the kind and text of the error."""
    contexts = case.get("contexts", {})
    text = expression(case)
    if "err" in case:
        with pytest.raises(ExpressionError) as caught:
            parse(text, contexts=contexts).evaluate(contexts)
        assert caught.value.kind == case["err"]["kind"]
        assert matches(case["err"]["value"], caught.value.message), caught.value.message
        return
    value = parse(text, contexts=contexts).evaluate(contexts)
    assert kind_of(value) == case["result"]["kind"]
    assert value == case["result"]["value"]


def matches(expected: str, message: str) -> bool:
    """A whole sentence (it names a position) must be equal; some cases give only a part of it."""
    return message == expected if "Located at" in expected else expected in message
