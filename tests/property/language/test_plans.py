"""Plans of any shape are refused or sound: whatever passes can be drawn."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidDefinition
from headrace.language import graph, node_paths
from headrace.plan import Choice, Group, Loop, Plan, Sleep, Task, validate_plan

numbers = st.integers(-2, 6)


@st.composite
def nodes(draw, index):
    kind = draw(st.sampled_from([Task, Task, Group, Loop, Choice, Sleep]))
    fields = {
        "name": draw(st.sampled_from([f"n{index}", f"n{index}", "x", ""])),
        "parent": -1 if index == 0 else draw(st.integers(-1, index)),
        "size": draw(numbers),
        "needs": tuple(draw(st.lists(numbers, max_size=2))),
    }
    more = {Task: {"uses": "noop"}, Loop: {"items": [1]}, Sleep: {"duration_ms": 1}}
    return kind(**fields, **more.get(kind, {}))


@st.composite
def plans(draw):
    count = draw(st.integers(1, 6))
    found = [draw(nodes(index)) for index in range(1, count)]
    return Plan(name="w", nodes=(Group(name="w", size=count), *found))


@given(plans())
@settings(max_examples=500, deadline=None)
def test_any_plan(plan):
    try:
        validate_plan(plan)
    except InvalidDefinition:
        return
    found = graph(plan)
    assert len(set(node_paths(plan))) == len(plan.nodes)
    assert sorted(path for level in found.levels for path in level) == sorted(
        node.path for node in found.nodes if node.level >= 0
    )
    assert sum(node.size == 1 for node in plan.nodes[1:]) == sum(map(len, found.levels))
