"""Questions about open runs. Answers are rendered once the tick is in the log (see `views`)."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core import views
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.requests.mutation import Handler, live_run
from headrace.coordinator.core.tick import Tick
from headrace.messages import (
    GetEvidence,
    GetExplanation,
    GetHistory,
    GetRun,
    HasRuns,
    ListRuns,
    subjects,
)


def _get(tick: Tick, namespace: str, request: GetRun) -> Reply:
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return views.Later(found, steps=request.steps)


def _history(tick: Tick, namespace: str, request: GetHistory | GetEvidence) -> Reply:
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return views.HistoryParts(found)


def _explain(tick: Tick, namespace: str, request: GetExplanation) -> Reply:
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return views.Waits(found)


def _has(tick: Tick, namespace: str, request: HasRuns) -> Reply:
    runs = tick.state.runs
    return [name for name in request.runs if subjects.run_key(namespace, name) in runs]


def _list(tick: Tick, namespace: str, request: ListRuns) -> Reply:
    return views.list_runs(tick.state, tick.listing, namespace, request)


HANDLERS: Final[dict[type, Handler]] = {
    GetRun: _get,
    GetHistory: _history,
    GetEvidence: _history,
    GetExplanation: _explain,
    ListRuns: _list,
    HasRuns: _has,
}
