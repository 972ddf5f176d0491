"""Inputs of built-in handlers, checked before anything runs."""

from __future__ import annotations

import pytest
import yaml

from headrace.errors import InvalidDefinition
from headrace.language import BUILTIN_HANDLERS, NODE_TYPES, compile_workflow, json_schema
from headrace.plan import Choice, Task, Wait


def step(uses: str, given: str = "{}") -> str:
    return (
        "name: w\njobs:\n  a:\n    runs-on: x\n    steps:\n"
        f"      - uses: {uses}\n        with: {given}\n"
    )


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidDefinition) as caught:
        compile_workflow(text, file="w.yaml")
    return [
        f"{problem.line}:{problem.column} {problem.message} {problem.hint}".strip()
        for problem in caught.value.problems
    ]


@pytest.mark.parametrize(
    ("uses", "given", "said"),
    [
        ("script", "{}", "6:15 'script' needs one of the inputs 'code', 'file'"),
        (
            "script",
            "{code: x, file: y}",
            "6:15 'script' takes only one of the inputs 'code', 'file'",
        ),
        (
            "http/request",
            "{url: 'http://x', json: 1, form: {a: 1}}",
            "6:15 'http/request' takes only one of the inputs 'json', 'form'",
        ),
        (
            "http/request",
            "{url: 'http://x', retries: 1.5}",
            "7:42 input 'retries' of 'http/request' must be a whole number, not the number 1.5",
        ),
        (
            "http/request",
            "{url: 'http://x', expect-body: {a: 1}}",
            "7:46 input 'expect-body' of 'http/request' must be a text or a list of them, "
            "not a mapping",
        ),
        (
            "notify/webhook",
            "{url: x, message: y, format: irc}",
            "7:44 input 'format' of 'notify/webhook' must be one of slack, discord, json, "
            "not 'irc'",
        ),
        (
            "file/move",
            "{source: a}",
            "6:15 'file/move' needs the input 'destination' destination:",
        ),
        (
            "file/extract",
            "{source: a, to: b}",
            "7:27 unknown input 'to' of 'file/extract' inputs: source, destination, format, "
            "max-bytes, max-files",
        ),
        (
            "actions/checkout@v4",
            "{}",
            "6:15 unknown handler 'actions/checkout@v4' actions of GitHub do not run here: "
            "write 'run: git clone …'",
        ),
    ],
)
def test_what_is_wrong_is_named(uses: str, given: str, said: str) -> None:
    assert any(found.startswith(said) for found in problems(step(uses, given)))


def test_expressions_are_left_to_the_worker() -> None:
    plan = compile_workflow(
        step("http/request", '{url: "${{ vars.A }}", retries: "${{ vars.N }}"}')
    )
    assert isinstance(plan.nodes[-1], Task)


@pytest.mark.parametrize("alias", ["notify", "webhook"])
def test_aliases_of_the_tasks_dialect(alias: str) -> None:
    plan = compile_workflow(
        f"name: w\ntasks:\n  - {{name: a, type: {alias}, config: {{url: x, message: y}}}}\n"
    )
    assert [node.uses for node in plan.nodes if isinstance(node, Task)] == ["notify/webhook"]


def test_a_condition_is_a_choice() -> None:
    plan = compile_workflow("name: w\ntasks:\n" + NODE_TYPES["condition"].example)
    (choice,) = [node for node in plan.nodes if isinstance(node, Choice)]
    assert choice.name == "big"
    branches = [node for node in plan.nodes if node.parent == plan.nodes.index(choice)]
    assert [(node.name, node.condition) for node in branches] == [
        ("case-1", "3 > 2"),
        ("else", ""),
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{then: [{name: b, type: noop}]}", "3:5 task 'a' needs 'if', with a condition"),
        ("{if: 'true'}", "3:5 task 'a' needs 'then', with the steps"),
        ("{if: 'true', then: [], or: []}", "unknown key 'or' in task 'a'"),
    ],
)
def test_a_condition_that_is_none(config: str, said: str) -> None:
    found = problems(f"name: w\ntasks:\n  - {{name: a, type: condition, config: {config}}}\n")
    assert any(said in text for text in found)


def test_a_wait_of_the_tasks_dialect() -> None:
    plan = compile_workflow("name: w\ntasks:\n" + NODE_TYPES["wait"].example)
    assert [node.signal for node in plan.nodes if isinstance(node, Wait)] == ["paid"]


@pytest.mark.parametrize("name", sorted(BUILTIN_HANDLERS))
def test_every_handler_is_fully_described(name: str) -> None:
    spec = BUILTIN_HANDLERS[name]
    assert spec.description.endswith(".")
    assert all(given.description.endswith((".", "_ -")) for given in spec.inputs.values())
    assert spec.outputs or spec.open_outputs
    assert any(f"uses: {name}\n" in f"{line}\n" for line in spec.example.splitlines())
    compile_workflow(
        yaml.safe_dump(
            {"name": "w", "jobs": {"a": {"runs-on": "x", "steps": yaml.safe_load(spec.example)}}}
        )
    )
    known = {*spec.inputs}
    for group in (*spec.exactly_one, *spec.at_most_one):
        assert set(group) <= known
        assert not any(spec.inputs[key].required for key in group)


@pytest.mark.parametrize("name", sorted(NODE_TYPES))
def test_examples_of_nodes_compile(name: str) -> None:
    example = NODE_TYPES[name].example
    assert f"type: {name}" in example
    compile_workflow(f"name: w\ntasks:\n{example}")


def test_json_schema_of_a_handler() -> None:
    schema = json_schema(BUILTIN_HANDLERS["script"])
    takes = schema["inputs"]
    assert takes["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (takes["additionalProperties"], takes["required"]) == (False, [])
    assert takes["properties"]["language"]["enum"][:2] == ["python", "python3"]
    assert takes["allOf"] == [
        {"oneOf": [{"required": ["code"]}, {"required": ["file"]}]},
        {"not": {"required": ["input", "input_data"]}},
    ]
    assert schema["outputs"]["required"] == ["result", "exit-code", "stdout"]
