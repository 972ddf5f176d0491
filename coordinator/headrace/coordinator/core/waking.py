"""What the owner itself does to a journal: it ends what waits, and wakes the function for that.

A turn that is live is told at once; else the fold makes one due.
"""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.state import Run, Signal
from headrace.coordinator.core.tick import Tick
from headrace.events import EntryBegun, EntryEnded
from headrace.messages import NOTHING, Entry, EntryState, StepError, TurnWake, UpdateView

CANCEL_KEY = "cancel"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def wake(tick: Tick, run: Run) -> None:
    """Tell the worker that has the turn, if one has, that something has changed."""
    step = run.program.code
    if run.status[step] == status.DISPATCHED:
        tick.wakes.append(
            (run.program.namespace, TurnWake(run.key, run.wire(step), run.tokens[step]))
        )


def end_entry(
    tick: Tick,
    run: Run,
    key: str,
    *,
    value: Any = None,
    raw: msgspec.Raw | None = None,
    error: StepError | None = None,
    state: int = EntryState.COMPLETED,
    taken: str = "",
) -> None:
    """End an entry that waits; the caller wakes the function."""
    assert run.journal is not None
    entry = run.journal.entries[key]
    if raw is None:
        raw = NOTHING if value is None else msgspec.Raw(_encode(value))
    now_ms = tick.state.now_ms
    tick.emit(
        run,
        EntryEnded(
            key,
            entry.kind,
            entry.name,
            entry.digest,
            state,
            entry.started_ms,
            now_ms,
            raw,
            error,
            taken,
        ),
    )


def deliver_to_journal(tick: Tick, run: Run) -> bool:
    """Give kept signals to entries of their name, oldest to oldest; tell whether any was given."""
    journal = run.journal
    assert journal is not None
    given = False
    if not run.signals or not journal.waits:
        return given
    for signal in list(run.signals):
        for key, name in journal.waits.items():
            if name == signal.name:
                end_entry(tick, run, key, value=_signalled(signal), taken=signal.name)
                given = True
                break
    return given


def _signalled(signal: Signal) -> dict[str, Any]:
    return {
        "payload": _decode(signal.payload),
        "actor": signal.actor,
        "received_ms": signal.time_ms,
        "timed_out": False,
    }


def ask_to_let_go(tick: Tick, run: Run, reason: str, actor: str) -> None:
    """The run is cancelled: its function is told, and may still run steps, to undo others."""
    value = msgspec.Raw(_encode({"reason": reason, "actor": actor}))
    tick.emit(
        run,
        EntryBegun(
            CANCEL_KEY, "cancel", CANCEL_KEY, state=EntryState.COMPLETED, value=value, actor=actor
        ),
    )
    wake(tick, run)


def may_let_go(run: Run) -> bool:
    """Tell whether the function of a run that is cancelled now can be asked to let go."""
    journal = run.journal
    return (
        journal is not None
        and not run.cancelling
        and journal.blocked is None
        and run.state == status.RUNNING
        and bool(run.attempt[run.program.code] or journal.generation or journal.number)
    )


def lets_go(run: Run) -> bool:
    """Tell whether the run is being cancelled, and its function was asked to let go."""
    return run.journal is not None and run.cancelling and not run.journal.killed


# --- updates ---------------------------------------------------------------------------------


def update_key(request: str) -> str:
    """Return the key of the update that a client's request made."""
    return f"update:{request}"


def update_view(entry: Entry) -> UpdateView:
    """Return what became of an update."""
    error = entry.error
    return UpdateView(
        state=_STATES.get(entry.state, "PENDING"),
        value=entry.value,
        error="" if error is None else f"{error.type}: {error.message}",
    )


_STATES = {EntryState.COMPLETED: "COMPLETED", EntryState.FAILED: "FAILED"}
