"""Functions of cancelled runs: how long they are waited for."""

from __future__ import annotations

import msgspec
import pytest

from headrace.messages import CancelStep, SleepBegun, StepRan, TurnEnd, TurnOutcome
from headrace.plan import Plan
from support.codekit import CodeKit, code_plan, raw

WAITING = TurnEnd(TurnOutcome.WAITING)
LIMIT_MS = 5_000


def limited() -> Plan:
    plan = code_plan()
    root = msgspec.structs.replace(plan.nodes[0], cancel_timeout_ms=LIMIT_MS)
    return msgspec.structs.replace(plan, nodes=(root, *plan.nodes[1:]))


@pytest.fixture
def kit() -> CodeKit:
    kit = CodeKit()
    kit.start(limited())
    return kit


def undo(key: str) -> StepRan:
    return StepRan(key, key, "", 1, 2, raw(None))


def test_a_function_that_goes_on_is_abandoned(kit: CodeKit) -> None:
    kit.tell([undo("a#1")])
    held = kit.hold()
    kit.cancel(reason="enough")
    kit.tell([undo("b#1")])
    assert kit.explain().reasons[-1].deadline_ms == kit.now_ms + LIMIT_MS

    kit.advance(LIMIT_MS - 1)
    assert kit.tell([undo("c#1")]).refused == ""
    kit.orders.clear()
    kit.advance(1)

    assert kit.state() == "CANCELLED"
    assert kit.view().reason == "enough; abandoned: its function did not let go in time"
    assert [type(order.cancel) for order in kit.orders] == [CancelStep]
    assert kit.tell([undo("d#1")], task=held, sequence=9).refused
    assert "d#1" not in {step.path for step in kit.view().steps}


@pytest.mark.parametrize("how", ["live", "takeover", "restored", "parked"])
def test_one_that_waits_is_abandoned_after_a_change_of_owners(kit: CodeKit, how: str) -> None:
    kit.tell([undo("a#1")], end=WAITING) if how == "parked" else None
    kit.cancel()
    kit.tell([SleepBegun("s#1", kit.now_ms + 3_600_000)], end=WAITING)
    if how == "parked":
        kit.park()
    elif how != "live":
        kit.kill(snapshot=how == "restored")

    kit.advance(LIMIT_MS)

    assert kit.state() == "CANCELLED"
    assert "did not let go" in kit.view().reason


def test_one_that_lets_go_in_time_is_not(kit: CodeKit) -> None:
    kit.cancel(reason="enough")
    kit.tell(end=TurnEnd(TurnOutcome.CANCELLED))

    assert (kit.state(), kit.view().reason) == ("CANCELLED", "enough")
    kit.advance(LIMIT_MS)
    assert kit.view().reason == "enough"


def test_without_a_limit_it_has_as_long_as_it_takes() -> None:
    kit = CodeKit()
    kit.start(code_plan())
    kit.tell([undo("a#1")])
    kit.cancel()
    kit.advance(365 * 86_400_000)

    assert kit.state() == "RUNNING"
    kit.cancel()
    assert "f" in kit.dispatched(), "the worker is told, and answers"
