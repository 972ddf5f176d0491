"""Turns of code-first runs: what a worker reports is recorded once, fenced by attempt and token.

A report's changes are one tick's events; its reply leaves when they are in the log. What is in
the log already is answered again. What the owner does to the journal meanwhile (times, signals,
ends of children) is in the replies, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.creation import keep_plan
from headrace.coordinator.core.evolve_code import JOURNAL_TIMER, holder_of
from headrace.coordinator.core.journal import Journal
from headrace.coordinator.core.nodes import (
    CORRELATION_KEY_MAX,
    child_id,
    fail_step,
    signal_address,
)
from headrace.coordinator.core.state import EMPTY_MAP, UNREADABLE, Run
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.waking import deliver_to_journal, end_entry, update_view, wake
from headrace.errors import HeadraceError, InvalidRequest, LimitExceeded
from headrace.events import (
    ChildRunBegun,
    EntryAccepted,
    EntryBeat,
    EntryBegun,
    EntryEnded,
    EntryTried,
    LabelsChanged,
    StepCancelled,
    StepCompleted,
    TurnDue,
    TurnEnded,
    TurnReported,
)
from headrace.messages import (
    ChildBegun,
    DigestAccepted,
    EntryDropped,
    EntryState,
    LabelsSet,
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
    TurnReport,
    UpdateAnswered,
    ValueNoted,
    subjects,
)
from headrace.plan import check_inputs

REPLY_BYTES: Final = 512 * 1024
"""Of the entries in one turn or reply, about; the rest is asked for."""
KEY_MAX: Final = 512
"""Characters of an entry's key."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Unfit(Exception):
    """A change that cannot be recorded: the run fails, and says why."""

    def __init__(self, kind: str, message: str) -> None:
        self.error = StepError(kind, message, False)
        super().__init__(message)


# --- what a worker is given ------------------------------------------------------------------


def turn_of(tick: Tick, run: Run, *, sticky: bool) -> msgspec.Raw:
    """Return the inputs of the turn that begins. *sticky*: for the worker that had the last one.

    Of a large journal nothing is sent along: who does not know it asks for it.
    """
    journal = run.journal
    assert journal is not None
    since = journal.known if sticky else 0
    entries = journal.since(since, REPLY_BYTES)
    if entries and entries[-1].number < journal.number and journal.bytes > REPLY_BYTES:
        since, entries = journal.number, []
    queries = tick.questions.of(run)
    journal.asked = False
    return msgspec.Raw(
        _encode(
            Turn(
                msgspec.Raw(run.input if journal.input is None else journal.input),
                entries,
                since,
                journal.number,
                journal.generation,
                journal.skip,
                queries,
                tick.state.now_ms,
                run.created_ms,
            )
        )
    )


def _reply(tick: Tick, run: Run, seen: int) -> TurnReply:
    journal = run.journal
    assert journal is not None
    return TurnReply(
        entries=journal.since(seen, REPLY_BYTES),
        number=journal.number,
        queries=tick.questions.of(run),
    )


# --- what a worker reports -------------------------------------------------------------------


def report(tick: Tick, request: TurnReport) -> TurnReply:
    """Record what a function did; once, however often it is sent."""
    run = tick.state.runs.get(request.run)
    step = request.step if run is None else run.instance(request.step)
    if run is None or run.journal is None or step != run.program.code or run.quarantined:
        return TurnReply("there is no such run any more")
    journal = run.journal
    known = journal.reported
    if known[0] == request.attempt and request.sequence <= known[1]:
        # It was sent again; the turn may be over since.
        if run.attempt[step] == request.attempt and _worker(request) == journal.worker:
            return _reply(tick, run, request.seen)
        return TurnReply("the turn is over")
    if (
        run.tokens.get(step) != request.token
        or run.attempt[step] != request.attempt
        or run.status[step] != status.DISPATCHED
    ):
        return TurnReply(f"attempt {request.attempt} has not got the turn")
    if step in run.doomed:
        return TurnReply("the run is being stopped")
    for answer in request.answers:
        tick.questions.answered(run, answer.id, answer)
    if not request.changes and request.end is None:
        return _reply(tick, run, request.seen)
    before = journal.number
    overtaken = request.ahead > 0 and request.seen < before
    changes = request.changes[: request.ahead] if overtaken else request.changes
    try:
        for change in changes:
            _APPLY[type(change)](tick, run, change)
        _check_size(tick, journal)
    except _Unfit as unfit:
        fail_step(tick, run, step, request.attempt, unfit.error)
        return TurnReply(f"the run has failed: {unfit.error.message}")
    if overtaken:
        # Not noted as reported: sent again, it is to be answered the same.
        return TurnReply(number=journal.number, overtaken=True)
    deliver_to_journal(tick, run)
    tick.emit(run, TurnReported(step, request.attempt, request.sequence, _worker(request)))
    if request.end is not None:
        # Something the worker has not seen: the next turn is due.
        news = request.seen < before
        _end(tick, run, request, request.end, again=news or _has_ended_since(journal, before))
    _arm(tick, run)
    return _reply(tick, run, request.seen)


