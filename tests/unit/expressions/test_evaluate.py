"""Rules of evaluation beside the published cases."""

import math

import pytest

from headrace.expressions import ExpressionError, kind_of, parse, to_number, to_string, truthy


def value(source, contexts=None, functions=None):
    return parse(source).evaluate(contexts or {}, functions or {})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'it''s ''it'''", "it's 'it'"),
        ("  \n 1 ", 1),
        ("", None),
        ("1 == 1 == true", True),
        ("!true || true", True),
        ("!(true || true)", False),
        ("'a' < 'B' && 'B' < 'c'", True),
        ("null < 1", True),
        ("null >= 0", True),
        ("'x' < 1", False),
        ("fromJSON('{}') < 1", False),
        ("NaN == NaN", False),
        ("NaN != NaN", True),
        ("0x7fffffff", 2147483647),
        ("0xffffffff", -1),
        ("' 0x1ffffffff ' == ' 0x1ffffffff '", True),
        ("1e400", math.inf),
        ("'ß' == 'SS'", False),
        ("'ſ' == 's'", False),
        ("'\u212a' == 'k'", False),
        ("'\U0001f600' > '\uff5e'", False),
        ("0 || 'default'", "default"),
        ("'' && 'never'", ""),
    ],
)
def test_values(source, expected):
    assert value(source) == expected


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1e15, "1E+15"),
        (123456789012345678, "1.23456789012346E+17"),
        (999999999999999, "999999999999999"),
        (1e-5, "1E-05"),
        (0.0001, "0.0001"),
        (-0.0, "0"),
        (10**400, "Infinity"),
        (-(10**400), "-Infinity"),
        (True, "true"),
        (None, ""),
        ([1], "Array"),
        ({}, "Object"),
        ((1,), "Array"),
    ],
)
def test_to_string(number, text):
    assert to_string(number) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), (" 1. ", 1), (".5e1", 5), ("+Infinity", math.inf), ("0o17", 15), ("0b1", None),
     ("1_000", None), ("١", None), ("0x", None), ("1e", None), ("infinity", None)],
)  # fmt: skip
def test_to_number(text, number):
    found = to_number(text)
    assert math.isnan(found) if number is None else found == number


def test_truth():
    assert [truthy(v) for v in (None, False, 0, 0.0, math.nan, "")] == [False] * 6
    assert [truthy(v) for v in ("0", "false", [], {}, -1, True)] == [True] * 6


def test_kinds():
    kinds = [kind_of(v) for v in (None, True, 1, 1.5, "", [], {})]
    assert kinds == ["Null", "Boolean", "Number", "Number", "String", "Array", "Object"]


CONTEXTS = {
    "steps": {"Build": {"outputs": {"path": "/x"}}},
    "list": [{"name": "a", "tags": ["x", "y"]}, {"name": "b"}, 3, None],
    "Env": {"PATH": "upper", "path": "lower"},
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("steps.build.OUTPUTS.path", "/x"),
        ("steps['build'].outputs['PATH']", "/x"),
        ("env.path", "lower"),
        ("env.PATH", "upper"),
        ("env.Path", "upper"),
        ("list.*.name", ["a", "b"]),
        ("list.*.tags.*", ["x", "y"]),
        ("list[0].tags[1]", "y"),
        ("list.*.tags[0]", ["x"]),
        ("list[9].name.deep", None),
        ("list[-1]", None),
        ("list[1.9].name", "b"),
        ("steps.*.outputs.path", ["/x"]),
        ("join(list.*.name, '+')", "a+b"),
        ("(list)[0].name", "a"),
        ("contains(list.*.name, 'B')", True),
        ("contains(list, 3)", True),
        ("contains(steps, 'build')", False),
        ("contains('abc', steps)", False),
        ("startsWith(list, 'a')", False),
        ("toJSON(list[1])", '{\n  "name": "b"\n}'),
        ("toJSON(fromJSON('[1.0, [], {\"a\": [\"é\\n\"]}]'))",
         '[\n  1,\n  [],\n  {\n    "a": [\n      "é\\n"\n    ]\n  }\n]'),
        ("format('{1}{0}{{}}', 'a', 2)", "2a{}"),
        ("case(false, fromJSON('no'), 'lazy')", "lazy"),
        ("format('x', fromJSON('no'))", "x"),
        ("'' == list[9]", True),
    ],
)  # fmt: skip
def test_access_and_functions(source, expected):
    assert value(source, CONTEXTS) == expected


def test_the_result_of_a_star_is_a_plain_list():
    assert type(value("list.*.name", CONTEXTS)) is list


def test_objects_are_equal_by_identity_only():
    shared = {"a": 1}
    assert value("x == y", {"x": shared, "y": shared}) is True
    assert value("x == y", {"x": {"a": 1}, "y": {"a": 1}}) is False


