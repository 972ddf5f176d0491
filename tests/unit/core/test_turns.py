"""Turns of code-first runs: recorded once, fenced, woken by what they wait for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core.journal import size_of
from headrace.events import EVENT_LEVELS, EntryBeat
from headrace.messages import (
    EntryDropped,
    EntryState,
    SignalAwaited,
    SleepBegun,
    StepBeat,
    StepClaim,
    StepError,
    StepRan,
    StepTried,
    Turn,
    TurnEnd,
    TurnOutcome,
    ValueNoted,
)
from support.codekit import CodeKit, code_plan, raw, values

WAITING = TurnEnd(TurnOutcome.WAITING)


@pytest.fixture
def kit() -> CodeKit:
    kit = CodeKit()
    kit.start(code_plan(), input={"n": 3})
    return kit


def ran(key: str, value: Any = None) -> StepRan:
    return StepRan(key, key, "", 1, 2, raw(value))


def completed(value: Any = None) -> TurnEnd:
    return TurnEnd(TurnOutcome.COMPLETED, raw(value))


def test_a_turn_is_given_the_input_and_an_empty_journal(kit: CodeKit) -> None:
    turn = kit.turn()

    assert msgspec.msgpack.decode(turn.input) == {"n": 3}
    assert (turn.entries, turn.number, turn.generation) == ([], 0, 0)


def test_what_a_function_did_is_recorded_and_told_back(kit: CodeKit) -> None:
    reply = kit.tell([ran("a#1", 7)])

    assert [(e.key, e.number, e.state) for e in reply.entries] == [("a#1", 1, EntryState.COMPLETED)]
    assert values(kit.run()) == {"a#1": 7}


def test_what_went_ahead_is_recorded_if_nothing_came_between(kit: CodeKit) -> None:
    reply = kit.tell([ran("a#1", 7), SleepBegun("s#1", 10_000)], end=WAITING, ahead=1)

    assert not reply.overtaken
    assert [entry.key for entry in reply.entries] == ["a#1", "s#1"]
    assert values(kit.run())["a#1"] == 7


def test_of_what_was_overtaken_only_the_results_are_recorded(kit: CodeKit) -> None:
    kit.update("u")
    task = kit.hold()
    before = kit.run().journal.number

    def report() -> Any:
        changes = [ran("a#1", 7), SleepBegun("s#1", 10_000)]
        return kit.tell(changes, end=completed(1), task=task, sequence=1, seen=0, ahead=1)

    reply = report()
    assert (reply.overtaken, reply.refused, reply.entries) == (True, "", [])
    assert values(kit.run()) == {"a#1": 7}
    assert kit.run().journal.number == before + 1

    again = report()
    assert again.overtaken, "sent again, it is answered the same"
    assert kit.run().journal.number == before + 1

    known = kit.tell(task=task, sequence=2, seen=0)
    assert [entry.kind for entry in known.entries] == ["update", "step"]
    kit.tell(end=completed(1), task=task, sequence=3)
    assert kit.view().state == "COMPLETED"


def test_its_end_is_the_runs_end(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 7)])
    kit.tell(end=completed({"total": 7}))

    assert kit.state() == "COMPLETED"
    assert kit.run_output() == {"result": {"total": 7}}


def test_its_failure_is_the_runs_failure(kit: CodeKit) -> None:
    kit.tell(end=TurnEnd(TurnOutcome.FAILED, error=StepError("ValueError", "no", False)))

    assert kit.state() == "FAILED"
    assert "ValueError: no" in kit.view().reason


def test_a_report_that_is_sent_again_is_answered_and_not_recorded_again(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 1)])
    events = kit.run().events

    again = kit.tell([ran("a#1", 2)], sequence=1, seen=0)

    assert kit.run().events == events
    assert [msgspec.msgpack.decode(e.value) for e in again.entries] == [1]


def test_a_recorded_entry_never_changes(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 1)])
    kit.tell([ran("a#1", 2), ValueNoted("a#1", "a", raw(3))])

    assert values(kit.run()) == {"a#1": 1}


def test_a_report_of_a_lost_turn_is_refused(kit: CodeKit) -> None:
    stale = kit.hold()
    kit.lose("f")

    assert kit.tell([ran("a#1", 1)], task=stale).refused
    assert values(kit.run()) == {}
    assert kit.tell([ran("a#1", 2)]).refused == ""


def test_a_lost_turn_is_run_again_with_all_that_is_recorded(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 1)])
    kit.lose("f", worker="w.1")

    turn = kit.turn()

    assert [e.key for e in turn.entries] == ["a#1"]
    assert turn.since == 0


def test_a_sleep_parks_the_run_and_wakes_it(kit: CodeKit) -> None:
    kit.tell([SleepBegun("s#1", kit.now_ms + 5_000)], end=WAITING)
    assert kit.status("f") == "WAITING"
    assert kit.view().conditions == ["WAITING"]
    assert kit.park() == 1

    kit.advance(4_999)
    assert kit.dispatched() == []
    kit.advance(1)

    assert kit.dispatched() == ["f"]
    assert kit.entry("s#1").state == EntryState.COMPLETED


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_sleep_is_over_in_time_after_a_takeover(kit: CodeKit, snapshot: bool) -> None:
    kit.tell([SleepBegun("s#1", kit.now_ms + 5_000)], end=WAITING)
    kit.kill(snapshot=snapshot)

    assert kit.next_timer()
    assert kit.dispatched() == ["f"]


def test_a_sleep_ends_while_the_turn_is_live(kit: CodeKit) -> None:
    kit.tell([SleepBegun("s#1", kit.now_ms + 5_000)])
    kit.advance(5_000)

    assert [wake.run for _, wake in kit.wakes] == ["default/r"]
    assert [e.state for e in kit.tell(seen=1).entries] == [EntryState.COMPLETED]


def test_a_turn_that_has_not_seen_the_news_is_followed_by_another(kit: CodeKit) -> None:
    kit.tell([SleepBegun("s#1", kit.now_ms + 5_000)])
    kit.advance(5_000)

    kit.tell(end=WAITING, seen=1)

    assert kit.dispatched() == ["f"]


def test_a_signal_ends_what_waits_for_it(kit: CodeKit) -> None:
    kit.tell([SignalAwaited("w#1", "approval")], end=WAITING)
    kit.signal("other")
    assert kit.dispatched() == []
    kit.signal("approval", {"ok": True}, actor="ada")

    found = msgspec.msgpack.decode(kit.entry("w#1").value)
    assert found == {
        "payload": {"ok": True},
        "actor": "ada",
        "received_ms": kit.now_ms,
        "timed_out": False,
    }
    assert [signal.name for signal in kit.run().signals] == ["other"]


def test_a_signal_that_came_early_is_kept(kit: CodeKit) -> None:
    kit.signal("approval", 1)
    reply = kit.tell([SignalAwaited("w#1", "approval")], end=WAITING)

    assert [e.state for e in reply.entries] == [EntryState.COMPLETED]
    assert kit.dispatched() == ["f"], "the worker did not know when it ended its turn"
    assert not kit.run().signals


def test_signals_go_to_the_waits_of_their_correlation_key(kit: CodeKit) -> None:
    kit.tell(
        [SignalAwaited("w#1", "paid", 0, "a"), SignalAwaited("w#2", "paid", 0, "b")], end=WAITING
    )
    kit.signal("paid", 2, correlation_key="b")

    assert kit.entry("w#1").state == EntryState.PENDING
    assert msgspec.msgpack.decode(kit.entry("w#2").value)["payload"] == 2


def test_a_wait_for_a_signal_times_out(kit: CodeKit) -> None:
    kit.tell([SignalAwaited("w#1", "approval", kit.now_ms + 1_000)], end=WAITING)
    kit.advance(1_000)

    found = msgspec.msgpack.decode(kit.entry("w#1").value)
    assert found == {"payload": None, "timed_out": True}


def test_what_is_dropped_takes_no_signal(kit: CodeKit) -> None:
    kit.tell([SignalAwaited("w#1", "approval")])
    kit.tell([EntryDropped("w#1"), SignalAwaited("w#2", "approval")], end=WAITING)
    kit.signal("approval", 1)

    assert kit.entry("w#1").state == EntryState.CANCELLED
    assert kit.entry("w#2").state == EntryState.COMPLETED


def test_the_next_attempt_of_a_step_makes_a_turn(kit: CodeKit) -> None:
    error = StepError("ValueError", "no")
    tried = StepTried("a#1", "a", "", 1, 2, error, kit.now_ms + 3_000, raw("half"))
    kit.tell([tried], end=WAITING)
    kit.advance(3_000)

    entry = kit.entry("a#1")
    assert (entry.attempts, entry.error, entry.state) == (1, error, EntryState.PENDING)
    assert msgspec.msgpack.decode(entry.details) == "half"


def test_a_step_that_has_failed_for_good(kit: CodeKit) -> None:
    error = StepError("ValueError", "no", False)
    reply = kit.tell([StepTried("a#1", "a", "", 1, 2, error)])

    assert [(e.state, e.attempts, e.error) for e in reply.entries] == [
        (EntryState.FAILED, 1, error)
    ]


def test_it_continues_as_new(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 1)])
    kit.tell(end=TurnEnd(TurnOutcome.AGAIN, raw({"n": 4})))

    turn = kit.turn()
    assert msgspec.msgpack.decode(turn.input) == {"n": 4}
    assert (turn.entries, turn.generation, turn.number) == ([], 1, 0)
    kit.kill()
    assert kit.run().journal.generation == 1  # type: ignore[union-attr]


def test_the_worker_that_had_the_turn_is_told_what_is_new(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 1), SignalAwaited("w#1", "go")], end=WAITING)
    kit.signal("go")

    turn = kit.turn()

    assert kit.scheduled()[-1].lane.startswith("@w?")
    assert (turn.since, [e.key for e in turn.entries]) == (2, ["w#1"])


def test_any_worker_takes_it_when_that_one_does_not(kit: CodeKit) -> None:
    kit.closed = lambda lane: lane.startswith("@w?")
    kit.tell([ran("a#1", 1), SignalAwaited("w#1", "go")], end=WAITING)
    kit.signal("go")
    assert kit.dispatched() == []
    kit.advance(2_000)

    turn = kit.turn()

    assert (turn.since, [e.key for e in turn.entries]) == (0, ["a#1", "w#1"])


def test_a_large_journal_is_fetched_in_pages(kit: CodeKit) -> None:
    for number in range(5):
        kit.tell([ran(f"a#{number}", "x" * 200_000)])
    kit.lose("f", worker="w.1")

    turn = kit.turn()
    assert (turn.entries, turn.since, turn.number) == ([], 5, 5)
    seen, keys = 0, []
    while seen < turn.number:
        reply = kit.tell(seen=seen)
        keys += [entry.key for entry in reply.entries]
        seen = reply.entries[-1].number
    assert keys == [f"a#{number}" for number in range(5)]


def test_a_journal_that_is_too_large_fails_the_run_and_says_what_to_do() -> None:
    kit = CodeKit(journal_entries=2)
    kit.start(code_plan())

    reply = kit.tell([ran(f"a#{number}") for number in range(3)])

    assert "continue as new" in reply.refused
    assert kit.state() == "FAILED"
    assert "journal-too-large" in kit.view().reason


def test_no_turn_while_it_is_paused(kit: CodeKit) -> None:
    kit.tell([SleepBegun("s#1", kit.now_ms + 1_000)], end=WAITING)
    kit.pause()
    kit.advance(2_000)
    assert kit.dispatched() == []
    kit.resume()

    assert kit.dispatched() == ["f"]


def test_its_plan_has_no_other_task() -> None:
    reply = CodeKit().submit_two_tasks()

    assert reply.code == "invalid-definition"


def test_a_turn_is_plain_data() -> None:
    kit = CodeKit()
    kit.start(code_plan())

    assert isinstance(kit.turn(), Turn)


def test_the_history_names_entries_and_the_view_shows_them(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 7)])
    kit.tell([SleepBegun("s#1", kit.now_ms + 5_000)], end=WAITING)

    assert [(e.type, e.path) for e in kit.history()[2:]] == [
        ("EntryEnded", "a#1"),
        ("TurnReported", "f"),
        ("EntryBegun", "s#1"),
        ("TurnReported", "f"),
        ("TurnEnded", "f"),
    ]
    steps = [(s.path, s.kind, s.state, s.outputs) for s in kit.view().steps]
    assert steps == [
        ("f", "task", "WAITING", None),
        ("a#1", "step", "COMPLETED", 7),
        ("s#1", "sleep", "WAITING", None),
    ]
    assert "sleeps for another 5.0 s" in kit.explain().summary


def beat(key: str, details: Any, started_ms: int = 5) -> StepBeat:
    return StepBeat(key, key, "", started_ms, raw(details))


def test_how_far_a_step_is_reaches_the_turn_after_a_loss(kit: CodeKit) -> None:
    kit.tell([beat("a#1", {"row": 1})])
    reply = kit.tell([beat("a#1", {"row": 2})])
    assert reply.entries == []
    seen = next(step for step in kit.view().steps if step.path == "a#1")
    assert (seen.state, seen.attempt, seen.details) == ("RUNNING", 1, {"row": 2})
    kit.lose("f", worker="w.1")

    entry = kit.turn().entries[0]

    assert (entry.key, entry.state, entry.attempts) == ("a#1", EntryState.PENDING, 0)
    assert msgspec.msgpack.decode(entry.details) == {"row": 2}


def test_what_an_older_release_could_not_read_is_not_stated(kit: CodeKit) -> None:
    kit.machine.level = EVENT_LEVELS[EntryBeat] - 1

    reply = kit.tell([beat("a#1", {"row": 1})])

    assert not reply.refused
    assert kit.all_events(kind=EntryBeat) == []
    assert kit.tell([StepRan("a#1", "a", "", 5, 6, raw(7))]).refused == ""
    assert values(kit.run()) == {"a#1": 7}
    kit.machine.level += 1
    kit.tell([beat("b#1", {"row": 2})])
    assert len(kit.all_events(kind=EntryBeat)) == 1


def test_who_states_it_too_early_is_stopped_before_it_is_logged(kit: CodeKit) -> None:
    kit.machine.level = EVENT_LEVELS[EntryBeat] - 1
    assert not kit.machine.may_state(EntryBeat)
    event = EntryBeat("a#1", "a", "", 5, raw(1))
    with pytest.raises(AssertionError, match="EntryBeat"):
        kit.tick(lambda machine: machine.emit(kit.run(), event))


def test_a_claimed_step_stays_claimed_whatever_it_says(kit: CodeKit) -> None:
    kit.tell([StepClaim("pay#1", "pay", "")])
    kit.tell([beat("pay#1", 1)])
    kit.lose("f", worker="w.1")

    entry = kit.turn().entries[0]

    assert entry.state == EntryState.CLAIMED
    assert msgspec.msgpack.decode(entry.details) == 1


def test_a_heartbeat_after_the_end_changes_nothing(kit: CodeKit) -> None:
    kit.tell([ran("a#1", 7)])
    kit.tell([beat("a#1", 1)])

    assert kit.entry("a#1").state == EntryState.COMPLETED
    assert msgspec.msgpack.decode(kit.entry("a#1").details) is None


def test_the_journals_size_counts_what_heartbeats_say(kit: CodeKit) -> None:
    kit.tell([beat("a#1", "x")])
    journal = kit.run().journal
    assert journal is not None
    before = journal.bytes
    kit.tell([beat("a#1", "x" * 31)])
    assert journal.bytes == before + 30
    kit.tell([ran("a#1")])
    kit.tell([ran("b#1")])
    assert journal.bytes == sum(size_of(entry) for entry in journal.entries.values())