def _worker(request: TurnReport) -> str:
    return f"{request.worker}.{request.incarnation}"


def _has_ended_since(journal: Journal, number: int) -> bool:
    """Tell whether the owner has ended any of what this very report began."""
    for entry in reversed(journal.entries.values()):
        if entry.number <= number:
            return False
        if entry.kind in _OWNERS and entry.state in (EntryState.COMPLETED, EntryState.FAILED):
            return True
    return False


_OWNERS: Final = frozenset(("sleep", "signal", "child", "cancel"))
"""Kinds of entries that the owner ends."""


def _check_size(tick: Tick, journal: Journal) -> None:
    limits = tick.limits
    if len(journal.entries) > limits.journal_entries:
        raise _Unfit(
            "journal-too-large",
            f"the journal has {len(journal.entries)} entries; the limit is "
            f"{limits.journal_entries}: let the function continue as new before that",
        )
    if journal.bytes > limits.journal_bytes:
        raise _Unfit(
            "journal-too-large",
            f"the journal has {journal.bytes} bytes; the limit is {limits.journal_bytes}: let the "
            "function continue as new before that",
        )


def _arm(tick: Tick, run: Run) -> None:
    due_ms = run.due.get(JOURNAL_TIMER)
    if due_ms:
        tick.timers.push(due_ms, run.key, JOURNAL_TIMER)


def _value(tick: Tick, key: str, value: msgspec.Raw) -> msgspec.Raw:
    """Return a value that can be recorded."""
    if len(value) > tick.limits.output_bytes:
        raise _Unfit(
            "limit-exceeded",
            f"the value of {key} has {len(value)} bytes; the limit is {tick.limits.output_bytes}",
        )
    if len(value) > 1:
        try:
            _decode(value)
        except UNREADABLE as error:
            raise _Unfit("invalid-output", f"the value of {key} cannot be read") from error
    return value


def _fresh(run: Run, key: str) -> bool:
    """Tell whether an entry may begin; one that is there already stays as it is."""
    journal = run.journal
    assert journal is not None
    if not 0 < len(key) <= KEY_MAX:
        raise _Unfit("invalid-key", f"a key has 1 to {KEY_MAX} characters: {key[:80]!r}")
    return key not in journal.entries


def _may_end(run: Run, key: str) -> bool:
    """Tell whether an entry may get its end: it has none yet."""
    journal = run.journal
    assert journal is not None
    return _fresh(run, key) or journal.is_open(key)


def _ran(tick: Tick, run: Run, change: StepRan) -> None:
    if _may_end(run, change.key):
        _value(tick, change.key, change.value)
        tick.emit(run, step_ended(change))


def step_ended(ran: StepRan) -> EntryEnded:
    """Return the event of a step that has completed."""
    return EntryEnded(
        ran.key,
        "step",
        ran.name,
        ran.digest,
        EntryState.COMPLETED,
        ran.started_ms,
        ran.ended_ms,
        ran.value,
    )


def _tried(tick: Tick, run: Run, change: StepTried) -> None:
    if not _may_end(run, change.key):
        return
    head = (change.key, change.name, change.digest)
    times = (change.started_ms, change.ended_ms)
    if change.retry_ms:
        details = _value(tick, change.key, change.details)
        tick.emit(run, EntryTried(*head, *times, change.error, change.retry_ms, details))
    else:
        key, name, digest = head
        tick.emit(
            run,
            EntryEnded(key, "step", name, digest, EntryState.FAILED, *times, error=change.error),
        )


def _beaten(tick: Tick, run: Run, change: StepBeat) -> None:
    if tick.may_state(EntryBeat) and _may_end(run, change.key):
        details = _value(tick, change.key, change.details)
        head = (change.key, change.name, change.digest)
        tick.emit(run, EntryBeat(*head, change.started_ms, details))


