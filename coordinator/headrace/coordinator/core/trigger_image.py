"""What begins runs, as plain data: the end of a state's image."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core.incoming import Incoming
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.triggers import Definition, Schedule
from headrace.messages import ScheduleSpec


class TriggerImage(msgspec.Struct, array_like=True, gc=False):
    """Definitions of a shard. The order of the fields is the format."""

    definitions: list[tuple[str, list[tuple[str, str, int, int, str]]]] = []
    """Name -> (version, digest, number, time, actor), the newest last."""
    definition_last: int = 0
    schedules: list[tuple[str, ScheduleSpec, str, list[Any]]] = []
    """Key, spec, plan; created, next, due, last, started, missed, paused, reason, problem, open,
    queue."""
    schedule_marks: list[tuple[str, int]] = []
    events: list[Any] = []
    """See `Incoming.image`."""


def image_of(state: ShardState) -> TriggerImage:
    """Return a copy, which does not change with the state."""
    return TriggerImage(
        definitions=[
            (
                key,
                [(name, d.digest, d.number, d.time_ms, d.actor) for name, d in versions.items()],
            )
            for key, versions in sorted(state.definitions.items())
        ],
        definition_last=state.definition_last,
        schedules=[
            (key, found.spec, found.plan, _facts(found))
            for key, found in sorted(state.schedules.items())
        ],
        schedule_marks=sorted(state.schedule_marks.items()),
        events=state.incoming.image(),
    )


def restore(state: ShardState, image: TriggerImage) -> None:
    """Put what *image* holds into a new state, whose plans and runs are there."""
    for key, versions in image.definitions:
        state.definitions[key] = {found[0]: Definition(*found[1:]) for found in versions}
        for _, digest, *_ in versions:
            state.plan_uses[digest] = state.plan_uses.get(digest, 0) + 1
    state.definition_last = image.definition_last
    for key, spec, digest, facts in image.schedules:
        found = state.schedules[key] = Schedule(spec, digest, facts[0])
        found.next_ms, found.due_ms, found.last_ms, found.started, found.missed = facts[1:6]
        found.paused, found.reason, found.problem, found.open, found.queue = facts[6:]
        state.plan_uses[digest] = state.plan_uses.get(digest, 0) + 1
    state.schedule_marks = dict(image.schedule_marks)
    state.incoming = Incoming.of(image.events)
    for held in state.incoming.held.values():
        state.plan_uses[held.begun.plan] = state.plan_uses.get(held.begun.plan, 0) + 1


def _facts(found: Schedule) -> list[Any]:
    return [
        found.created_ms,
        found.next_ms,
        found.due_ms,
        found.last_ms,
        found.started,
        found.missed,
        found.paused,
        found.reason,
        found.problem,
        list(found.open),
        list(found.queue),
    ]