def test_supplied_functions_get_values_and_match_any_case():
    seen = []
    result = value("HashFiles('a', 1)", {}, {"hashFiles": lambda *a: seen.append(a) or "h"})
    assert (result, seen) == ("h", [("a", 1)])


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("a b", "parsing", "Unexpected symbol: 'b'. Located at position 3 within expression: a b"),
        ("a.", "parsing", "Unexpected end of expression: '.'. Located at position 2 within"),
        ("a[1", "parsing", "Unexpected end of expression: '1'. Located at position 3 within"),
        ("contains(a,", "parsing", "Unexpected end of expression: ','. Located at position 11"),
        ("contains(a,)", "parsing", "Unexpected symbol: ')'. Located at position 12 within"),
        ("nope(1)", "parsing", "Unrecognized function: 'nope'. Located at position 1 within"),
        ("contains(a)", "parsing", "Too few parameters supplied: 'contains'. Located at"),
        ("join(1,2,3)", "parsing", "Too many parameters supplied: 'join'. Located at position 1"),
        ("'open", "lexing", "Unexpected symbol: ''open'. Located at position 1 within"),
        ("'\U0001f600' #", "lexing", "Unexpected symbol: '#'. Located at position 6 within"),
        ("'a'.b", "lexing", "Unexpected symbol: '.b'. Located at position 4 within"),
        ("1.2.3", "lexing", "Unexpected symbol: '1.2.3'. Located at position 1 within"),
        ("a.*b", "parsing", "Unexpected symbol: 'b'. Located at position 4 within"),
        ("*", "parsing", "Unexpected symbol: '*'. Located at position 1 within"),
        ("a" * 21_001, "parsing", "Exceeded max expression length 21000"),
        ("(" * 51 + "1" + ")" * 51, "parsing", "Exceeded max expression depth 50"),
        ("1 == " * 60 + "1", "parsing", "Exceeded max expression depth 50"),
        ("fromJSON('{')", "evaluation", "Error parsing JSON when evaluating fromJson: "),
        ("fromJSON(' ')", "evaluation", "Error parsing JSON when evaluating fromJson: empty"),
        ("format('{0:x}', 1)", "evaluation", "The format specifiers 'x' are not valid"),
        ("format('{9}', 1)", "evaluation", "The following format string references more"),
        ("format('{999}', 1)", "evaluation", "The following format string is invalid: {999}"),
        ("missing.x", "parsing", "Unrecognized named-value: 'missing'. Located at position 1"),
        ("success()", "parsing", "Unrecognized function: 'success'. Located at position 1"),
    ],
)
def test_errors(source, kind, message):
    with pytest.raises(ExpressionError) as caught:
        value(source, {"a": 1})
    assert caught.value.kind == kind
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("format('{0}{0}{0}{0}', format('{0}{0}{0}{0}', big))", "RESULT_LENGTH_MAX"),
        ("join(many, big)", "RESULT_LENGTH_MAX"),
        (" || ".join(["contains(big, 'x')"] * 60), "WORK_MAX"),
        ("toJSON(deep)", "VALUE_DEPTH_MAX"),
        (f"fromJSON('{'[' * 300 + ']' * 300}')", "VALUE_DEPTH_MAX"),
        (f"fromJSON('{'[' * 9000 + ']' * 9000}')", "VALUE_DEPTH_MAX"),
    ],
)
def test_limits_are_named(source, limit):
    deep = []
    for _ in range(300):
        deep = [deep]
    contexts = {"big": "y" * 1_000_000, "many": list(range(100)), "deep": deep}
    with pytest.raises(ExpressionError, match=f"expression limit exceeded: {limit}"):
        value(source, contexts)


def test_names_functions_and_paths():
    expression = parse("Steps.a.b && needs['Job'].x[matrix.i] || always() && inputs")
    assert expression.names() == {"steps", "needs", "matrix", "inputs"}
    assert expression.functions() == {"always"}
    assert expression.paths() == {
        ("steps", "a", "b"),
        ("needs", "Job", "x"),
        ("matrix", "i"),
        ("inputs",),
    }
    assert parse("steps.*.outputs || fromJSON(x).y || a[b].c").paths() == {
        ("steps",),
        ("x",),
        ("a",),
        ("b",),
    }


def test_parsing_is_cached():
    assert parse("github.ref == 'x'") is parse("github.ref == 'x'")


def test_known_contexts_and_functions_can_be_given():
    assert (
        parse("double(a)", contexts=["A"], functions={"double": (1, 1)}).evaluate(
            {"a": 2}, {"double": lambda n: 2 * n}
        )
        == 4
    )
    with pytest.raises(ExpressionError, match="Unrecognized named-value: 'b'"):
        parse("b", contexts=["a"])
    with pytest.raises(ExpressionError, match="Unrecognized function: 'always'"):
        parse("always()", functions={})
