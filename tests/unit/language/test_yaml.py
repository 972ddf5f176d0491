import pytest

from headrace.errors import InvalidDefinition
from headrace.language import compile_workflow
from headrace.language._report import Report
from headrace.language._yaml import load, to_json


def read(text):
    report = Report(text, "w.yaml")
    tree = load(text, report)
    report.finish()
    return to_json(tree)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on: push", {"on": "push"}),
        ("yes: no", {"yes": "no"}),
        ("true: off", {"true": "off"}),
        ("[true, True, FALSE, null, ~, ]", [True, True, False, None, None]),
        ("[1, -2, +3, 0o17, 0xfF, 017]", [1, -2, 3, 15, 255, 17]),
        ("[1.5, .5, 1., 1e3, -2.5E-1]", [1.5, 0.5, 1.0, 1000.0, -0.25]),
        ("[1_000, 12:30, 2001-01-01, 0b1, 1e]", ["1_000", "12:30", "2001-01-01", "0b1", "1e"]),
        ("['1', \"true\", !!str 3]", ["1", "true", "3"]),
        ("[!!int 3, !!float 4, !!bool true, !!null '']", [3, 4, True, None]),
        (f"[{2**63}, {2**64}, -{2**63 + 1}]", [2**63, float(2**64), -float(2**63)]),
        ("a: &x [1, {b: 2}]\nc: *x", {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}),
        ("a: |\n  x\n  y\nb: >-\n  p\n  q", {"a": "x\ny\n", "b": "p q"}),
        ("a:\n", {"a": None}),
    ],
)
def test_core_schema(text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("", "the file is empty", 0, 0),
        ("a: 1\nb: 2\na: 3", "duplicate key 'a'", 3, 1),
        ("a: [1, 2", "invalid YAML", 2, 1),
        ("a: b: c", "mapping values are not allowed", 1, 5),
        ("a: *x", "unknown anchor 'x'", 1, 4),
        ("a: &x [*x]", "unknown anchor 'x'", 1, 8),
        ("a: 1\n---\nb: 2", "one YAML document", 2, 1),
        ("a: !cancelled() x", "unknown YAML tag '!cancelled()'", 1, 4),
        ("a: !thing {b: 1}", "unknown YAML tag '!thing'", 1, 4),
        ("? [a]\n: 1", "a key must be", 1, 3),
        ("? {a: 1}\n: 1", "a key must be", 1, 3),
        ("a: &x [1]\n*x : 2", "a key must be", 2, 1),
        ("a: .inf", "no JSON number", 1, 4),
        ("a: 1e999", "too large", 1, 4),
        ("a: !!int x", "does not fit its tag", 1, 4),
        ("<<: {a: 1}", "merge keys", 1, 1),
        ("a: \x00", "invalid YAML", 1, 4),
        ("a: 1\nö: 2\nb: \x01", "invalid YAML", 3, 4),
        ("a: \ud800", "invalid YAML", 0, 0),
    ],
)
def test_problems_have_places(text, message, line, column):
    with pytest.raises(InvalidDefinition) as caught:
        read(text)
    problem = caught.value.problems[0]
    assert message in problem.message
    assert (problem.line, problem.column) == (line, column)


def test_a_bomb_of_aliases_is_refused_at_once():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(InvalidDefinition, match="YAML_NODES_MAX = 1000000"):
        read("\n".join(lines))


def test_depth_is_limited_through_aliases_too():
    with pytest.raises(InvalidDefinition, match="YAML_DEPTH_MAX = 128"):
        read("[" * 1_000_000)
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)]
    with pytest.raises(InvalidDefinition, match="YAML_DEPTH_MAX = 128"):
        read("\n".join(lines))


def test_size_is_limited():
    with pytest.raises(InvalidDefinition, match="FILE_BYTES_MAX = 10485760"):
        read("a: " + "é" * (6 * 1024 * 1024))


def test_many_problems_are_cut():
    text = "\n".join(f"k{i}: !x y" for i in range(500))
    with pytest.raises(InvalidDefinition) as caught:
        read(text)
    assert len(caught.value.problems) == 101
    assert "PROBLEMS_MAX = 100" in caught.value.problems[-1].message


@pytest.mark.parametrize("pad", [0, 60, 150, 170, 400, 100_000])
def test_the_caret_points_at_its_place_in_a_line_of_any_length(pad):
    text = "jobs: {a: {steps: [{run: x, " + " " * pad + "timeout-minutes: soon}]}}"
    with pytest.raises(InvalidDefinition) as caught:
        compile_workflow(text)
    (problem,) = caught.value.problems
    assert problem.column == text.index("soon") + 1
    _, shown, caret, *_ = str(caught.value).split("\n")
    assert shown[caret.index("^") :].startswith("soon")
    assert len(shown) < 300
