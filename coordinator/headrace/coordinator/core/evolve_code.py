"""The fold of what happens to code-first runs: entries of the journal, turns, child runs."""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.journal import Journal, own
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.surroundings import child_extras, leave
from headrace.events import (
    ChildRunBegun,
    EntryAccepted,
    EntryBeat,
    EntryBegun,
    EntryEnded,
    EntryTried,
    LabelsChanged,
    RunUnblocked,
    TurnDue,
    TurnEnded,
    TurnReported,
)
from headrace.messages import NOTHING, Entry, EntryState, TurnOutcome, entry_span, subjects

JOURNAL_TIMER = -4
"""Stands for an instance in `Run.due`, and in the timers: the earliest time of an entry."""
LET_GO_TIMER = -5
"""As well: when a function that was asked to let go is not waited for any more."""
ATTEMPTS_WRAP = 50_000
"""Turns after which they are counted from 1 again; tokens keep them apart."""
_encode = msgspec.msgpack.Encoder().encode


def _journal(run: Run) -> Journal:
    assert run.journal is not None
    return run.journal


def _changed(state: ShardState, run: Run) -> None:
    """Something has happened that the function does not know: a turn is due if there is none."""
    journal, step = _journal(run), run.program.code
    if run.status[step] == status.WAITING and journal.blocked is None:
        _ready(state, run, step)


def _ready(state: ShardState, run: Run, step: int) -> None:
    run.status[step] = status.PENDING
    if state.leading:
        state.agenda.append((run, step))


def _time(run: Run) -> None:
    """Note the earliest time that an entry waits for."""
    due = _journal(run).due
    if due:
        run.due[JOURNAL_TIMER] = min(due.values())
    else:
        run.due.pop(JOURNAL_TIMER, None)


def turn_reported(state: ShardState, run: Run, event: TurnReported) -> None:
    """Fold `TurnReported`."""
    journal = run.journal
    assert journal is not None
    journal.reported = (event.attempt, event.sequence)
    journal.worker, journal.known = event.worker, journal.number
    if run.losses:
        # It gets on: what it has lost before says nothing about the next worker.
        run.losses.pop(event.step, None)


def entry_begun(state: ShardState, run: Run, event: EntryBegun) -> None:
    """Fold `EntryBegun`."""
    state.remember(event.request_id, event.not_after_ms)
    journal = _journal(run)
    entry = Entry(
        event.key,
        event.kind,
        event.name,
        event.digest,
        event.state,
        own(event.value),
        due_ms=event.due_ms,
        started_ms=state.now_ms,
        ended_ms=state.now_ms if event.state == EntryState.COMPLETED else 0,
        details=own(event.details),
    )
    old = journal.entries.get(event.key)
    if old is not None:
        entry.attempts, entry.details = old.attempts, old.details
    journal.put(entry)
    if event.due_ms or (old is not None and old.due_ms):
        _time(run)
    _changed(state, run)


def entry_ended(state: ShardState, run: Run, event: EntryEnded) -> None:
    """Fold `EntryEnded`."""
    journal = run.journal
    assert journal is not None
    old = journal.entries.get(event.key)
    entry = Entry(
        event.key,
        event.kind,
        event.name,
        event.digest,
        event.state,
        own(event.value),
        event.error,
        started_ms=event.started_ms,
        ended_ms=event.ended_ms,
    )
    timed = bool(old is not None and old.due_ms)
    if old is not None:
        entry.attempts, entry.details = old.attempts, old.details
        entry.started_ms = old.started_ms or entry.started_ms
        if event.kind == "update":
            # A replay is to see it where it came in.
            entry.number = old.number
    if event.kind == "step" and event.state == EntryState.FAILED:
        entry.attempts += 1
    if event.taken:
        for index, kept in enumerate(run.signals):
            if kept.name == event.taken:
                del run.signals[index]
                break
    awaited = journal.awaited.get(event.key)
    if awaited is not None and event.state == EntryState.CANCELLED and event.error is None:
        # Dropped; a child that was cancelled has ended already.
        _stop_child(state, run, event.key, awaited)
    journal.put(entry)
    if timed:
        _time(run)
    _changed(state, run)


