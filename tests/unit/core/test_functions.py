"""Talking to workflow functions: cancel, children, updates, queries, and blocked runs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import Refusal
from headrace.messages import (
    ChildBegun,
    EntryDropped,
    EntryState,
    LabelsSet,
    QueryAnswer,
    SignalAwaited,
    StepClaim,
    StepError,
    StepRan,
    TurnEnd,
    TurnOutcome,
    UpdateAnswered,
    UpdateView,
)
from headrace.plan import encode_plan
from support.codekit import CodeKit, code_plan, raw, values
from support.plans import plan, task

WAITING = TurnEnd(TurnOutcome.WAITING)
CHILD = encode_plan(plan(task("t"), name="child"))


@pytest.fixture
def kit() -> CodeKit:
    kit = CodeKit()
    kit.start(code_plan())
    return kit


def child(key: str = "c#1", **options: Any) -> ChildBegun:
    return ChildBegun(key, "child", "", CHILD, raw({}), **options)


def begun(kit: CodeKit) -> list[str]:
    return sorted(key.partition("/")[2] for key in kit.machine.state.runs if key != "default/r")


# --- cancel ------------------------------------------------------------------------------------


def test_a_function_is_asked_to_let_go_and_may_still_run_steps(kit: CodeKit) -> None:
    kit.tell([SignalAwaited("w#1", "go")], end=WAITING)
    kit.cancel(reason="enough")
    assert kit.entry("cancel").kind == "cancel"
    assert kit.orders == []

    kit.tell([StepRan("undo#1", "undo", "", 1, 2, raw(None))])
    kit.tell(end=TurnEnd(TurnOutcome.CANCELLED))

    assert kit.state() == "CANCELLED"
    assert kit.view().reason == "enough"
    assert "undo#1" in values(kit.run())


def test_a_live_turn_is_told_of_the_cancel(kit: CodeKit) -> None:
    kit.tell([StepRan("a#1", "a", "", 1, 2, raw(1))])
    kit.cancel()

    assert len(kit.wakes) == 1
    assert [entry.key for entry in kit.tell(seen=1).entries] == ["cancel"]


def test_a_function_may_complete_in_spite_of_a_cancel(kit: CodeKit) -> None:
    kit.cancel()
    kit.tell(end=TurnEnd(TurnOutcome.COMPLETED, raw(1)))

    assert kit.state() == "COMPLETED"


@pytest.mark.parametrize("options", [{"force": True}, {}])
def test_a_second_cancel_or_force_stops_the_turn(kit: CodeKit, options: dict[str, Any]) -> None:
    kit.tell([StepRan("a#1", "a", "", 1, 2, raw(1))])
    if not options:
        kit.cancel()
    kit.cancel(**options)

    assert [order.cancel.run for order in kit.orders] == ["default/r"]
    assert kit.tell().refused
    kit.cancelled("f")
    assert kit.state() == "CANCELLED"


def test_a_cancelled_run_whose_worker_is_lost_gets_another_turn(kit: CodeKit) -> None:
    kit.cancel()
    kit.lose("f", worker="w.1")

    assert [entry.key for entry in kit.turn().entries] == ["cancel"]


def test_one_that_never_had_a_turn_is_just_cancelled() -> None:
    kit = CodeKit()
    kit.credit = 0
    kit.start(code_plan())
    kit.cancel()

    assert kit.state() == "CANCELLED"


def test_its_timeout_fails_it(kit: CodeKit) -> None:
    kit = CodeKit()
    kit.start(code_plan(timeout_ms=1_000))
    kit.tell([SignalAwaited("w#1", "go")], end=WAITING)
    kit.advance(1_000)

    assert kit.state() == "FAILED"


# --- children ----------------------------------------------------------------------------------


def test_a_child_begins_once_and_its_end_is_the_entrys(kit: CodeKit) -> None:
    kit.tell([child()])
    kit.tell([child()], end=WAITING)
    (name,) = begun(kit)
    kit.complete("t", {"n": 1}, run=name)

    assert values(kit.run()) == {"c#1": {"n": 1}}
    assert kit.dispatched() == ["f"]
    assert kit.view(name).parent == "r"


def test_a_child_that_fails_fails_its_entry(kit: CodeKit) -> None:
    kit.tell([child()], end=WAITING)
    (name,) = begun(kit)
    kit.fail("t", run=name, retryable=False)

    entry = kit.entry("c#1")
    assert entry.state == EntryState.FAILED
    assert entry.error == StepError("exit-code", "t failed", False)


def test_a_child_that_cannot_begin_fails_its_entry(kit: CodeKit) -> None:
    kit.tell([ChildBegun("c#1", "x", "", b"no plan", raw({})), child("c#2", id="no/name")])

    states = [kit.entry(key).state for key in ("c#1", "c#2")]
    assert states == [EntryState.FAILED, EntryState.FAILED]
    assert begun(kit) == []


def test_a_child_whose_id_is_taken_fails_its_entry(kit: CodeKit) -> None:
    kit.start(plan(task("t")), "mine")
    kit.tell([child(id="mine")], end=WAITING)

    entry = kit.entry("c#1")
    assert entry.state == EntryState.FAILED
    assert entry.error is not None
    assert "taken" in entry.error.message


def test_a_child_that_is_not_awaited_any_more_is_cancelled(kit: CodeKit) -> None:
    kit.tell([child()])
    (name,) = begun(kit)
    kit.tell([EntryDropped("c#1")])

    assert kit.run(name).cancelling
    kit.cancelled("t", run=name)
    assert kit.entry("c#1").state == EntryState.CANCELLED


@pytest.mark.parametrize(
    "end",
    [
        TurnEnd(TurnOutcome.COMPLETED, raw(None)),
        TurnEnd(TurnOutcome.FAILED),
        TurnEnd(TurnOutcome.AGAIN, raw({})),
    ],
)
def test_the_end_of_a_function_cancels_what_it_awaits(kit: CodeKit, end: TurnEnd) -> None:
    kit.tell([child("c#1"), child("c#2", id="alone", detached=True)])
    (awaited,) = [name for name in begun(kit) if name != "alone"]
    kit.tell(end=end)

    assert kit.run(awaited).cancelling
    assert not kit.run("alone").cancelling


def test_a_child_of_a_generation_is_not_that_of_the_next(kit: CodeKit) -> None:
    kit.tell([child()])
    kit.tell(end=TurnEnd(TurnOutcome.AGAIN, raw({})))
    kit.tell([child()], end=WAITING)

    assert len(begun(kit)) == 2
    first = next(name for name in begun(kit) if kit.run(name).cancelling)
    kit.cancelled("t", run=first)
    assert kit.entry("c#1").state == EntryState.PENDING


# --- updates -----------------------------------------------------------------------------------


def test_an_update_wakes_the_function_and_is_answered(kit: CodeKit) -> None:
    kit.tell([SignalAwaited("w#1", "go")], end=WAITING)
    question = kit.update("add", {"n": 2}, request_id="q", wait_ms=5_000)
    assert question.answer is None
    entry = kit.entry("update:q")
    assert (entry.kind, entry.name, entry.number) == ("update", "add", 2)
    assert msgspec.msgpack.decode(entry.details) == {"n": 2}

    kit.tell([UpdateAnswered("update:q", raw(7))], end=WAITING)

    (answer,) = kit.told()
    assert (answer.state, msgspec.msgpack.decode(answer.value)) == ("COMPLETED", 7)
    assert kit.entry("update:q").number == 2, "a replay sees it where it came in"


def test_an_update_that_is_sent_again_is_one(kit: CodeKit) -> None:
    kit.update("add", request_id="q")
    kit.tell([UpdateAnswered("update:q", raw(7))])
    events = kit.run().events

    again = kit.update("add", request_id="q", wait_ms=5_000)

    assert isinstance(again, UpdateView)
    assert (again.state, kit.run().events) == ("COMPLETED", events)


def test_an_answer_is_given_once(kit: CodeKit) -> None:
    kit.update("add", request_id="q")
    kit.tell([UpdateAnswered("update:q", raw(7))])
    kit.tell([UpdateAnswered("update:q", raw(8))])

    assert values(kit.run())["update:q"] == 7


def test_an_update_may_be_refused_by_the_function(kit: CodeKit) -> None:
    kit.update("add", request_id="q")
    kit.tell([UpdateAnswered("update:q", error=StepError("ValueError", "too many", False))])

    assert kit.update("add", request_id="q").error == "ValueError: too many"


def test_an_update_survives_a_takeover_and_a_new_generation(kit: CodeKit) -> None:
    kit.update("add", {"n": 1}, request_id="q")
    kit.kill()
    kit.tell(end=TurnEnd(TurnOutcome.AGAIN, raw({})))

    assert [entry.key for entry in kit.turn().entries] == ["update:q"]


def test_who_waits_for_an_update_hears_of_the_runs_end(kit: CodeKit) -> None:
    kit.update("add", wait_ms=5_000)
    kit.tell(end=TurnEnd(TurnOutcome.COMPLETED, raw(None)))

    (answer,) = kit.told()
    assert isinstance(answer, Refusal)
    assert "has ended" in answer.message


# --- queries -----------------------------------------------------------------------------------


def test_a_parked_function_gets_a_turn_for_a_query(kit: CodeKit) -> None:
    kit.tell([SignalAwaited("w#1", "go")], end=WAITING)
    kit.park()
    kit.query("status", {"all": True}, id="q")

    (query,) = kit.turn().queries
    assert (query.id, query.name) == ("q", "status")
    kit.tell(answers=[QueryAnswer("q", raw("fine"))], end=WAITING)
    (answer,) = kit.told()
    assert msgspec.msgpack.decode(answer.value) == "fine"
    assert kit.status("f") == "WAITING"


def test_a_live_turn_is_asked(kit: CodeKit) -> None:
    kit.query("status", id="q")

    assert len(kit.wakes) == 1
    assert [query.id for query in kit.tell().queries] == ["q"]


def test_a_query_that_nobody_answers_is_given_up(kit: CodeKit) -> None:
    kit.query("status", wait_ms=1_000)
    kit.now_ms += 1_000

    (answer,) = kit.told()
    assert answer.code == "unavailable"


def test_queries_are_bounded(kit: CodeKit) -> None:
    replies = [kit.query("status") for _ in range(101)]

    assert isinstance(replies[-1], Refusal)
    assert replies[-1].code == "busy"


def test_a_plan_of_yaml_answers_no_query() -> None:
    kit = CodeKit()
    kit.start(plan(task("t")))

    assert kit.query("status").code == "invalid-request"
    assert kit.update("add").code == "invalid-request"
    assert kit.unblock("skip").code == "conflict"


# --- blocked -----------------------------------------------------------------------------------

BLOCKED = TurnEnd(
    TurnOutcome.BLOCKED, error=StepError("inputs-changed", "a#1: 1 -> 2", False), key="a#1"
)


@pytest.fixture
def blocked(kit: CodeKit) -> CodeKit:
    kit.tell([StepRan("a#1", "a", "d1", 1, 2, raw(1)), SignalAwaited("w#1", "go")])
    kit.tell(end=BLOCKED)
    return kit


def test_a_contradiction_blocks_the_run_and_shows_why(blocked: CodeKit) -> None:
    view = blocked.view()
    assert "BLOCKED" in view.conditions
    summary = blocked.explain().summary
    assert "a#1: 1 -> 2" in summary
    assert "flowctl unblock r" in summary


def test_a_blocked_run_is_not_woken_by_what_comes(blocked: CodeKit) -> None:
    blocked.signal("go")
    assert blocked.dispatched() == []
    blocked.kill()
    assert blocked.dispatched() == []
    assert blocked.park() == 0


def test_it_goes_on_with_what_is_recorded(blocked: CodeKit) -> None:
    blocked.unblock("skip")

    assert blocked.turn().skip == ["a#1"]


def test_it_goes_on_with_other_code(blocked: CodeKit) -> None:
    blocked.unblock("patch")

    assert blocked.turn().skip == []


def test_it_fails_with_the_contradiction(blocked: CodeKit) -> None:
    blocked.unblock("fail")

    assert blocked.state() == "FAILED"
    assert "inputs-changed" in blocked.view().reason


def test_a_blocked_run_can_be_cancelled(blocked: CodeKit) -> None:
    blocked.cancel()

    assert blocked.state() == "CANCELLED"


def test_only_a_blocked_run_can_be_unblocked(kit: CodeKit) -> None:
    assert kit.unblock("skip").code == "conflict"


# --- labels and claims -------------------------------------------------------------------------


def test_a_function_sets_labels(kit: CodeKit) -> None:
    kit.tell([LabelsSet({"customer": "7"})])

    assert kit.run().labels == {"customer": "7"}
    kit.kill(snapshot=True)
    assert kit.run().labels == {"customer": "7"}


def test_a_claim_that_was_lost_is_seen_by_the_next_turn(kit: CodeKit) -> None:
    kit.tell([StepClaim("pay#1", "pay", "d")])
    kit.lose("f", worker="w.1")

    assert [entry.state for entry in kit.turn().entries] == [EntryState.CLAIMED]