def _claimed(tick: Tick, run: Run, change: StepClaim) -> None:
    journal = run.journal
    assert journal is not None
    entry = journal.entries.get(change.key)
    if _fresh(run, change.key) or (entry is not None and entry.state == EntryState.PENDING):
        state = EntryState.CLAIMED
        tick.emit(run, EntryBegun(change.key, "step", change.name, change.digest, state))


def _noted(tick: Tick, run: Run, change: ValueNoted) -> None:
    if _fresh(run, change.key):
        now_ms, value = tick.state.now_ms, _value(tick, change.key, change.value)
        head = (change.key, "value", change.name, "", EntryState.COMPLETED)
        tick.emit(run, EntryEnded(*head, now_ms, now_ms, value))


def _slept(tick: Tick, run: Run, change: SleepBegun) -> None:
    if _fresh(run, change.key):
        due_ms = max(change.due_ms, 1)
        tick.emit(run, EntryBegun(change.key, "sleep", "sleep", change.digest, due_ms=due_ms))
        if due_ms <= tick.state.now_ms:
            end_entry(tick, run, change.key)


def _awaited(tick: Tick, run: Run, change: SignalAwaited) -> None:
    if not _fresh(run, change.key):
        return
    if not change.signal or len(change.correlation_key) > CORRELATION_KEY_MAX:
        raise _Unfit("invalid-request", f"{change.key}: not a signal, or not a correlation key")
    name = signal_address(change.signal, change.correlation_key)
    tick.emit(run, EntryBegun(change.key, "signal", name, due_ms=max(change.due_ms, 0)))


def _child(tick: Tick, run: Run, change: ChildBegun) -> None:
    """Begin another run; one that cannot begin fails its entry at once."""
    if not _fresh(run, change.key):
        return
    try:
        begun = _child_begun(tick, run, change)
    except (HeadraceError, *UNREADABLE) as error:
        now_ms = tick.state.now_ms
        head = (change.key, "child", change.name, change.digest, EntryState.FAILED)
        why = StepError("child-refused", str(error)[:1_000], False)
        tick.emit(run, EntryEnded(*head, now_ms, now_ms, error=why))
    else:
        tick.emit(run, begun)


def _child_begun(tick: Tick, run: Run, change: ChildBegun) -> ChildRunBegun:
    """Store the child's plan. Raises `HeadraceError`, or what msgspec does, if it cannot begin."""
    namespace, limit = run.program.namespace, tick.limits.input_bytes
    child = change.id or child_id(run.key, holder_of(run, change.key))
    if not subjects.valid_name(child):
        raise InvalidRequest(f"not a run id: {child!r:.200}")
    plan = keep_plan(tick, namespace, bytes(change.plan))
    if isinstance(plan, Refusal):
        raise InvalidRequest(plan.message)
    given = check_inputs(tick.state.program(plan, namespace).plan, _decode(change.input))
    data = _encode(given) if given else EMPTY_MAP
    if len(data) > limit:
        raise LimitExceeded(f"an input of {len(data)} bytes; the limit is {limit}")
    head = (change.key, change.name, change.digest, child, plan)
    return ChildRunBegun(*head, msgspec.Raw(data), change.detached)


def _dropped(tick: Tick, run: Run, change: EntryDropped) -> None:
    journal = run.journal
    assert journal is not None
    if journal.is_open(change.key):
        end_entry(tick, run, change.key, state=EntryState.CANCELLED)


def _answered(tick: Tick, run: Run, change: UpdateAnswered) -> None:
    journal = run.journal
    assert journal is not None
    entry = journal.entries.get(change.key)
    if entry is None or entry.kind != "update" or entry.state != EntryState.PENDING:
        return
    state = EntryState.COMPLETED if change.error is None else EntryState.FAILED
    value = _value(tick, change.key, change.value)
    end_entry(tick, run, change.key, raw=value, error=change.error, state=state)
    tick.questions.answered(run, change.key, update_view(journal.entries[change.key]))


def _labelled(tick: Tick, run: Run, change: LabelsSet) -> None:
    labels = {**run.labels, **change.labels}
    problem = label_problem(tick.limits, labels)
    if problem:
        raise _Unfit("invalid-labels", problem)
    if labels != run.labels:
        tick.emit(run, LabelsChanged(change.labels))


