import pytest

from headrace.errors import InvalidDefinition
from headrace.plan import Group, InputSpec, Plan, check_inputs


def plan(**inputs):
    return Plan(name="w", nodes=(Group(name="w"),), inputs=inputs)


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (InputSpec(), "x", "x"),
        (InputSpec(), 1, "1"),
        (InputSpec(), True, "true"),
        (InputSpec(), None, ""),
        (InputSpec(default="d"), None, "d"),
        (InputSpec(required=True, default="d"), None, "d"),
        (InputSpec(type="number"), "3", 3),
        (InputSpec(type="number"), "2.5", 2.5),
        (InputSpec(type="number"), 7, 7),
        (InputSpec(type="number"), None, 0),
        (InputSpec(type="boolean"), "TRUE", True),
        (InputSpec(type="boolean"), False, False),
        (InputSpec(type="boolean"), None, False),
        (InputSpec(type="choice", options=("a", "b")), "b", "b"),
        (InputSpec(type="json"), '{"a": [1]}', {"a": [1]}),
        (InputSpec(type="json"), [1], [1]),
        (InputSpec(type="json", default="text"), None, "text"),
        (InputSpec(type="json"), None, None),
    ],
)
def test_types_and_defaults(spec, given, expected):
    found = check_inputs(plan(x=spec), {} if given is None else {"x": given})
    assert found == {"x": expected}
    assert type(found["x"]) is type(expected)


@pytest.mark.parametrize(
    ("spec", "given", "text"),
    [
        (InputSpec(type="number"), "three", "must be a number, not 'three'"),
        (InputSpec(type="number"), True, "must be a number"),
        (InputSpec(type="number"), "nan", "must be a number"),
        (InputSpec(type="boolean"), 1, "must be true or false"),
        (InputSpec(type="choice", options=("a", "b")), "c", "must be one of a, b, not 'c'"),
        (InputSpec(type="json"), "{", "must be JSON"),
        (InputSpec(), ["x"], "must be a string"),
        (InputSpec(required=True), None, "input 'x' is required"),
    ],
)
def test_unfit_values(spec, given, text):
    with pytest.raises(InvalidDefinition) as caught:
        check_inputs(plan(x=spec), {} if given is None else {"x": given})
    assert text in str(caught.value)


def test_all_problems_at_once_with_suggestions():
    found = plan(environment=InputSpec(), count=InputSpec(type="number"))
    with pytest.raises(InvalidDefinition) as caught:
        check_inputs(found, {"enviroment": "x", "count": "y"})
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].hint == "did you mean 'environment'?"


def test_a_plan_without_declared_inputs_takes_any():
    given = {"a": 1}
    assert check_inputs(plan(), given) == given


@pytest.mark.parametrize("type", ["string", "number", "boolean", "choice", "json"])
def test_what_was_checked_is_fit(type):
    """A client fills in the defaults, and the cluster checks what it is sent."""
    inputs = plan(x=InputSpec(type=type, options=("a",) if type == "choice" else ()))
    filled = check_inputs(inputs, {})
    assert check_inputs(inputs, filled) == filled


def test_nobody_chooses_nothing_where_there_is_a_choice_to_make():
    for spec in (
        InputSpec(type="choice", options=("a",), required=True),
        InputSpec(type="choice", options=("a",), default="a"),
    ):
        with pytest.raises(InvalidDefinition):
            check_inputs(plan(x=spec), {"x": ""})


@pytest.mark.parametrize("type", ["string", "number", "boolean", "choice", "json"])
def test_a_reference_to_the_object_store_stands_for_any_type(type):
    reference = {"$blob": {"ref": "default/r/1", "size": 100_000}}
    spec = InputSpec(type=type, options=("a",) if type == "choice" else ())
    assert check_inputs(plan(x=spec), {"x": reference}) == {"x": reference}


def test_a_map_that_only_resembles_a_reference_is_checked():
    with pytest.raises(InvalidDefinition):
        check_inputs(plan(x=InputSpec()), {"x": {"$blob": {"ref": "x"}}})
