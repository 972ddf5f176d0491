"""When steps began and ended, and since when they wait: read from a run's history.

Of a quarantined run nothing is told: its history may be what cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from headrace.coordinator.core.pieces import Piece, Pieces, finished
from headrace.coordinator.core.state import Run
from headrace.events import (
    CancelRequested,
    ChildEnded,
    ChildStarted,
    CompensationStarted,
    Expanded,
    NodeEnded,
    NodeStarted,
    PlanPatched,
    RunEvent,
    RunPaused,
    SleepStarted,
    StepCached,
    StepCancelled,
    StepCarried,
    StepCompleted,
    StepFailed,
    StepLost,
    StepResolved,
    StepScheduled,
    StepSkipped,
    StepUnknown,
    WaitEnded,
    WaitStarted,
    decode_chunk,
)
from headrace.messages import ResultExtra

_BEGUN = NodeStarted | SleepStarted | WaitStarted | Expanded | ChildStarted


class Times(NamedTuple):
    """When an instance began and ended (ms, 0: not yet), on which worker, and why."""

    started_ms: int
    ended_ms: int
    worker: str = ""
    reason: str = ""
    extra: ResultExtra | None = None
    """What the step said beside its outputs."""


def timing(run: Run, segments: Iterable[bytes]) -> Pieces[dict[int, Times]]:
    """Gather the times of instances from the run's history: *segments*, then what it holds."""
    found: dict[int, Times] = {}
    piece = Piece()
    for data in (*segments, *run.history):
        if piece.full(len(data)):
            yield
        chunk = decode_chunk(data)
        for number, event in enumerate(chunk.events, chunk.first):
            if isinstance(event, PlanPatched):
                found = _renumbered(run, number, found)
            else:
                note(found, event, chunk.time_ms)
    return found


def note(found: dict[int, Times], event: RunEvent, now_ms: int) -> None:
    """Take what *event*, logged at *now_ms*, says of an instance; a patch renumbers them."""
    if isinstance(event, StepCompleted | StepFailed):
        worker, extra = event.worker, event.extra
        found[event.step] = Times(event.started_ms, event.ended_ms, worker, "", extra)
    elif isinstance(event, StepScheduled):
        found[event.step] = Times(now_ms, 0)
    elif isinstance(event, _BEGUN):
        found.setdefault(event.node, Times(now_ms, 0))
    elif isinstance(event, NodeEnded | WaitEnded | ChildEnded):
        started = found.get(event.node, Times(now_ms, 0)).started_ms
        reason = event.outcome if isinstance(event, WaitEnded) else event.reason
        found[event.node] = Times(started, now_ms, "", reason)
    elif isinstance(event, StepSkipped):
        found[event.step] = Times(0, now_ms, "", event.reason)
    elif isinstance(event, StepResolved):
        by = event.actor or ("a handler" if event.handler >= 0 else "a person")
        before = found.get(event.step, Times(now_ms, 0))
        reason = f"{event.resolution}, said {by}"
        found[event.step] = before._replace(ended_ms=now_ms, reason=reason)
    elif isinstance(event, StepCarried):
        found[event.step] = Times(now_ms, now_ms, "", "carried over")
    elif isinstance(event, StepCached):
        reason = f"cached: the result of {event.path} in run {event.run}"
        found[event.step] = Times(now_ms, now_ms, "", reason, event.extra)
    elif isinstance(event, StepCancelled | StepUnknown | StepLost):
        started = found.get(event.step, Times(now_ms, 0)).started_ms
        reason = "" if isinstance(event, StepUnknown) else event.reason
        found[event.step] = Times(started, now_ms, event.worker, reason)


def _renumbered(run: Run, event: int, found: dict[int, Times]) -> dict[int, Times]:
    moves = run.patches.moves if run.patches is not None else ()
    move = next((move for move in moves if move.event == event), None)
    if move is None:
        # Told of a moment before it: there is nothing to renumber for.
        return found
    return {at: times for old, times in found.items() if (at := move.of(old)) >= 0}


def step_times(run: Run) -> Mapping[int, Times]:
    """Return what `waits_since` needs; it reads all of the history that the state holds."""
    return {} if run.quarantined else finished(timing(run, ()))


def waits_since(run: Run, instance: int, times: Mapping[int, Times]) -> int:
    """Return since when *instance* is as it is, in ms; 0 when the state does not tell.

    A step that has not begun waits since the last thing that it needed: a step, or its container.
    """
    if run.quarantined:
        return 0
    own = times.get(instance)
    if own is not None:
        return own.ended_ms or own.started_ms
    node, shift, scope = run.locate(instance)
    latest_ms = run.started_ms
    above = run.parent(instance)
    if above > 0:
        found = times.get(above)
        if found is None:
            return 0
        latest_ms = found.started_ms
    if scope is not None and node == scope.body:
        counts = run.counts.get(scope.loop)
        if counts is not None and counts.window and scope.index >= counts.window:
            # It waited for room in the loop, which no event tells.
            return 0
    for need in run.program.nodes[node].needs:
        found = times.get(need + shift)
        if found is None:
            return 0
        latest_ms = max(latest_ms, found.ended_ms)
    return latest_ms


def told_ms(
    run: Run, kind: type[RunPaused | CancelRequested | CompensationStarted], node: int = -1
) -> int:
    """Return when the last event of *kind* (about *node*) was logged; 0: nothing tells it."""
    # The newest first: what was told last is near the end of a history that may be long.
    for data in reversed(run.history) if not run.quarantined else ():
        chunk = decode_chunk(data)
        if any(
            isinstance(event, kind) and (node < 0 or getattr(event, "node", -1) == node)
            for event in chunk.events
        ):
            return chunk.time_ms
    return 0
