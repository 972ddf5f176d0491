"""Registered workflows that a file names: left open, or compiled in."""

import pytest

from headrace.errors import InvalidDefinition, NotFound
from headrace.language import compile_workflow
from headrace.plan import Group, Subworkflow, decode_plan, validate_plan

ORDER = """\
name: order
on:
  workflow_call:
    inputs: {id: {required: true}, n: {type: number}}
    outputs: {said: {value: "${{ jobs.say.outputs.text }}"}}
jobs:
  say:
    outputs: {text: "${{ steps.a.outputs.text }}"}
    steps: [{id: a, run: x}]
"""
CALLER = """\
name: caller
jobs:
  first:
    uses: order@2
    with: {id: a}
    secrets: inherit
    concurrency: one
  second:
    needs: first
    strategy: {matrix: {n: [1, 2]}}
    uses: order
    with: {id: "${{ needs.first.outputs.said }}", n: "${{ matrix.n }}"}
  third:
    steps:
      - subworkflow: {uses: order, with: {id: b}, detached: true}
"""


def find(target):
    """Two versions are registered, 2 is the newest."""
    name, _, version = target.partition("@")
    if name != "order" or version not in ("", "1", "2"):
        raise NotFound(f"no definition {name}; did you mean order?")
    return compile_workflow(ORDER, file="order.yaml"), f"order@{version or 2}"


def children(plan):
    return [node for node in plan.nodes if isinstance(node, Subworkflow)]


def refused(text, **options):
    with pytest.raises(InvalidDefinition) as caught:
        compile_workflow(text, file="w.yaml", **options)
    return [(p.line, p.column, f"{p.message} ({p.hint})") for p in caught.value.problems]


def test_without_a_cluster_they_stay_open_and_cannot_run():
    plan = compile_workflow(CALLER, file="w.yaml")
    assert [(child.source, child.plan) for child in children(plan)] == [
        ("order@2", b""),
        ("order", b""),
        ("order", b""),
    ]
    with pytest.raises(InvalidDefinition, match="'order@2' was not looked up yet"):
        validate_plan(plan)


def test_looked_up_they_are_compiled_in_with_their_versions():
    plan = compile_workflow(CALLER, file="w.yaml", find=find)
    validate_plan(plan)
    assert [child.source for child in children(plan)] == ["order@2"] * 3
    assert {decode_plan(child.plan).name for child in children(plan)} == {"order"}
    assert children(plan)[0].inputs == {"id": "a"}
    assert [child.detached for child in children(plan)] == [False, False, True]
    first = next(node for node in plan.nodes if node.name == "first")
    assert isinstance(first, Group)
    assert first.outputs == {"said": "${{ steps.run.outputs.said }}"}
    assert first.concurrency is not None


@pytest.mark.parametrize(
    ("text", "line", "column", "wanted"),
    [
        ("jobs: {a: {uses: ordr}}", 1, 18, "cannot use 'ordr': no definition ordr; did you mean"),
        ("jobs: {a: {uses: order@7}}", 1, 18, "cannot use 'order@7'"),
        ("jobs: {a: {uses: order}}", 1, 18, "needs the input 'id'"),
        ("jobs: {a: {uses: order, with: {id: x, m: 1}}}", 1, 39, "has no input 'm'"),
        ("jobs: {a: {uses: order, with: {id: x, n: many}}}", 1, 42, "must be a number"),
        (
            "jobs: {a: {uses: order, with: {id: x}, secrets: {T: x}}}",
            1,
            49,
            "is given no 'secrets' (it takes the secrets of the workers",
        ),
        (
            "jobs:\n  a: {uses: order, with: {id: x}}\n  b:\n    needs: a\n"
            "    steps: [{run: 'echo ${{ needs.a.outputs.sad }}'}]",
            5,
            29,
            "'needs.a.outputs.sad' does not exist",
        ),
        ("tasks: [{name: a, type: subworkflow, uses: ordr}]", 1, 44, "cannot use 'ordr'"),
        ("jobs: {a: {uses: order.yaml}}", 1, 18, "a called file begins with './'"),
        ("jobs: {a: {uses: acme/repo/.github/x.yml@v1}}", 1, 18, "are not fetched"),
    ],
)
def test_problems_have_their_places(text, line, column, wanted):
    found = refused(text, find=find)
    assert [place[:2] for place in found] == [(line, column)], found
    assert wanted in found[0][2]


def test_a_called_file_may_name_them_too():
    outer = "jobs: {a: {uses: ./b.yaml}}"
    inner = "on: workflow_call\njobs: {b: {uses: order, with: {id: x}}}"
    plan = compile_workflow(outer, file="w.yaml", find=find, load=lambda _: inner)
    assert [child.source for child in children(plan)] == ["order@2"]
