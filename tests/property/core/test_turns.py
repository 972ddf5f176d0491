"""Journals under any script of reports: sent again, sent late, turns lost, owners that change.

The model below shares no code with the core: it knows what a worker did and was told.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from headrace.events import ChildRunBegun, EntryEnded
from headrace.messages import (
    Change,
    ChildBegun,
    EntryDropped,
    EntryState,
    SignalAwaited,
    SleepBegun,
    StepBeat,
    StepClaim,
    StepError,
    StepRan,
    StepTried,
    Task,
    TurnEnd,
    TurnOutcome,
    UpdateAnswered,
    ValueNoted,
)
from headrace.plan import encode_plan
from support.codekit import CodeKit, code_plan, raw
from support.core_settings import TIMEOUT_S, examples
from support.plans import plan, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)
CHILD = encode_plan(plan(task("t"), name="child"))
KEYS = ("a", "b", "c")
KINDS = (
    *("ran", "tried", "failed", "claimed", "beat"),
    *("noted", "slept", "awaited", "child", "dropped"),
)
FINAL = (EntryState.COMPLETED, EntryState.FAILED, EntryState.CANCELLED)

keys = st.sampled_from(KEYS)
figures = st.integers(0, 3)
changes = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        keys,
        figures,
    ),
    max_size=3,
)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("report"), changes),
        # Its answer is lost: said again at once, with nothing in between.
        st.tuples(st.just("twice"), changes),
        st.tuples(st.just("wait"), changes),
        st.tuples(
            st.sampled_from(
                ["resend", "stale", "lose", "kill", "restore", "signal", "time", "answer", "update"]
            ),
            keys,
        ),
        st.tuples(st.just("again"), figures),
    ),
    max_size=25,
)


def change_of(kit: CodeKit, kind: str, key: str, figure: int) -> Change:
    """Return what a worker would say. A key is of one kind of thing only, as in a function."""
    step, error = f"{key}#step", StepError("boom", "no", False)
    made: dict[str, Change] = {
        "ran": StepRan(step, key, "", 1, 2, raw(figure)),
        "tried": StepTried(step, key, "", 1, 2, error, kit.now_ms + 1 + figure),
        "failed": StepTried(step, key, "", 1, 2, error),
        "claimed": StepClaim(step, key, ""),
        "beat": StepBeat(step, key, "", 1, raw(figure)),
        "noted": ValueNoted(f"{key}#value", key, raw(figure)),
        "slept": SleepBegun(f"{key}#sleep", kit.now_ms + figure),
        "awaited": SignalAwaited(f"{key}#signal", key, kit.now_ms + figure if figure else 0),
        "child": ChildBegun(f"{key}#child", key, "", CHILD, raw({}), detached=figure == 3),
        "dropped": EntryDropped(f"{key}#{('sleep', 'signal', 'child', 'step')[figure]}"),
    }
    return made[kind]


class Play:
    """One run, a worker that may be late, and what is known for sure of its journal."""

    def __init__(self) -> None:
        self.kit = CodeKit()
        self.kit.start(code_plan())
        self.stale: list[Task] = []
        self.last: tuple[Task, int, list[Change]] | None = None
        self.ended: dict[tuple[int, str], tuple[int, int, bytes]] = {}
        """(generation, key) -> (state, number, value) once it has ended."""

    def live(self) -> Task | None:
        return next((t for t in self.kit.tasks.values() if t.run == "default/r"), None)

    def report(self, said: Any, end: TurnEnd | None = None) -> None:
        live = self.live()
        if live is None:
            return
        sent = [change_of(self.kit, *one) for one in said]
        reply = self.kit.tell(sent, end=end)
        assert not reply.refused
        place = (live.run, live.token)
        self.last = (live, self.kit._sequences[place], sent)
        if end is not None:
            self.stale.append(live)

    def move(self, kind: str, value: Any) -> None:
        kit = self.kit
        if kind == "report":
            self.report(value)
        elif kind == "twice":
            self.report(value)
            self.resend()
        elif kind == "wait":
            self.report(value, TurnEnd(TurnOutcome.WAITING))
        elif kind == "again":
            self.report([], TurnEnd(TurnOutcome.AGAIN, raw({"n": value})))
        elif kind == "resend":
            self.resend()
        elif kind == "stale" and self.stale:
            before = kit.run().events
            said = [StepRan(f"{value}#step", value, "", 1, 2, raw(9))]
            late = kit.tell(said, task=self.stale[0], sequence=1_000, life="0", worker="late")
            assert late.refused
            assert kit.run().events == before
        elif kind == "lose" and (live := self.live()) is not None:
            self.stale.append(live)
            kit.lose("f", worker="w.1")
        elif kind in ("kill", "restore"):
            kit.kill(snapshot=kind == "restore")
        elif kind == "signal":
            kit.signal(value, 1)
        elif kind == "time":
            kit.advance(2)
        elif kind == "update":
            kit.update(value)
        elif kind == "answer":
            self.answer()

    def resend(self) -> None:
        """The reply was lost: the worker says the same again."""
        if self.last is None:
            return
        held, sequence, sent = self.last
        before = self.kit.run().events
        self.kit.tell(sent, task=held, sequence=sequence, seen=0)
        assert self.kit.run().events == before, "a report was recorded twice"

    def answer(self) -> None:
        journal = self.kit.run().journal
        assert journal is not None
        open_ones = [key for key, e in journal.entries.items() if e.kind == "update"]
        if self.live() is not None and open_ones:
            self.kit.tell([UpdateAnswered(open_ones[-1], raw(self.kit.now_ms))])
            self.last = None

    def check(self) -> None:
        """What must hold after every move."""
        run = self.kit.run()
        journal = run.journal
        assert journal is not None
        numbers = [entry.number for entry in journal.entries.values()]
        assert numbers == sorted(set(numbers)), "two changes have one number"
        assert max(numbers, default=0) <= journal.number
        for key, entry in journal.entries.items():
            place = (journal.generation, key)
            found = (entry.state, entry.number, bytes(entry.value))
            assert self.ended.setdefault(place, found) == found or entry.state not in FINAL
            if entry.state in FINAL:
                assert self.ended[place] == found, "a recorded entry has changed"
            else:
                assert self.ended.pop(place) == found, "a recorded entry is open again"
        for seen in {0, journal.known, journal.number}:
            told = [entry.key for entry in journal.since(seen, 1 << 30)]
            assert told == [e.key for e in journal.entries.values() if e.number > seen]
        due = {k: e.due_ms for k, e in journal.entries.items() if e.state == EntryState.PENDING}
        assert set(journal.due) <= {key for key, due_ms in due.items() if due_ms}
        assert run.due.get(-4, 0) == min(journal.due.values(), default=0)

    def check_history(self) -> None:
        """What must hold of all that was ever logged."""
        begun = [event.child for event in self.kit.all_events(kind=ChildRunBegun)]
        assert len(begun) == len(set(begun)), "a child was begun twice"
        folded = self.kit.folded().runs["default/r"]
        live = self.kit.run()
        assert folded is not None
        assert folded.journal is not None
        assert live.journal is not None
        assert msgspec.msgpack.encode(folded.journal.image()) == msgspec.msgpack.encode(
            live.journal.image()
        )
        ends = [e for e in self.kit.all_events(kind=EntryEnded) if e.taken]
        assert len(ends) <= len(self.kit.all_events()), "signals are taken once"


@given(script=moves)
@examples(150)
def test_a_journal_keeps_what_was_recorded(script: list[tuple[str, Any]]) -> None:
    play = Play()
    for kind, value in script:
        play.move(kind, value)
        play.check()
    play.check_history()
