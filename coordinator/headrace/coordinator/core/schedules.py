"""Schedules: what becomes of times that have come, and of runs that have ended.

Next times and jitter are found here and logged; a run's id is made of the schedule and the nominal
time, so that the same time is the same run however often it is asked for.
"""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core import calendar, status
from headrace.coordinator.core.cancellation import cancel_run
from headrace.coordinator.core.creation import keep_plan
from headrace.coordinator.core.intents import clear
from headrace.coordinator.core.ready import SCHEDULE_TIMER
from headrace.coordinator.core.starting import begin
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.triggers import Schedule
from headrace.events import (
    ScheduleCreated,
    ScheduleDeleted,
    ScheduleFired,
    ScheduleRunEnded,
    SchedulesApplied,
    StartDeclined,
)
from headrace.messages import ScheduleSpec, subjects
from headrace.plan import decode_plan

ON_TIME_MS: Final = 60_000
"""A run that begins so long after its time is not late."""
STARTS_MAX: Final = 100
"""Runs that one event begins; what is left to be caught up follows after a pause."""
PAUSE_MS: Final = 500
QUEUE_MAX: Final = 1_000
"""Times of a schedule that wait for a run to end; further ones pass."""


def arm(tick: Tick, key: str, schedule: Schedule) -> None:
    """Have the timers know of the schedule's next time."""
    if schedule.due_ms and not schedule.paused:
        tick.timers.push(schedule.due_ms, key, SCHEDULE_TIMER)


def next_times(tick: Tick, spec: ScheduleSpec, after_ms: int) -> tuple[int, int]:
    """Return (nominal, due) of the first time after *after_ms*; zeros: there is none."""
    next_ms = calendar.next_after(spec.cron, spec.timezone, after_ms)
    return next_ms, next_ms + int(tick.chance() * spec.jitter_ms) if next_ms else 0


def fire_due(tick: Tick, key: str, when_ms: int) -> int:
    """A schedule's time has come, if it still is its time; return 1 if so, else 0."""
    schedule = tick.state.schedules.get(key)
    if schedule is None or schedule.paused or schedule.due_ms != when_ms:
        return 0
    times, missed = _due(schedule, tick.state.now_ms)
    last_ms = times[-1] if times else tick.state.now_ms
    next_ms, due_ms = next_times(tick, schedule.spec, last_ms)
    if 0 < due_ms <= tick.state.now_ms:
        due_ms = tick.state.now_ms + PAUSE_MS
    _fire(tick, key, schedule, times, missed=missed, next_ms=next_ms, due_ms=due_ms)
    arm(tick, key, schedule)
    return 1


def _due(schedule: Schedule, now_ms: int) -> tuple[list[int], bool]:
    """Return the times that are to have runs now, by the policy, and whether others pass."""
    spec, first_ms = schedule.spec, schedule.next_ms
    in_time_ms = now_ms - spec.jitter_ms - ON_TIME_MS
    if first_ms >= in_time_ms:
        return [first_ms], False
    cron, zone = spec.cron, spec.timezone
    if spec.catch_up == "all":
        # The first that is not too old, itself included.
        since_ms = max(first_ms, now_ms - spec.window_ms) - 1
        times = calendar.times_after(cron, zone, since_ms, until_ms=now_ms, limit=STARTS_MAX)
        return times, not times or times[0] != first_ms
    newest_ms = calendar.newest_until(cron, zone, now_ms, since_ms=first_ms)
    late = newest_ms < in_time_ms
    if late and (spec.catch_up == "none" or newest_ms < now_ms - spec.window_ms):
        return [], True
    return [newest_ms], newest_ms != first_ms


def _fire(
    tick: Tick,
    key: str,
    schedule: Schedule,
    times: list[int],
    *,
    missed: bool,
    next_ms: int,
    due_ms: int,
) -> None:
    """State which of *times* begin, wait or pass, by the overlap policy."""
    overlap, queue = schedule.spec.overlap, list(schedule.queue)
    started, cancelled = times, []
    if overlap == "skip":
        started = [] if schedule.open else times[-1:]
        missed = missed or len(started) < len(times)
    elif overlap == "queue":
        queue += times
        started = [] if schedule.open else queue[:1]
        queue = queue[len(started) :]
        missed = missed or len(queue) > QUEUE_MAX
        queue = queue[:QUEUE_MAX]
    elif overlap == "cancel-previous":
        waiting = (queue + times)[-1:]
        missed = missed or len(queue) + len(times) > 1
        started = [] if schedule.open else waiting
        queue = waiting if schedule.open else []
        cancelled = list(schedule.open) if times else []
    tick.emit_shard(ScheduleFired(key, started, queue, next_ms, due_ms, missed, cancelled))