def entry_tried(state: ShardState, run: Run, event: EntryTried) -> None:
    """Fold `EntryTried`."""
    journal = _journal(run)
    old = journal.entries.get(event.key)
    entry = Entry(
        event.key,
        "step",
        event.name,
        event.digest,
        error=event.error,
        attempts=1 + (old.attempts if old is not None else 0),
        due_ms=event.retry_ms,
        started_ms=(old.started_ms if old is not None else 0) or event.started_ms,
        details=own(event.details),
    )
    journal.put(entry)
    _time(run)


def entry_beat(state: ShardState, run: Run, event: EntryBeat) -> None:
    """Fold `EntryBeat`."""
    journal, details = _journal(run), own(event.details)
    if event.key in journal.entries:
        journal.beat(event.key, details)
        return
    entry = Entry(
        event.key,
        "step",
        event.name,
        event.digest,
        started_ms=event.started_ms,
        details=details,
    )
    journal.put(entry)


def entry_accepted(state: ShardState, run: Run, event: EntryAccepted) -> None:
    """Fold `EntryAccepted`."""
    journal = _journal(run)
    journal.entries[event.key].digest = event.digest
    if event.key in journal.skip:
        journal.skip.remove(event.key)


def turn_due(state: ShardState, run: Run, event: TurnDue) -> None:
    """Fold `TurnDue`."""
    journal = _journal(run)
    journal.due.pop(event.key, None)
    # It is due from now on: a journal read from its bytes must not wait for it once more.
    journal.entries[event.key].due_ms = 0
    _time(run)
    _changed(state, run)


def turn_ended(state: ShardState, run: Run, event: TurnEnded) -> None:
    """Fold `TurnEnded`."""
    journal, step = _journal(run), event.step
    leave(run, step)
    if run.attempt[step] >= ATTEMPTS_WRAP:
        run.attempt[step] = 0
    if event.outcome == TurnOutcome.AGAIN:
        stop_children(state, run)
        journal.begin_anew(bytes(event.value))
        _time(run)
    elif event.outcome == TurnOutcome.BLOCKED:
        error = event.error
        assert error is not None
        journal.blocked = (event.key, error.type, error.message)
    if event.again:
        _ready(state, run, step)
    else:
        run.status[step] = status.WAITING


def unblocked(state: ShardState, run: Run, event: RunUnblocked) -> None:
    """Fold `RunUnblocked`."""
    state.remember(event.request_id, event.not_after_ms)
    journal = _journal(run)
    journal.blocked = None
    if event.action == "skip":
        journal.skip.append(event.key)
    if event.action != "fail":
        _changed(state, run)


def labels_changed(state: ShardState, run: Run, event: LabelsChanged) -> None:
    """Fold `LabelsChanged`."""
    run.labels = {**run.labels, **event.labels}


def child_begun(state: ShardState, run: Run, event: ChildRunBegun) -> None:
    """Fold `ChildRunBegun`: the intent to begin the child is part of this entry."""
    journal = _journal(run)
    value = msgspec.Raw(_encode({"run": event.child})) if event.detached else NOTHING
    journal.put(
        Entry(
            event.key,
            "child",
            event.name,
            event.digest,
            EntryState.COMPLETED if event.detached else EntryState.PENDING,
            value,
            started_ms=state.now_ms,
            ended_ms=state.now_ms if event.detached else 0,
            details=msgspec.Raw(_encode(event.child)),
        )
    )
    child = subjects.run_key(run.program.namespace, event.child)
    plan = state.plans.get(event.plan, b"")
    more = (event.plan, plan, bytes(event.input), run.priority, state.shard)
    extras = child_extras(run, entry_span(journal.generation, event.key))
    state.post(child, "start-child", child, holder_of(run, event.key), *more, *extras)


def holder_of(run: Run, key: str) -> str:
    """Return how the child of the entry *key* names what waits for it."""
    return f"{run.key}#{_journal(run).generation}:{key}"


def stop_children(state: ShardState, run: Run) -> None:
    """Nobody waits any more for the runs that it has begun: their cancel is part of this."""
    for key, child in _journal(run).awaited.items():
        _stop_child(state, run, key, child)


def _stop_child(state: ShardState, run: Run, key: str, child: str) -> None:
    name = subjects.run_key(run.program.namespace, child)
    state.post(name, "cancel-child", name, holder_of(run, key), run.cancel_reason, state.shard)