def label_problem(limits: Any, labels: dict[str, str]) -> str:
    """Say what is wrong with a run's labels; "" if nothing is."""
    if len(labels) > limits.labels:
        return f"a run has at most {limits.labels} labels, not {len(labels)}"
    for name, value in labels.items():
        if not name or not name.isprintable():
            return f"not a name of a label: {name!r:.200}"
        if max(len(name.encode()), len(value.encode())) > limits.label_bytes:
            return f"label {name!r:.80} or its value has over {limits.label_bytes} bytes"
    return ""


def _accepted(tick: Tick, run: Run, change: DigestAccepted) -> None:
    journal = run.journal
    assert journal is not None
    if change.key in journal.entries:
        tick.emit(run, EntryAccepted(change.key, change.digest))


_APPLY: Final[dict[type, Callable[[Tick, Run, Any], None]]] = {
    StepRan: _ran,
    StepTried: _tried,
    StepBeat: _beaten,
    StepClaim: _claimed,
    ValueNoted: _noted,
    SleepBegun: _slept,
    SignalAwaited: _awaited,
    ChildBegun: _child,
    EntryDropped: _dropped,
    UpdateAnswered: _answered,
    LabelsSet: _labelled,
    DigestAccepted: _accepted,
}


# --- how a turn ends -------------------------------------------------------------------------


def _end(tick: Tick, run: Run, request: TurnReport, end: TurnEnd, *, again: bool) -> None:
    step, attempt, worker = run.program.code, request.attempt, _worker(request)
    outcome, now_ms = end.outcome, tick.state.now_ms
    error = end.error or StepError("error", "the workflow function failed", False)
    if outcome == TurnOutcome.WAITING:
        tick.emit(run, TurnEnded(step, attempt, worker, outcome, again=again))
    elif outcome == TurnOutcome.COMPLETED:
        value = end.value
        try:
            _value(tick, "the result", value)
        except _Unfit as unfit:
            fail_step(tick, run, step, attempt, unfit.error)
            return
        output = completed_output(value)
        tick.emit(run, StepCompleted(step, attempt, worker, now_ms, now_ms, output))
    elif outcome == TurnOutcome.BLOCKED:
        head = (step, attempt, worker, outcome)
        tick.emit(run, TurnEnded(*head, error=end.error or error, key=end.key))
    elif outcome == TurnOutcome.AGAIN and not run.cancelling:
        _again(tick, run, request, end.value)
    elif outcome == TurnOutcome.FAILED:
        fail_step(tick, run, step, attempt, error)
    else:
        tick.emit(run, StepCancelled(step, attempt, worker, run.cancel_reason))


def completed_output(result: msgspec.Raw) -> msgspec.Raw:
    """Return the outputs of a function's task and run: ``{"result": …}``."""
    return msgspec.Raw(b"\x81\xa6result" + bytes(result))


def _again(tick: Tick, run: Run, request: TurnReport, given: msgspec.Raw) -> None:
    """Continue as new: the input is a map, and fits."""
    problem = ""
    try:
        if not isinstance(_decode(given), dict):
            problem = "the input to continue with is no map"
    except UNREADABLE:
        problem = "the input to continue with cannot be read"
    if len(given) > tick.limits.input_bytes:
        limit = tick.limits.input_bytes
        problem = f"the input to continue with has {len(given)} bytes; the limit is {limit}"
    if problem:
        step_error = StepError("invalid-input", problem, False)
        fail_step(tick, run, run.program.code, request.attempt, step_error)
        return
    head = (run.program.code, request.attempt, _worker(request), TurnOutcome.AGAIN)
    tick.emit(run, TurnEnded(*head, msgspec.Raw(bytes(given)), again=True))


# --- times -----------------------------------------------------------------------------------


def fire_due(tick: Tick, run: Run) -> None:
    """End what has waited until now; a step between attempts gets a turn for its next one."""
    journal, now_ms = run.journal, tick.state.now_ms
    assert journal is not None
    ended = False
    for key in [key for key, due_ms in journal.due.items() if due_ms <= now_ms]:
        kind = journal.entries[key].kind
        ended = True
        if kind == "sleep":
            end_entry(tick, run, key)
        elif kind == "signal":
            end_entry(tick, run, key, value={"payload": None, "timed_out": True})
        else:
            tick.emit(run, TurnDue(key))
    if ended:
        wake(tick, run)
    _arm(tick, run)
