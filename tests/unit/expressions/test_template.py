import pytest

from headrace.expressions import (
    ExpressionError,
    evaluate_template,
    parse_condition,
    parse_template,
    resolve,
    template_expressions,
)

CONTEXTS = {"a": 1, "b": [1, 2], "s": "text", "n": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${{ a }}", 1),
        ("${{b}}", [1, 2]),
        ("${{ n }}", None),
        (" ${{ a }}", " 1"),
        ("${{ a }}${{ s }}", "1text"),
        ("<${{ n }}|${{ b }}>", "<|Array>"),
        ("${{ '}}' }}", "}}"),
        ("${{ '${{' }}!", "${{!"),
        ("${{ 'it''s }} fine' }}.", "it's }} fine."),
        ("}} ${ a }", "}} ${ a }"),
    ],
)
def test_templates(text, expected):
    assert evaluate_template(text, CONTEXTS) == expected


@pytest.mark.parametrize(
    ("text", "message", "offset"),
    [
        ("x ${{ a", "The expression is not closed", 2),
        ("x ${{ 'a }}", "The expression is not closed", 2),
        ("x ${{ }}", "An expression was expected", 2),
        ("x ${{  a b }}", "Unexpected symbol: 'b'", 9),
    ],
)
def test_bad_templates(text, message, offset):
    with pytest.raises(ExpressionError, match=message) as caught:
        parse_template(text)
    assert caught.value.offset == offset


def test_long_templates_take_time_in_proportion():
    with pytest.raises(ExpressionError, match="Exceeded max expression length 21000"):
        parse_template("${{ " + "''" * 1_000_000 + " }}")
    with pytest.raises(ExpressionError, match="Exceeded max template length 4194304"):
        parse_template("${{ a }}" * 1_000_000)
    assert len(parse_template("${{ a }}" * 100_000)) == 100_000


def test_expressions_of_a_template():
    assert [e.source for e in template_expressions("x ${{ a }} ${{ b.c }}")] == ["a", "b.c"]
    assert template_expressions("none") == []


def test_resolve_goes_into_lists_and_mappings_and_keys():
    value = {"x": ["${{ a }}", {"${{ s }}": "-${{ a }}-"}], "y": 2}
    assert resolve(value, CONTEXTS) == {"x": [1, {"text": "-1-"}], "y": 2}


@pytest.mark.parametrize("value", [{"a": [1, {"b": "c"}]}, [], "x", 3, None, ["a", ["b"]]])
def test_resolve_returns_the_same_object_without_expressions(value):
    assert resolve(value, CONTEXTS) is value


def test_resolve_is_bounded_in_depth():
    value = "${{ a }}"
    for _ in range(500):
        value = [value]
    with pytest.raises(ExpressionError, match="VALUE_DEPTH_MAX"):
        resolve(value, CONTEXTS)


@pytest.mark.parametrize(
    ("condition", "succeeded", "expected"),
    [
        ("", True, True),
        ("", False, False),
        ("a == 1", True, True),
        ("a == 1", False, False),
        ("a == 2 || a == 1", False, False),
        ("always()", False, True),
        ("failure() || a == 2", False, True),
        ("contains(toJSON(b), 2) && !Success()", False, True),
    ],
)
def test_conditions_imply_success(condition, succeeded, expected):
    functions = {
        "success": lambda: succeeded,
        "failure": lambda: not succeeded,
        "always": lambda: True,
        "cancelled": lambda: False,
    }
    assert bool(parse_condition(condition).evaluate(CONTEXTS, functions)) is expected