def run_ended(tick: Tick, key: str, run: str, problem: str = "") -> None:
    """A run of a schedule has ended or could not begin: the next one in the queue may."""
    clear(tick, [f"start:{key}:{run}"])
    schedule = tick.state.schedules.get(key)
    if schedule is None or (run not in schedule.open and not problem):
        return
    tick.emit_shard(ScheduleRunEnded(key, run, problem))
    go_on(tick, key, schedule)


def go_on(tick: Tick, key: str, schedule: Schedule) -> None:
    """Begin what waits in the queue, if nothing of the schedule runs."""
    if schedule.queue and not schedule.open and not schedule.paused:
        times = (schedule.next_ms, schedule.due_ms)
        tick.emit_shard(ScheduleFired(key, schedule.queue[:1], schedule.queue[1:], *times))


# -- runs, in their own shard ---------------------------------------------------------------------


def start(
    tick: Tick, key: str, run: str, plan: bytes, given: bytes, labels: dict[str, str]
) -> None:
    """Begin a run that schedule *key* wants; a second time nothing happens."""
    problem = begin(
        tick,
        run,
        plan,
        given,
        labels,
        cause=key,
        actor=f"schedule {subjects.split_key(key)[1]}",
        mark=subjects.SCHEDULE_LABEL,
    )
    if problem:
        tick.emit_shard(StartDeclined(run, key, problem))


def stop(tick: Tick, key: str, run: str) -> None:
    """Cancel a run for the one that schedule *key* wants next."""
    found = tick.state.runs.get(run)
    if found is not None and not status.is_final(found.state) and not found.cancelling:
        cancel_run(tick, found, f"the next run of schedule {subjects.split_key(key)[1]} is due")


# -- schedules of a definition --------------------------------------------------------------------


def apply_definition(tick: Tick, key: str, number: str, version: str, plan: bytes) -> None:
    """Make the schedules of definition *key* those of *plan* (empty: none)."""
    state = tick.state
    if int(number) <= state.schedule_marks.get(key, 0):
        return
    namespace, name = subjects.split_key(key)
    wanted: dict[str, ScheduleSpec] = {}
    digest = ""
    if plan:
        kept = keep_plan(tick, namespace, plan)
        assert isinstance(kept, str), kept
        digest = kept
        for index, found in enumerate(decode_plan(plan).schedules, 1):
            wanted[f"{key}.{index}"] = ScheduleSpec(
                cron=found.cron,
                timezone=found.timezone,
                catch_up=found.catch_up,
                window_ms=found.window_ms,
                overlap=found.overlap,
                jitter_ms=found.jitter_ms,
                input=found.inputs,
                workflow=f"{name}@{version}",
            )
    for old in [old for old in state.schedules if old.startswith(f"{key}.")]:
        if old not in wanted:
            tick.emit_shard(ScheduleDeleted(old))
    for schedule, spec in wanted.items():
        put(tick, schedule, spec, digest)
    tick.emit_shard(SchedulesApplied(key, int(number)))


def put(
    tick: Tick,
    key: str,
    spec: ScheduleSpec,
    digest: str,
    request_id: str = "",
    not_after_ms: int = 0,
    actor: str = "",
) -> None:
    """Create a schedule, or give it another content; a time that has come is not lost by that."""
    old = tick.state.schedules.get(key)
    if old is not None and (old.spec.cron, old.spec.timezone) == (spec.cron, spec.timezone):
        times = (old.next_ms, old.due_ms)
    else:
        times = next_times(tick, spec, tick.state.now_ms)
    tick.emit_shard(ScheduleCreated(key, spec, digest, *times, request_id, not_after_ms, actor))
    arm(tick, key, tick.state.schedules[key])
