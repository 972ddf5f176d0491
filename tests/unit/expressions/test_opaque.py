"""Values that lie elsewhere: passed on, never looked at."""

import pytest

from headrace.expressions import ExpressionError, Opaque, OpaqueValue, evaluate_template, parse

FAR = Opaque({"$blob": {"ref": "a/b/c", "size": 9}})
CONTEXTS = {"x": {"far": FAR, "list": [FAR, 1], "near": "text"}}


@pytest.mark.parametrize(
    "source",
    ["x.far", "x['far']", "x.list[0]", "x.far || 'b'", "true && x.far", "case(true, x.far, 1)"],
)
def test_passed_on(source):
    assert parse(source).evaluate(CONTEXTS) is FAR


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("!x.far", False),
        ("x.far && x.near", "text"),
        ("x.near == 'text' || x.far", True),
        ("x.list[1]", 1),
        ("x.*", [FAR, [FAR, 1], "text"]),
    ],
)
def test_its_truth_and_what_stands_beside_it_are_known(source, value):
    assert parse(source).evaluate(CONTEXTS) == value


@pytest.mark.parametrize(
    "source",
    [
        *("x.far.a", "x.far[0]", "x.far.*", "x[x.far]", "x.*.a"),
        *("x.far == 'a'", "1 < x.far", "x.far == null", "x.far != x.near"),
        *("contains(x.far, 'a')", "contains(x.list, 'a')", "contains('a', x.far)"),
        *("startsWith(x.far, 'a')", "endsWith('a', x.far)", "format('{0}', x.far)"),
        *("join(x.far)", "join(x.list)", "toJSON(x.far)", "toJSON(x)", "fromJSON(x.far)"),
    ],
)
def test_looked_at(source):
    with pytest.raises(OpaqueValue) as caught:
        parse(source).evaluate(CONTEXTS)
    assert caught.value.value is FAR
    assert isinstance(caught.value, ExpressionError)


def test_in_a_text():
    assert evaluate_template("${{ x.far }}", CONTEXTS) is FAR
    with pytest.raises(OpaqueValue):
        evaluate_template("a ${{ x.far }}", CONTEXTS)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("steps.a.outputs.x", {"steps": {"a"}}),
        ("Steps.a.x == steps['b'] || inputs.c", {"steps": {"a", "b"}, "inputs": {"c"}}),
        ("steps.a.x || steps", {"steps": None}),
        ("steps[inputs.name]", {"steps": None, "inputs": {"name"}}),
        ("toJSON(needs)", {"needs": None}),
        ("matrix.*.a", {"matrix": None}),
        ("1", {}),
    ],
)
def test_which_properties_are_read(source, found):
    assert parse(source).properties() == found
