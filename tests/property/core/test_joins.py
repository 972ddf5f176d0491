"""Joins, over every order of results: never early, never twice, never lost."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.coordinator.core import status
from headrace.events import NodeEnded
from headrace.messages import ResultStatus, StepError
from support.core_settings import TIMEOUT_S, examples
from support.corekit import Kit
from support.plans import group, join, loop, plan, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)
KINDS = [("all", 0), ("any", 0), ("count", 2), ("count", 9), ("percent", 50), ("percent", 100)]


def expected(kind: str, value: int, total: int, ok: int, bad: int, losers: str) -> str:
    """Return the state of a join after *ok* successes and *bad* failures."""
    needed = {"all": total, "any": 1, "count": min(value, total)}.get(
        kind, -(-total * value // 100)
    )
    finished = ok + bad == total
    if kind == "all":
        return "RUNNING" if not finished else ("FAILED" if bad else "COMPLETED")
    if losers == "await" and not finished:
        return "RUNNING"
    if ok >= needed:
        return "COMPLETED"
    return "FAILED" if total - bad < needed else "RUNNING"


@given(
    policy=st.sampled_from(KINDS),
    losers=st.sampled_from(["cancel", "detach", "await"]),
    outcomes=st.lists(st.booleans(), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    shape=st.sampled_from(["graph", "parallel", "loop", "matrix"]),
    together=st.booleans(),
    kills=st.booleans(),
)
@examples(150)
def test_a_join_ends_exactly_when_it_must(
    policy: tuple[str, int],
    losers: str,
    outcomes: list[bool],
    order: Any,
    shape: str,
    together: bool,
    kills: bool,
) -> None:
    kind, value = policy
    total = len(outcomes)
    rule = join(kind, value, losers)
    kit = Kit()
    looped = shape in ("loop", "matrix")
    if shape == "matrix":
        node = loop("g", task("x"), {"i": list(range(total))}, kind="matrix", join=rule)
    elif shape == "loop":
        node = loop("g", task("x"), list(range(total)), join=rule)
    else:
        node = group("g", *(task(f"t{i}") for i in range(total)), kind=shape, join=rule)
    kit.start(plan(node, task("after", needs=["g"], condition="always()")))
    places = [f"g[{i}]" if looped else f"g/t{i}" for i in range(total)]
    tasks = [kit.task(place) for place in places]
    turns = list(range(total))
    order.shuffle(turns)
    results = [
        kit.result(
            tasks[turn],
            ResultStatus.COMPLETED if outcomes[turn] else ResultStatus.FAILED,
            error=None if outcomes[turn] else StepError("boom", "no"),
        )
        for turn in turns
    ]
    ok = bad = 0
    settled = "RUNNING"
    for turn, result in zip(turns, results, strict=True):
        ok, bad = ok + outcomes[turn], bad + (not outcomes[turn])
        if settled == "RUNNING":
            settled = expected(kind, value, total, ok, bad, losers)
        if not together:
            assert kit.report(result) == []
            assert kit.status("g") == settled
            assert ("after" in kit.dispatched()) == (settled != "RUNNING")
            if kills:
                kit.kill()
    if together:
        assert kit.report(*results) == []
    assert kit.status("g") == settled
    assert settled != "RUNNING"
    recorded = {
        place: "COMPLETED" if good else "FAILED"
        for place, good in zip(places, outcomes, strict=True)
    }
    assert {place: kit.status(place) for place in places} == recorded, "a result was lost"
    ends = [e for e in kit.all_events(kind=NodeEnded) if e.node == kit.instance("g")]
    assert len(ends) == 1
    kit.complete("after")
    assert status.is_final(kit.run().state)
    assert kit.state() == settled


@given(
    policy=st.sampled_from(KINDS),
    losers=st.sampled_from(["cancel", "detach", "await"]),
    outcomes=st.lists(st.booleans(), min_size=1, max_size=6),
    width=st.integers(1, 3),
    inner=st.sampled_from(["any", "all"]),
    kills=st.booleans(),
    data=st.data(),
)
@examples(80)
def test_a_join_of_joins_in_a_window(
    policy: tuple[str, int],
    losers: str,
    outcomes: list[bool],
    width: int,
    inner: str,
    kills: bool,
    data: st.DataObject,
) -> None:
    """A loop whose iterations are groups with joins of their own, a few at a time."""
    kind, value = policy
    total = len(outcomes)
    body = group("b", task("x"), task("y"), kind="parallel", join=join(inner, losers="await"))
    kit = Kit()
    rule = join(kind, value, losers)
    kit.start(
        plan(
            loop("g", body, list(range(total)), join=rule, max_parallel=width),
            task("after", needs=["g"], condition="always()"),
        )
    )
    ended: list[bool] = []
    settled = "RUNNING"
    halves: set[int] = set()
    while settled == "RUNNING":
        here = [path for path in kit.dispatched() if path != "after"]
        iterations = {path.partition("]")[0] for path in here}
        assert 0 < len(iterations) <= width
        path = data.draw(st.sampled_from(here))
        at = int(path[2 : path.index("]")])
        good = outcomes[at]
        # One half of an iteration may fail where any is enough.
        spoiled = inner == "any" and at not in halves and data.draw(st.booleans())
        if good and not spoiled:
            kit.complete(path)
        else:
            kit.fail(path)
        if at in halves:
            ended.append(good)
            settled = expected(kind, value, total, ended.count(True), ended.count(False), losers)
        halves.add(at)
        if kills:
            kit.kill()
        assert kit.status("g") == settled
        assert ("after" in kit.dispatched()) == (settled != "RUNNING")
    assert len([e for e in kit.all_events(kind=NodeEnded) if e.node == kit.instance("g")]) == 1
