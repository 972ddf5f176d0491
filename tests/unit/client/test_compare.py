"""What differs between two runs."""

import msgspec
import pytest

from headrace.client import compare
from headrace.messages import RunView, StepView
from support.corekit import Kit, finish
from support.plans import group, job, loop, plan, task

BASE = plan(task("a"), group("g", task("in")), loop("each", task("do"), [1, 2]), name="w")


def ran(definition, kit=None, **fields):
    """The view of a finished run of *definition*."""
    kit = kit or Kit()
    kit.start(definition)
    assert finish(kit) == "COMPLETED"
    return msgspec.structs.replace(kit.view(), **fields)


def told(left, right, plans=(BASE, BASE), now_ms=0):
    found = compare(left, right, plans, now_ms=now_ms)
    return [(d.what, d.path, d.key, d.change) for d in found.differences]


def test_a_run_does_not_differ_from_itself_nor_from_its_twin():
    view = ran(BASE)
    assert told(view, view) == []
    assert told(view, ran(BASE, id="other", created_ms=7, shard=3, archived=True)) == []


def test_nodes_added_removed_and_changed_are_told_by_path():
    other = plan(
        task("a", inputs={"script": "x"}),
        group("g", task("in"), task("more", needs=["in"])),
        task("each"),
        name="w",
    )
    view = ran(BASE)
    assert told(view, view, (BASE, other)) == [
        ("definition", "a", "inputs", "added"),
        ("definition", "each", "type", "changed"),
        ("definition", "each", "items", "removed"),
        ("definition", "each", "uses", "added"),
        ("definition", "each[*]", "", "removed"),
        ("definition", "g/more", "", "added"),
    ]


def test_where_a_node_stands_is_no_difference():
    """New nodes in front move all indexes, and the indexes that nodes name others by."""
    behind = (
        job("j", task("x"), task("y")),
        task("last", needs=["j"], compensate=task("undo")),
    )
    old, new = plan(*behind, name="w"), plan(task("new"), *behind, name="w")
    view = ran(BASE)
    assert told(view, view, (old, new)) == [("definition", "new", "", "added")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"input": {"a": 1}}, [("input", "", "a", "added")]),
        ({"labels": {"team": "web"}}, [("labels", "", "team", "added")]),
        ({"state": "FAILED", "reason": "a: no"}, [
            ("run", "", "state", "changed"), ("run", "", "reason", "changed"),
        ]),
        ({"output": {"n": True}}, [("run", "", "output.n", "added")]),
        ({"started_ms": 5, "finished_ms": 99}, []),
    ],
)  # fmt: skip
def test_what_differs_of_the_run(fields, expected):
    assert told(ran(BASE, output={}), ran(BASE, **({"output": {}} | fields))) == expected


@pytest.mark.parametrize(
    ("field", "left", "right", "key"),
    [
        ("state", "COMPLETED", "FAILED", "state"),
        ("attempt", 1, 2, "attempt"),
        ("error", "", "boom", "error"),
        ("outputs", {"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "outputs.a.b[1]"),
        ("outputs", {"ok": 1}, {"ok": True}, "outputs.ok"),
        ("worker", "w1", "w2", None),
        ("started_ms", 1, 2, None),
    ],
)
def test_what_differs_of_a_step(field, left, right, key):
    def view(value):
        step = StepView(**({"path": "a", "state": "COMPLETED"} | {field: value}))
        return RunView(id="r", workflow="w", state="COMPLETED", steps=[step])

    expected = [] if key is None else [("step", "a", key, "changed")]
    assert told(view(left), view(right)) == expected


def test_steps_that_only_one_has_and_how_long_they_took():
    def view(*steps, **fields):
        return RunView(id="r", workflow="w", state="RUNNING", steps=list(steps), **fields)

    a = StepView(path="a", state="COMPLETED", started_ms=10, finished_ms=30)
    b = StepView(path="b", state="RUNNING", started_ms=40)
    found = compare(view(a, started_ms=5), view(a, b), (BASE, BASE), now_ms=100)
    (difference,) = found.differences
    assert (difference.what, difference.path, difference.change) == ("step", "b", "added")
    assert difference.right == {"kind": "task", "state": "RUNNING"}
    lengths = [(d.path, d.left_ms, d.right_ms) for d in found.durations]
    assert lengths == [("", 95, None), ("a", 20, 20), ("b", None, 60)]
