"""The fold of schedules: what they are, which of their runs are live, which are to begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.triggers import Schedule
from headrace.events import (
    ScheduleCreated,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleRunEnded,
    SchedulesApplied,
    StartDeclined,
)
from headrace.messages import subjects

_encode = msgspec.msgpack.Encoder().encode


def _created(state: ShardState, event: ScheduleCreated) -> None:
    state.remember(event.request_id, event.not_after_ms)
    found = state.schedules.get(event.key)
    if found is None:
        found = state.schedules[event.key] = Schedule(event.spec, event.plan, state.now_ms)
    else:
        state.plan_uses[found.plan] -= 1
        found.spec, found.plan = event.spec, event.plan
    state.plan_uses[event.plan] = state.plan_uses.get(event.plan, 0) + 1
    found.next_ms, found.due_ms = event.next_ms, event.due_ms


def _paused(state: ShardState, event: SchedulePaused) -> None:
    state.remember(event.request_id, event.not_after_ms)
    found = state.schedules[event.key]
    found.paused, found.reason = event.paused, event.reason
    found.next_ms, found.due_ms = event.next_ms, event.due_ms


def _fired(state: ShardState, event: ScheduleFired) -> None:
    found = state.schedules[event.key]
    found.next_ms, found.due_ms = event.next_ms, event.due_ms
    found.queue = list(event.queue)
    found.missed += event.missed
    for run in event.cancelled:
        state.post(run, "stop", event.key, run)
    for nominal_ms in event.started:
        run = subjects.scheduled_run(event.key, nominal_ms)
        found.last_ms = max(found.last_ms, nominal_ms)
        found.started += 1
        # Whatever the policy is now: it may be another one when the next time comes.
        found.open.append(run)
        labels = subjects.scheduled_labels(event.key, nominal_ms)
        more = (state.plans[found.plan], _encode(found.spec.input), labels)
        state.post(run, "start", event.key, run, *more)


def _run_ended(state: ShardState, event: ScheduleRunEnded) -> None:
    found = state.schedules[event.key]
    if event.run in found.open:
        found.open.remove(event.run)
    found.problem = event.problem


def _deleted(state: ShardState, event: ScheduleDeleted) -> None:
    state.remember(event.request_id, event.not_after_ms)
    found = state.schedules.pop(event.key)
    state.plan_uses[found.plan] -= 1


def _applied(state: ShardState, event: SchedulesApplied) -> None:
    state.schedule_marks[event.key] = event.number


def _declined(state: ShardState, event: StartDeclined) -> None:
    home = subjects.schedule_home(event.schedule)
    state.post(home, "run-ended", event.schedule, event.run, event.problem)


FOLD: Final[dict[type, Callable[[ShardState, Any], None]]] = {
    ScheduleCreated: _created,
    SchedulePaused: _paused,
    ScheduleFired: _fired,
    ScheduleRunEnded: _run_ended,
    ScheduleDeleted: _deleted,
    SchedulesApplied: _applied,
    StartDeclined: _declined,
}
