"""Steps of traced runs: since when each could begin, and which have their end in a tick.

Nothing of it is state. What an owner has not seen itself it reads from the run's history, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from headrace.coordinator.core import Machine, Run
from headrace.coordinator.core import status as states
from headrace.coordinator.core.pieces import finished
from headrace.coordinator.core.since import Times, note, timing, waits_since
from headrace.coordinator.traces import RESULTS, StepEnd, Traced, submitted_in
from headrace.events import (
    ChildEnded,
    ChildStarted,
    EntryEnded,
    PlanPatched,
    RunEvent,
    SleepStarted,
    StepCached,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepResolved,
    StepScheduled,
    StepSkipped,
    StepUnknown,
    WaitEnded,
    WaitStarted,
)
from headrace.messages import EntryState, entry_span, step_span

RUNS_MAX: Final = 10_000
"""Runs whose times are kept at hand."""
_BEGIN = StepScheduled | ChildStarted | WaitStarted | SleepStarted
_RESOLVED: Final = {
    "completed": "success",
    "failed": "failure",
    "unknown": "failure",
    "skipped": "skip",
}
_ENTRIES: Final = frozenset(("step", "child", "sleep", "signal"))
_ENTRY_RESULTS: Final = {
    EntryState.COMPLETED: "success",
    EntryState.FAILED: "failure",
    EntryState.CANCELLED: "cancellation",
}


class _Known:
    """What is known of one run."""

    __slots__ = ("ready", "times")

    def __init__(self, times: dict[int, Times]) -> None:
        self.times = times
        self.ready: dict[int, int] = {}
        """Instance that has begun and not ended -> since when it could begin."""


class StepTimes:
    """Of one shard's owner."""

    def __init__(self) -> None:
        self._machine: Machine | None = None
        self._known: dict[str, _Known] = {}

    def take(self, machine: Machine) -> list[Traced]:
        """Return the traced runs with events in this tick; call it before it ends."""
        if machine is not self._machine:
            # Built from the log again: what was told of may never have been logged.
            self._machine = machine
            self._known.clear()
        return [
            Traced(run, self._steps(run, machine.told_of(run.key), machine.state.now_ms))
            for run in machine.touched()
            if submitted_in(run.labels)
        ]

    def _steps(self, run: Run, events: Sequence[RunEvent], now_ms: int) -> list[StepEnd]:
        if run.quarantined:
            self._known.pop(run.key, None)
            return []
        known = self._known.get(run.key)
        if known is None:
            # The events of this tick are not in it yet.
            known = self._known[run.key] = _Known(finished(timing(run, ())))
            if len(self._known) > RUNS_MAX:
                del self._known[next(iter(self._known))]
        found: list[StepEnd] = []
        for event in events:
            if isinstance(event, PlanPatched):
                # Steps have other numbers from here on; the history tells them, with this tick.
                self._known.pop(run.key, None)
                return found
            self._take(run, known, event, now_ms, found)
        if states.is_final(run.state):
            self._known.pop(run.key, None)
        return found

    def _take(
        self, run: Run, known: _Known, event: RunEvent, now_ms: int, found: list[StepEnd]
    ) -> None:
        if isinstance(event, EntryEnded):
            if event.kind in _ENTRIES and event.state in _ENTRY_RESULTS:
                found.append(_of_entry(run, event, now_ms))
            return
        if isinstance(event, _BEGIN):
            node = event.step if isinstance(event, StepScheduled) else event.node
            if node not in known.ready:
                known.ready[node] = waits_since(run, node, known.times) or now_ms
        elif (ended := _end_of(event)) is not None:
            node, kind, result, error = ended
            times = known.times.get(node)
            ready_ms = known.ready.pop(node, 0) or (times.started_ms if times else 0) or now_ms
            path = run.path(node)
            found.append(
                StepEnd(
                    step_span(path, run.round(node)),
                    path,
                    kind,
                    ready_ms,
                    now_ms,
                    result,
                    error,
                    getattr(event, "attempt", 0),
                    getattr(event, "worker", ""),
                )
            )
        note(known.times, event, now_ms)


def _end_of(event: Any) -> tuple[int, str, str, str] | None:
    """Return (instance, kind, result, error) of what has ended with *event*; None: nothing has."""
    match event:
        case StepCompleted() | StepCached():
            return event.step, "task", "success", ""
        case StepFailed() if not event.retry_ms and event.handler < 0:
            return event.step, "task", "skip" if event.skipped else "failure", event.error.type
        case StepCancelled():
            return event.step, "task", "cancellation", ""
        case StepSkipped() if event.worker:
            return event.step, "task", "skip", ""
        case StepUnknown() if not event.held and event.handler < 0:
            return event.step, "task", "failure", "worker-lost"
        case StepResolved() if event.resolution in _RESOLVED:
            return event.step, "task", _RESOLVED[event.resolution], event.resolution
        case WaitEnded():
            return event.node, "wait", "success", ""
        case ChildEnded():
            return event.node, "child", RESULTS.get(event.status, "failure"), event.reason[:200]
        case _:
            return None


def _of_entry(run: Run, event: EntryEnded, now_ms: int) -> StepEnd:
    journal = run.journal
    assert journal is not None
    entry = journal.entries.get(event.key)
    started_ms = event.started_ms if entry is None else entry.started_ms
    return StepEnd(
        entry_span(journal.generation, event.key),
        event.name or event.key,
        event.kind,
        started_ms or event.started_ms or now_ms,
        event.ended_ms or now_ms,
        _ENTRY_RESULTS[event.state],
        event.error.type if event.error else "",
    )
