"""Schedules: created, paused, deleted and looked at in their home shard."""

from __future__ import annotations

import difflib
from typing import Final

from headrace.coordinator.core import calendar, schedules
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.creation import keep_plan
from headrace.coordinator.core.requests.mutation import PERIOD_MS_MAX, Handler, over, seen, too_late
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.triggers import Schedule
from headrace.errors import InvalidDefinition
from headrace.events import ScheduleDeleted, SchedulePaused
from headrace.messages import (
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    ScheduleSpec,
    ScheduleView,
    encode,
    subjects,
)
from headrace.plan import check_inputs

NAME_MAX: Final = 100
TIMES_MAX: Final = 1_000


def _create(tick: Tick, namespace: str, request: CreateSchedule) -> Reply:
    state, spec = tick.state, request.spec
    if not subjects.valid_name(request.name) or len(request.name) > NAME_MAX:
        rule = f"letters, digits, - and _, at most {NAME_MAX}"
        return Refusal("invalid-request", f"not a name: {request.name!r:.200} ({rule})")
    key = subjects.run_key(namespace, request.name)
    found = state.schedules.get(key)
    if found is not None and request.request_id in state.requests:
        return _view(tick, key, found)
    digest = keep_plan(tick, namespace, request.plan)
    if isinstance(digest, Refusal):
        return digest
    refused = _unfit(tick, namespace, spec, digest) or too_late(tick, request)
    if refused is not None:
        return refused
    if found is not None:
        if found.plan == digest and found.spec == spec:
            seen(tick, request)
            return _view(tick, key, found)
        if not request.replace:
            return Refusal(
                "conflict", f"schedule {request.name} exists with another content; replace it"
            )
    elif len(state.schedules) >= tick.limits.schedules:
        return over("shard", len(state.schedules), tick.limits.schedules, "schedules")
    stamp = (request.request_id, request.not_after_ms, request.actor)
    schedules.put(tick, key, spec, digest, *stamp)
    return _view(tick, key, state.schedules[key])


def _unfit(tick: Tick, namespace: str, spec: ScheduleSpec, digest: str) -> Refusal | None:
    problem = calendar.problem(spec.cron, spec.timezone)
    if problem:
        return Refusal("invalid-request", problem)
    for what, value in (("jitter", spec.jitter_ms), ("window", spec.window_ms)):
        if not 0 <= value <= PERIOD_MS_MAX:
            return Refusal("invalid-request", f"{what}: from 0 to 366 days")
    size = len(encode(spec.input))
    if size > tick.limits.input_bytes:
        return over("input", size, tick.limits.input_bytes)
    try:
        check_inputs(tick.state.program(digest, namespace).plan, spec.input)
    except InvalidDefinition as error:
        return Refusal.of(error)
    return None


def _pause(tick: Tick, namespace: str, request: PauseSchedule) -> Reply:
    found = _find(tick.state, namespace, request.name)
    if isinstance(found, Refusal):
        return found
    key, schedule = found
    if request.request_id in tick.state.requests:
        return _view(tick, key, schedule)
    late = too_late(tick, request)
    if late is not None:
        return late
    if schedule.paused == request.paused:
        seen(tick, request)
        return _view(tick, key, schedule)
    next_ms, due_ms = schedule.next_ms, schedule.due_ms
    if not request.paused:
        # What passed meanwhile was meant to.
        next_ms, due_ms = schedules.next_times(tick, schedule.spec, tick.state.now_ms)
    tick.emit_shard(
        SchedulePaused(
            key,
            request.paused,
            next_ms,
            due_ms,
            request.request_id,
            request.not_after_ms,
            request.reason,
            request.actor,
        )
    )
    schedules.arm(tick, key, schedule)
    schedules.go_on(tick, key, schedule)
    return _view(tick, key, schedule)


def _delete(tick: Tick, namespace: str, request: DeleteSchedule) -> Reply:
    if request.request_id in tick.state.requests:
        return None
    found = _find(tick.state, namespace, request.name)
    if isinstance(found, Refusal):
        return found
    late = too_late(tick, request)
    if late is not None:
        return late
    definition = _definition(request.name)
    if definition:
        return Refusal(
            "conflict",
            f"schedule {request.name} belongs to definition {definition}: pause it, or register "
            "a version without it",
        )
    tick.emit_shard(
        ScheduleDeleted(found[0], request.request_id, request.not_after_ms, request.actor)
    )
    return None


def _get(tick: Tick, namespace: str, request: GetSchedule) -> Reply:
    found = _find(tick.state, namespace, request.name)
    if isinstance(found, Refusal):
        return found
    key, schedule = found
    view = _view(tick, key, schedule)
    after_ms = request.after_ms
    if not after_ms:
        # A time that has come and waits for its jitter is still to be seen.
        now_ms = tick.state.now_ms
        after_ms = min(now_ms, schedule.next_ms - 1) if schedule.next_ms else now_ms
        after_ms = now_ms if schedule.paused else after_ms
    spec = schedule.spec
    limit = max(0, min(request.times, TIMES_MAX))
    view.next_ms = calendar.times_after(
        spec.cron, spec.timezone, after_ms, until_ms=request.until_ms, limit=limit
    )
    view.plan = tick.state.plans[schedule.plan]
    return view


def _list(tick: Tick, namespace: str, request: ListSchedules) -> Reply:
    prefix = f"{namespace}/"
    found = sorted(item for item in tick.state.schedules.items() if item[0].startswith(prefix))
    return [_view(tick, key, schedule) for key, schedule in found]


def _find(state: ShardState, namespace: str, name: str) -> tuple[str, Schedule] | Refusal:
    key = subjects.run_key(namespace, name)
    found = state.schedules.get(key)
    if found is not None:
        return key, found
    prefix = f"{namespace}/"
    names = [known.removeprefix(prefix) for known in state.schedules if known.startswith(prefix)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Refusal("not-found", f"no schedule {name} in namespace {namespace}{hint}")


def _definition(name: str) -> str:
    stem, dot, _ = name.partition(".")
    return stem if dot else ""


def _view(tick: Tick, key: str, schedule: Schedule) -> ScheduleView:
    namespace, name = subjects.split_key(key)
    return ScheduleView(
        name=name,
        namespace=namespace,
        spec=schedule.spec,
        paused=schedule.paused,
        reason=schedule.reason,
        next_ms=[schedule.next_ms] if schedule.next_ms and not schedule.paused else [],
        last_ms=schedule.last_ms,
        started=schedule.started,
        missed=schedule.missed,
        running=[subjects.split_key(run)[1] for run in schedule.open],
        queued_ms=list(schedule.queue),
        problem=schedule.problem,
        created_ms=schedule.created_ms,
        definition=_definition(name),
    )


HANDLERS: Final[dict[type, Handler]] = {
    CreateSchedule: _create,
    PauseSchedule: _pause,
    DeleteSchedule: _delete,
    GetSchedule: _get,
    ListSchedules: _list,
}
