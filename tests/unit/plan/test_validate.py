import hashlib

import msgspec
import pytest

from headrace.errors import InvalidDefinition
from headrace.plan import (
    Choice,
    Group,
    Join,
    Loop,
    Plan,
    Sleep,
    Task,
    Wait,
    decode_plan,
    encode_plan,
    plan_digest,
    validate_plan,
)


def task(name, parent=0, **fields):
    return Task(name=name, parent=parent, uses="noop", **fields)


def plan(*nodes, root=None):
    top = root or Group(name="w", size=1 + len(nodes))
    return Plan(name="w", nodes=(top, *nodes))


def refused(found, text):
    with pytest.raises(InvalidDefinition) as caught:
        validate_plan(found)
    assert text in str(caught.value)


def test_good_plans_pass():
    validate_plan(plan())
    validate_plan(
        plan(
            task("a"),
            task("b", needs=(5,)),
            Loop(name="c", parent=0, size=2, items=[1]),
            task("c", parent=3),
            Group(name="d", parent=0, size=3, kind="pipeline", needs=(1,)),
            task("x", parent=5),
            task("y", parent=5, needs=(6,)),
        )
    )


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Plan(name="w", nodes=()), "at least one node"),
        (Plan(name="w", nodes=(task("a", parent=-1),)), "must be a group"),
        (plan(task("a"), root=Group(name="w", size=9)), "of size 2"),
        (plan(task("a", parent=1)), "its parent is 1, by position it is 0"),
        (plan(task("a", size=2)), "does not fit"),
        (plan(task("a", size=0)), "does not fit"),
        (plan(task("a", size=2), task("b", parent=1)), "cannot have children"),
        (plan(task("a"), task("A")), "the same name"),
        (plan(task("")), "a name is not empty"),
        (plan(task("a/b")), "has no '/'"),
        (plan(task("a", needs=(1,))), "must be siblings"),
        (plan(task("a", needs=(7,))), "must be siblings"),
        (plan(task("a"), task("b", needs=(1, 1))), "each once"),
        (plan(task("a", needs=(2,)), task("b", needs=(1,))), "make a cycle"),
        (plan(Loop(name="l", parent=0, items=[])), "has one child, not 0"),
        (plan(Choice(name="c", parent=0)), "at least one child"),
        (plan(Sleep(name="s", parent=0)), "one of the two"),
        (plan(Wait(name="s", parent=0, signal="")), "names a signal"),
        (plan(Task(name="t", parent=0, uses="")), "names a handler"),
        (plan(task("a", timeout_ms=0)), "a timeout is positive"),
        (plan(Group(name="g", parent=0, join=Join(kind="percent", value=101))), "101 percent"),
        (plan(Group(name="g", parent=0, join=Join(kind="count"))), "join of 0"),
        (
            plan(task("a"), task("b"), root=Group(name="w", size=3, kind="pipeline")),
            "in a sequence",
        ),
    ],
)
def test_bad_plans_are_refused(found, text):
    refused(found, text)


def test_limits_are_named():
    refused(plan(*(task(f"t{i}") for i in range(100_000))), "NODES_MAX = 100000")
    nested = [Group(name="g", parent=i, size=70 - i) for i in range(70)]
    refused(plan(*nested), "NESTING_MAX = 64")


def test_encoding_and_digest():
    found = plan(task("a", inputs={"x": [1, None, {"y": 2.5}]}))
    assert decode_plan(encode_plan(found)) == found
    renamed = msgspec.structs.replace(found, file="other.yaml")
    assert plan_digest(renamed) == plan_digest(found)
    assert plan_digest(msgspec.structs.replace(found, name="v")) != plan_digest(found)


def test_maps_keep_the_order_in_which_they_were_written():
    def matrix(*axes):
        items = {axis: [1, 2] for axis in axes}
        return plan(Loop(name="m", kind="matrix", items=items, size=2), task("x", parent=1))

    def order(found):
        return list(decode_plan(encode_plan(found)).nodes[1].items)

    assert order(matrix("version", "os")) == ["version", "os"]
    # Written alike: the same plan. Written in another order: other legs, another plan.
    assert plan_digest(matrix("version", "os")) == plan_digest(matrix("version", "os"))
    assert plan_digest(matrix("version", "os")) != plan_digest(matrix("os", "version"))
    stored = decode_plan(encode_plan(matrix("version", "os")))
    assert plan_digest(stored) == plan_digest(matrix("version", "os"))
    assert encode_plan(stored) == encode_plan(matrix("version", "os"))


def test_a_plan_stored_with_sorted_maps_still_has_its_digest():
    # As earlier builds wrote them: a store knows the plan by this digest.
    found = plan(task("a", inputs={"b": 1, "a": {"d": 2, "c": 3}}))
    earlier = msgspec.msgpack.Encoder(order="deterministic")
    data = earlier.encode(decode_plan(earlier.encode(msgspec.structs.replace(found, file=""))))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert plan_digest(decode_plan(data)) == digest
    assert encode_plan(decode_plan(data)) == data


@pytest.mark.parametrize(
    ("join", "total", "needed"),
    [
        (Join(), 3, 3),
        (Join(kind="any"), 3, 1),
        (Join(kind="any"), 0, 0),
        (Join(kind="count", value=2), 3, 2),
        (Join(kind="count", value=5), 3, 3),
        (Join(kind="percent", value=60), 3, 2),
        (Join(kind="percent", value=100), 7, 7),
    ],
)
def test_join_needs(join, total, needed):
    assert join.needed(total) == needed
