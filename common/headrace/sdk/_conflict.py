"""What people read when journal and code contradict each other."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

from headrace.messages import Entry, EntryState

if TYPE_CHECKING:
    from headrace.sdk._entries import Journaled
    from headrace.sdk._execution import Execution
    from headrace.sdk._strand import Strand

_STATES = {
    EntryState.PENDING: "begun",
    EntryState.COMPLETED: "completed",
    EntryState.FAILED: "failed",
    EntryState.CANCELLED: "dropped",
    EntryState.CLAIMED: "claimed",
}
SHOWN_CHARS_MAX = 300
_ASYNCIO = os.path.dirname(asyncio.__file__)
_OURS = os.path.join("headrace", "sdk") + os.sep


def difference(
    execution: Execution, operation: Journaled[Any] | None, entry: Entry | None, why: str
) -> str:
    """Return the readable diff of one entry: what the journal has, what the code does now."""
    if operation is None or entry is None:
        return f"{execution.workflow}: {why}"
    recorded = f"  journal: {entry.kind} {entry.name}"
    if entry.digest:
        recorded += f", inputs {entry.digest}"
    recorded += f", {_STATES.get(entry.state, entry.state)}{_time(entry.ended_ms)}"
    now = f"  code:    {operation.kind} {operation.name}"
    if operation.digest:
        now += f", inputs {operation.digest}"
    place = running_site()
    if place:
        now += f", at {place}"
    lines = [f"{execution.workflow}: {operation.key}: {why}", recorded, now]
    args = getattr(operation, "args", None)
    if args is not None:
        shown = ", ".join(
            [*map(repr, args), *(f"{k}={v!r}" for k, v in operation_kwargs(operation))]
        )
        lines.append(f"           called with ({shown[:SHOWN_CHARS_MAX]})")
    lines.append(
        "  Give the step in the code another key (a new step), restore its inputs, or choose: "
        "flowctl unblock RUN --skip (keep the recorded result), --fail, --patch"
    )
    return "\n".join(lines)


def operation_kwargs(operation: Any) -> list[tuple[str, Any]]:
    """Return keyword arguments of a step's call."""
    return list(operation.kwargs.items())


def foreign(execution: Execution, strand: Strand, waiting: object) -> str:
    """Return why a workflow function may not wait for *waiting*."""
    what = "asyncio.sleep(0)" if waiting is None else f"a {type(waiting).__name__}"
    place = site(strand) or "an unknown place"
    return (
        f"at {place} it waits for {what}, which is not of its Context: after a crash nobody could "
        "wait for it again. Put I/O into a step (ctx.step), use ctx.sleep for asyncio.sleep, "
        "ctx.parallel for asyncio.gather and tasks"
    )


def running_site() -> str:
    """Return ``file:line`` of the user's innermost frame that runs now."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and _OURS in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def site(strand: Strand | None) -> str:
    """Return ``file:line`` of the user's innermost frame that waits, or runs."""
    found = ""
    coroutine: Any = strand.coroutine if strand is not None else None
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        # What is awaited wrongly is the library's; where it is called from is the user's.
        if not (_OURS in frame.f_code.co_filename or frame.f_code.co_filename.startswith(_ASYNCIO)):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        coroutine = getattr(coroutine, "cr_await", None)
    return found


def _time(ms: int) -> str:
    return f" {datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if ms else ""
