"""What happens when a time comes. Timers are hints: each is checked against the state."""

from __future__ import annotations

from headrace.coordinator.core import arrivals, keys, schedules, status, turns
from headrace.coordinator.core.advance import advance
from headrace.coordinator.core.cancellation import abandon, stop_job, time_out
from headrace.coordinator.core.evolve_code import JOURNAL_TIMER, LET_GO_TIMER
from headrace.coordinator.core.nodes import KINDS, fail_node, release
from headrace.coordinator.core.ready import EVENTS_TIMER, KEY_TIMER, SCHEDULE_TIMER, Audits
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick


def fire_due(tick: Tick) -> int:
    """Fire what is due at the tick's time; return how many fired."""
    fired = 0
    for _ in range(tick.limits.timers):
        due = tick.timers.pop_due(tick.state.now_ms)
        if due is None:
            break
        fired += _fire(tick, *due)
        advance(tick)
    return fired


def _fire(tick: Tick, when_ms: int, key: str, instance: int) -> int:
    """Fire one timer if it still applies; return 1 if it did, else 0."""
    if instance == SCHEDULE_TIMER:
        return schedules.fire_due(tick, key, when_ms)
    if instance == EVENTS_TIMER:
        return arrivals.fire_due(tick, key)
    if key == Audits.TIMER:
        return keys.audit(tick)
    if instance == KEY_TIMER:
        return keys.fire_due(tick, key, when_ms)
    run = tick.state.runs.get(key)
    if run is None or run.state != status.RUNNING or run.quarantined:
        return 0
    if tick.preferring and tick.preferring.get((key, instance)) == when_ms:
        release(tick, run, instance)
        return 1
    if run.due.get(instance) != when_ms:
        return 0
    try:
        return _apply(tick, run, instance)
    except Exception as error:
        tick.quarantine(run, error)
        return 1


def _apply(tick: Tick, run: Run, instance: int) -> int:
    if instance == JOURNAL_TIMER:
        turns.fire_due(tick, run)
        return 1
    if instance == LET_GO_TIMER:
        abandon(tick, run)
        return 1
    value = run.status[instance]
    if value == status.RUNNING:
        if instance == 0:
            time_out(tick, run)
            return 1
        if run.cancelling and instance in run.jobs:
            stop_job(tick, run, instance)
        else:
            fail_node(tick, run, instance, "timeout", "its timeout passed")
        return 1
    if value == status.PENDING and not run.paused:
        fail_node(tick, run, instance, "schedule-timeout", "no worker took it in time")
        return 1
    if value != status.WAITING:
        return 0
    KINDS[run.program.kind[run.locate(instance)[0]]].due(tick, run, instance)
    return 1
