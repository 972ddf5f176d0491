"""An owner of one code-first run, in memory: the contract of `headrace.messages._code`, and no
more. What it does is checked against the real machine by the conformance suite."""

from __future__ import annotations

import msgspec

from headrace.messages import (
    NOTHING,
    Change,
    ChildBegun,
    DigestAccepted,
    Entry,
    EntryDropped,
    EntryState,
    LabelsSet,
    Query,
    QueryAnswer,
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
    TurnReply,
    UpdateAnswered,
    ValueNoted,
)

OPEN = (EntryState.PENDING, EntryState.CLAIMED)


def pack(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


class JournalOwner:
    """`due` tells whether a turn is due; `turn` begins one, fencing those before."""

    def __init__(self, inputs: dict[str, object] | None = None, *, now_ms: int = 1_000) -> None:
        self.now_ms = self.created_ms = now_ms
        self.input = pack(inputs or {})
        self.journal: dict[str, Entry] = {}
        self.number = self.generation = self.token = 0
        self.due = True
        self.in_turn = False
        self.end: TurnEnd | None = None
        self.blocked: TurnEnd | None = None
        self.skip: list[str] = []
        self.labels: dict[str, str] = {}
        self.signals: dict[str, list[object]] = {}
        self.queries: list[Query] = []
        self.answers: dict[str, QueryAnswer] = {}
        self.reports: list[list[Change]] = []
        self.children: dict[str, ChildBegun] = {}
        self._replies: dict[tuple[int, int], TurnReply] = {}

    # -- turns ---------------------------------------------------------------------------------

    def turn(self, *, since: int = 0) -> tuple[int, Turn]:
        self.token += 1
        self.due, self.in_turn = False, True
        queries, self.queries = self.queries, []
        return self.token, Turn(
            input=self.input,
            entries=self._above(since),
            since=since,
            number=self.number,
            generation=self.generation,
            skip=list(self.skip),
            queries=queries,
            now_ms=self.now_ms,
            created_ms=self.created_ms,
        )

    def lose(self) -> None:
        """The worker is lost."""
        self.token += 1
        self.due, self.in_turn = True, False

    def report(
        self,
        token: int,
        sequence: int,
        seen: int,
        changes: list[Change],
        end: TurnEnd | None,
        answers: list[QueryAnswer],
        ahead: int = 0,
    ) -> TurnReply:
        if token != self.token or not self.in_turn:
            return TurnReply(refused="another turn has begun")
        known = self._replies.get((token, sequence))
        if known is not None:
            return known
        overtaken = ahead > 0 and seen < self.number
        if overtaken:
            changes, end = changes[:ahead], None
        for change in changes:
            self._apply(change)
        self.reports.append(changes)
        self.answers.update({answer.id: answer for answer in answers})
        entries = self._above(seen)
        queries, self.queries = self.queries, []
        reply = TurnReply(entries=entries, number=self.number, queries=queries)
        if overtaken:
            self.queries = queries
            reply = TurnReply(number=self.number, overtaken=True)
        if end is not None:
            self._end(end, seen)
        self._replies[token, sequence] = reply
        return reply

    def _end(self, end: TurnEnd, seen: int) -> None:
        self.in_turn = False
        if end.outcome == TurnOutcome.WAITING:
            # What has ended since the function last looked makes the next turn.
            self.due = any(e.number > seen and e.state not in OPEN for e in self._above(seen))
            self.due = self.due or any(
                e.kind in ("update", "cancel") and e.number > seen for e in self.journal.values()
            )
        elif end.outcome == TurnOutcome.BLOCKED:
            self.blocked = end
        elif end.outcome == TurnOutcome.AGAIN:
            self.input, self.journal = end.value, {}
            self.number, self.generation = 0, self.generation + 1
            self.due = True
        else:
            self.end = end

    def _above(self, seen: int) -> list[Entry]:
        found = [msgspec.structs.replace(e) for e in self.journal.values() if e.number > seen]
        return sorted(found, key=lambda entry: entry.number)

    # -- what the function does ----------------------------------------------------------------

    def _apply(self, change: Change) -> None:  # noqa: C901 - one case for each change
        if isinstance(change, LabelsSet):
            self.labels.update(change.labels)
            return
        entry = self.journal.get(change.key)
        if isinstance(change, DigestAccepted):
            assert entry is not None
            entry.digest = change.digest
            return
        if isinstance(change, UpdateAnswered):
            assert entry is not None
            if entry.state in OPEN:
                failed = change.error is not None
                entry.state = EntryState.FAILED if failed else EntryState.COMPLETED
                entry.value, entry.error = change.value, change.error
                entry.ended_ms = self.now_ms
            return
        if entry is not None and entry.state not in OPEN:
            return
        if isinstance(change, EntryDropped):
            if entry is not None:
                entry.state = EntryState.CANCELLED
                self._changed(entry)
            return
        if entry is None:
            entry = self._made(change)
        if isinstance(change, StepRan):
            entry.started_ms = change.started_ms
            self._complete(entry, change.value, change.ended_ms)
        elif isinstance(change, StepTried):
            entry.attempts += 1
            entry.error, entry.details = change.error, change.details
            entry.started_ms = entry.started_ms or change.started_ms
            entry.due_ms = change.retry_ms
            entry.state = EntryState.PENDING if change.retry_ms else EntryState.FAILED
            entry.ended_ms = 0 if change.retry_ms else change.ended_ms
            self._changed(entry)
        elif isinstance(change, StepBeat):
            entry.details = change.details
            if not entry.number:
                self._changed(entry)
        elif isinstance(change, StepClaim):
            entry.state = EntryState.CLAIMED
            self._changed(entry)
        elif isinstance(change, ValueNoted):
            self._complete(entry, change.value, self.now_ms)
        elif isinstance(change, SleepBegun):
            entry.due_ms = change.due_ms
            self._changed(entry)
            self._tick()
        elif isinstance(change, SignalAwaited):
            entry.due_ms = change.due_ms
            self._changed(entry)
            self._deliver(change.signal)
        else:
            self.children[change.key] = change
            self._changed(entry)
            if change.detached:
                self._complete(entry, NOTHING, self.now_ms)

    def _made(self, change: Change) -> Entry:
        kinds = {
            StepRan: "step", StepTried: "step", StepClaim: "step", StepBeat: "step",
            ValueNoted: "value",
            SleepBegun: "sleep", SignalAwaited: "signal", ChildBegun: "child",
        }  # fmt: skip
        name = getattr(change, "name", "") or getattr(change, "signal", "")
        entry = Entry(change.key, kinds[type(change)], name, getattr(change, "digest", ""))
        entry.started_ms = self.now_ms
        self.journal[change.key] = entry
        return entry

    # -- what the owner does -------------------------------------------------------------------

    def _changed(self, entry: Entry) -> None:
        self.number += 1
        entry.number = self.number

    def _complete(self, entry: Entry, value: msgspec.Raw, at_ms: int) -> None:
        entry.state, entry.value, entry.error = EntryState.COMPLETED, value, None
        entry.ended_ms = at_ms
        self._changed(entry)

    def _news(self) -> None:
        if not self.in_turn and self.end is None:
            self.due = True

    def advance(self, ms: int) -> None:
        """Let time pass; what is due ends in its order."""
        until = self.now_ms + ms
        while (due := self.next_due()) is not None and due <= until:
            self.now_ms = max(self.now_ms, due)
            self._tick()
        self.now_ms = until

    def next_due(self) -> int | None:
        times = [e.due_ms for e in self.journal.values() if e.state == EntryState.PENDING]
        return min((t for t in times if t > 0 and t > self.now_ms), default=None)

    def _tick(self) -> None:
        for entry in sorted(self.journal.values(), key=lambda e: (e.due_ms, e.number)):
            if entry.state != EntryState.PENDING or not 0 < entry.due_ms <= self.now_ms:
                continue
            if entry.kind == "sleep":
                self._complete(entry, NOTHING, self.now_ms)
            elif entry.kind == "signal":
                envelope = {"payload": None, "timed_out": True}
                self._complete(entry, pack(envelope), self.now_ms)
            self._news()

    def signal(self, name: str, payload: object = None) -> None:
        self.signals.setdefault(name, []).append(payload)
        self._deliver(name)

    def _deliver(self, name: str) -> None:
        kept = self.signals.get(name, [])
        waiting = [
            e
            for e in self.journal.values()
            if e.kind == "signal" and e.name == name and e.state == EntryState.PENDING
        ]
        for entry in sorted(waiting, key=lambda e: e.number):
            if kept:
                envelope = {
                    "payload": kept.pop(0),
                    "actor": "a",
                    "received_ms": self.now_ms,
                    "timed_out": False,
                }
                self._complete(entry, pack(envelope), self.now_ms)
                self._news()

    def end_child(self, key: str, value: object = None, *, error: str = "") -> None:
        entry = self.journal[key]
        if error:
            entry.state, entry.ended_ms = EntryState.FAILED, self.now_ms
            entry.error = StepError("run-failed", error)
            self._changed(entry)
        else:
            self._complete(entry, pack(value), self.now_ms)
        self._news()

    def update(self, key: str, name: str, argument: object = None) -> None:
        entry = Entry(key, "update", name, "", details=pack(argument), started_ms=self.now_ms)
        self.journal[key] = entry
        self._changed(entry)
        self._news()

    def cancel(self) -> None:
        entry = Entry("cancel", "cancel", "cancel", "", EntryState.COMPLETED)
        entry.ended_ms = self.now_ms
        self.journal["cancel"] = entry
        self._changed(entry)
        self._news()

    def query(self, id: str, name: str, argument: object = None) -> None:
        self.queries.append(Query(id, name, pack(argument)))
        self._news()
