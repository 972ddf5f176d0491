"""What a leader derives from the state alone: agenda, ready queue, timers, orders, outbox."""

from __future__ import annotations

from collections.abc import Generator

from headrace.coordinator.core import arrivals, schedules, status
from headrace.coordinator.core.listing import Place
from headrace.coordinator.core.outline import outline
from headrace.coordinator.core.program import TASK
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick

PIECE_RUNS = 1_000
"""Runs of one piece of `resuming`: some 5 ms."""


def resume(tick: Tick) -> None:
    """Derive all that a new owner needs. Dispatched steps are left alone: their leases decide."""
    for _ in resuming(tick):
        pass


def resuming(tick: Tick) -> Generator[None, None, None]:
    """`resume`, piece by piece; nothing else may be done with *tick* before the last one."""
    tick.ready.clear()
    tick.timers.clear()
    tick.audits.clear()
    tick.listing.rebuild()
    tick.gatherings.clear()
    tick.preferring.clear()
    tick.posted.clear()
    tick.archived.clear()
    tick.state.agenda.clear()
    tick.state.outbox_news = True
    for number, run in enumerate(tick.state.runs.records(), 1):
        rebuild(tick, run)
        if number % PIECE_RUNS == 0:
            yield
    yield from _parked(tick)
    for key, schedule in tick.state.schedules.items():
        schedules.arm(tick, key, schedule)
    arrivals.arm(tick)
    if tick.state.keys:
        tick.audits.arm(tick.timers, tick.state.now_ms)
    tick.key_timers.clear()
    for key, record in tick.state.keys.items():
        if record.terms or record.cooling:
            # A moment that has passed already is as good.
            tick.arm_key(key, record.next_ms(0) or tick.state.now_ms)


def _parked(tick: Tick) -> Generator[None, None, None]:
    """Parked runs have nothing to do but to wait: their timers, and their places in lists."""
    parked = tick.state.runs.parked
    if not parked:
        return
    places: list[Place] = []
    for key, data in parked.items():
        found = outline(data)
        places.append((found.created_ms, key))
        for instance, when_ms in found.due:
            tick.timers.push(when_ms, key, instance)
        if len(places) % PIECE_RUNS == 0:
            yield
    yield from tick.listing.add_parked(places)


def rebuild(tick: Tick, run: Run) -> None:
    """Put everything about one run on the agenda, the timers and the ready queue."""
    agenda = tick.state.agenda
    for place in [place for place in tick.gatherings if place[0] == run.key]:
        # A patch may have given it another number.
        del tick.gatherings[place]
    if status.is_final(run.state):
        tick.ended.append(run)
        return
    for instance, when_ms in run.due.items():
        tick.timers.push(when_ms, run.key, instance)
    if run.state != status.RUNNING or run.quarantined:
        return
    for instance, value in enumerate(run.status):
        if value == status.PENDING:
            if not run.waiting[instance] and run.may_begin(instance):
                agenda.append((run, instance))
        elif value == status.RUNNING:
            agenda.append((run, ~instance))
    agenda.extend((run, ~step) for step in run.held)
    agenda.append((run, ~0))
    if run.doomed:
        tick.stop_doomed(run)


def ready_tasks(tick: Tick, run: Run) -> list[int]:
    """Return the run's tasks that are ready now (O(instances))."""
    now_ms = tick.state.now_ms
    kind = run.program.kind
    return [
        instance
        for instance in range(len(run.status))
        if kind[run.locate(instance)[0]] == TASK and run.is_ready(instance, now_ms)
    ]
