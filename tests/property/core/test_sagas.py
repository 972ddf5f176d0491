"""Sagas, over every order of results, losses and takeovers: what has completed is undone, and only
that, each once, the last one first, before the run ends."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.coordinator.core import status
from headrace.events import CompensationScheduled, NodeRestarted, StepCompleted
from support.core_settings import TIMEOUT_S, examples
from support.corekit import Kit
from support.plans import group, job, loop, plan, policy, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)
ROUNDS = 2


def step(name: str, *, undone: bool) -> Any:
    return task(name, compensate=task("undo")) if undone else task(name)


def build(shape: str, undoable: list[bool], action: str) -> tuple[Any, list[str]]:
    """Return the plan of a saga, and the paths of its steps."""
    options: dict[str, Any] = {"on_failure": policy(action, rounds=ROUNDS)}
    steps = [step(f"s{at}", undone=undone) for at, undone in enumerate(undoable)]
    names = [f"s{at}" for at in range(len(undoable))]
    if shape == "flat":
        return plan(*steps, root=options), names
    if shape == "loop":
        body = group("b", step("s", undone=True))
        return plan(loop("l", body, names), root=options), [
            f"l[{at}]/s" for at in range(len(names))
        ]
    made = job if shape == "job" else group
    return plan(made("g", *steps, **options)), [f"g/{name}" for name in names]


def answer(kit: Kit, path: str, how: str) -> None:
    """A worker answers, or does not and somebody else does."""
    if how == "lost":
        kit.lose(path)
    elif how == "back":
        kit.hand_back(path)
    if how == "fail":
        kit.fail(path, retryable=False)
    else:
        kit.complete(path)


@given(st.data())
@examples(120)
def test_what_completed_is_undone_backwards(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(["flat", "group", "job", "loop"]))
    undoable = data.draw(st.lists(st.booleans(), min_size=1, max_size=4))
    action = data.draw(st.sampled_from(["compensate", "compensate-and-retry"]))
    failures = data.draw(st.integers(0, 3))
    kit = Kit()
    found, names = build(shape, undoable, action)
    kit.start(found)
    done: list[str] = []
    undone: list[str] = []
    expected: list[str] = []
    left: set[str] = set()
    for _ in range(60):
        if status.is_final(kit.run().state):
            break
        if data.draw(st.integers(0, 3)) == 0:
            kit.kill(snapshot=data.draw(st.booleans()))
        here = kit.dispatched()
        if not here:
            break
        path = data.draw(st.sampled_from(here))
        instance = kit.instance(path)
        if instance in kit.run().doomed:
            kit.cancelled(path)
            continue
        how = data.draw(st.sampled_from(["complete", "complete", "lost", "back", "fail"]))
        if how == "fail" and not failures:
            how = "complete"
        failures -= how == "fail"
        restarts = len(kit.all_events(kind=NodeRestarted))
        answer(kit, path, how)
        if path.endswith("~compensate"):
            if how == "fail":
                left.add(path.removesuffix("~compensate"))
        elif how != "fail":
            done.append(path)
        begun = [kit.run().path(e.step) for e in kit.all_events(kind=CompensationScheduled)]
        for at, name in enumerate(begun[len(undone) :]):
            if not expected:
                expected = [p for p in reversed(done) if has_undo(shape, undoable, names, p)]
                done = []
            assert name == expected.pop(0), f"{begun}, entry {at}"
        undone = begun
        if len(kit.all_events(kind=NodeRestarted)) > restarts:
            assert not expected, "it begins anew before all is undone"
            assert not left, "it begins anew, and something was not undone"
            done = []
    assert status.is_final(kit.run().state), kit.statuses()
    assert not expected, f"not undone: {expected}"
    reason = kit.run().ended_reason
    assert all(path in reason for path in left)
    assert ("not compensated" in reason) == bool(left)
    recorded = kit.all_events(kind=StepCompleted)
    assert len({(e.step, e.attempt) for e in recorded}) == len(recorded), "recorded twice"
    failed = any(value == "FAILED" for name, value in kit.statuses().items() if name in names)
    assert kit.state() == ("FAILED" if failed else "COMPLETED")
    if not failed:
        assert not [path for path in undone if path not in names]


def has_undo(shape: str, undoable: list[bool], names: list[str], path: str) -> bool:
    return shape == "loop" or undoable[names.index(path)]


@given(
    order=st.permutations(range(3)),
    undone=st.permutations(range(3)),
    gives_up=st.integers(0, 4),
    kills=st.booleans(),
)
@examples(60)
def test_a_cancel_undoes_and_a_second_one_gives_up(
    order: list[int], undone: list[int], gives_up: int, kills: bool
) -> None:
    kit = Kit()
    steps = [step(f"s{at}", undone=True) for at in range(3)]
    kit.start(plan(*steps, task("z"), root={"on_cancel": "compensate"}))
    for at in order:
        kit.complete(f"s{at}")
    kit.cancel()
    kit.cancelled("z")
    wanted = [f"s{at}" for at in reversed(order)]
    for number, name in enumerate(wanted):
        if kills:
            kit.kill()
        assert kit.dispatched() == [f"{name}~compensate"]
        if number == gives_up:
            kit.cancel()
            kit.cancelled(f"{name}~compensate")
            break
        kit.complete(f"{name}~compensate")
    assert kit.state() == "CANCELLED"
    left = wanted[gives_up:]
    assert all(name in kit.run().ended_reason for name in left)
    assert ("not compensated" in kit.run().ended_reason) == bool(left)
