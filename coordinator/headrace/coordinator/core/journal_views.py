"""What people see of a journal: its entries as steps of the run, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.state import Run
from headrace.messages import Entry, EntryState, StepView, WaitReason, subjects

_decode = msgspec.msgpack.Decoder().decode
_STATES = {
    EntryState.PENDING: "WAITING",
    EntryState.COMPLETED: "COMPLETED",
    EntryState.FAILED: "FAILED",
    EntryState.CANCELLED: "CANCELLED",
    EntryState.CLAIMED: "RUNNING",
}
_OUTCOMES = {"COMPLETED": "success", "FAILED": "failure", "CANCELLED": "cancelled"}


def entry_views(run: Run) -> Iterator[StepView]:
    """Yield one view for each entry of the journal, in the order in which they began or ended."""
    if run.journal is None:
        return
    for entry in run.journal.entries.values():
        yield _view(entry)


def _view(entry: Entry) -> StepView:
    state, error = _STATES[entry.state], entry.error
    if entry.kind == "step" and state == "WAITING" and not entry.due_ms:
        # It has sent a heartbeat, or is due again.
        state = "RUNNING"
    live = state in ("RUNNING", "WAITING")
    attempt = 0
    if entry.kind == "step":
        attempt = entry.attempts + (state in ("COMPLETED", "RUNNING"))
    return StepView(
        path=entry.key,
        name=entry.name,
        kind=entry.kind,
        state=state,
        attempt=attempt,
        started_ms=entry.started_ms,
        finished_ms=entry.ended_ms,
        error="" if error is None or state == "COMPLETED" else f"{error.type}: {error.message}",
        outputs=_decode(entry.value),
        child=_decode(entry.details) if entry.kind == "child" and len(entry.details) > 1 else "",
        outcome=_OUTCOMES.get(state, ""),
        conclusion=_OUTCOMES.get(state, ""),
        details=_decode(entry.details) if entry.kind == "step" and live else None,
    )


def is_blocked(run: Run) -> bool:
    """Tell whether journal and code contradict each other."""
    return run.journal is not None and run.journal.blocked is not None


def journal_reasons(run: Run, now_ms: int, limit: int) -> list[WaitReason]:
    """Return what the function of *run* waits for, if no turn of it is live or due."""
    journal = run.journal
    if journal is None or run.status[run.program.code] != status.WAITING:
        return []
    name = subjects.split_key(run.key)[1]
    if journal.blocked is not None:
        key, kind, message = journal.blocked
        reason = (
            f"journal and code contradict each other ({kind}): {message}; `flowctl unblock {name} "
            "--skip` takes what is recorded, `--patch` tries the code that is deployed now, "
            "`--fail` gives up"
        )
        return [WaitReason(path=key, state="BLOCKED", owner="person", reason=reason)]
    waiting = [e for e in journal.entries.values() if e.state == EntryState.PENDING]
    if not waiting:
        reason = "its function waits for a signal or an update"
        return [WaitReason(state="WAITING", owner="person", reason=reason)]
    return [_reason(entry, now_ms) for entry in waiting[:limit]]


def _reason(entry: Entry, now_ms: int) -> WaitReason:
    left_s = max(entry.due_ms - now_ms, 0) / 1_000
    owner, reason = "timer", f"sleeps for another {left_s:.1f} s"
    if entry.kind == "signal":
        owner, reason = "person", f"waiting for signal {entry.name}"
    elif entry.kind == "child":
        child = _decode(entry.details)
        owner, reason = f"run {child}", f"waits for child run {child}"
    elif entry.kind == "step":
        error = entry.error
        after = f" after {error.type}: {error.message}"[:200] if error is not None else ""
        reason = f"attempt {entry.attempts + 1} in {left_s:.1f} s{after}"
    elif entry.kind == "update":
        owner, reason = "worker", f"update {entry.name} waits for the function's answer"
    return WaitReason(
        path=entry.key,
        state="WAITING",
        owner=owner,
        reason=reason,
        since_ms=entry.started_ms,
        deadline_ms=entry.due_ms,
    )
