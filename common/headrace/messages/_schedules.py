"""Clients and the owners of schedules: times at which runs begin by themselves.

A schedule lives in the shard that `subjects.schedule_home` of its name hashes to.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec


class ScheduleSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When runs begin, of what, and what becomes of times that pass unused."""

    cron: str
    """Five fields: minute, hour, day of the month, month, day of the week."""
    timezone: str = "UTC"
    catch_up: Literal["none", "one", "all"] = "one"
    """Times that passed while no coordinator looked: none of them, the newest, or all."""
    window_ms: int = 86_400_000
    """What lies longer back is not caught up."""
    overlap: Literal["allow", "skip", "queue", "cancel-previous"] = "allow"
    """What happens when the run before has not ended."""
    jitter_ms: int = 0
    """A run begins up to this much later, by chance."""
    input: dict[str, Any] = {}
    workflow: str = ""
    """What it runs, for people: a name with its version."""


class _Mutation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    request_id: str
    not_after_ms: int
    actor: str = ""


class CreateSchedule(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="schedule"):
    """Begin to start runs of a plan. Result: `ScheduleView`. The same again changes nothing."""

    spec: ScheduleSpec
    plan: bytes
    replace: bool = False
    """A schedule of this name may exist; runs that it has started go on."""


class PauseSchedule(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="pause-schedule"):
    """Let times pass, or go on with those to come. Result: `ScheduleView`."""

    paused: bool = True
    reason: str = ""


class DeleteSchedule(
    _Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="delete-schedule"
):
    """Start no more runs; those that run go on. Result: nothing."""


class GetSchedule(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="get-schedule"
):
    """Result: `ScheduleView` with its plan and with times after `after_ms` (0: now)."""

    name: str
    times: int = 5
    after_ms: int = 0
    until_ms: int = 0
    """0: without an end."""


class ListSchedules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="schedules"):
    """Result: list of `ScheduleView` of the shard, by name, without plans."""


ScheduleRequest: TypeAlias = (
    CreateSchedule | PauseSchedule | DeleteSchedule | GetSchedule | ListSchedules
)


class ScheduleView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A schedule as people see it; times in ms since the epoch, 0: none."""

    name: str
    namespace: str = "default"
    spec: ScheduleSpec
    paused: bool = False
    reason: str = ""
    """Why it is paused."""
    next_ms: list[int] = []
    """The times asked for; of a paused one those that would be."""
    last_ms: int = 0
    """Nominal time of the newest run."""
    started: int = 0
    missed: int = 0
    """How often times were let pass: none was caught up, or the run before had not ended."""
    running: list[str] = []
    """Runs that have not ended; not known when overlaps are allowed."""
    queued_ms: list[int] = []
    problem: str = ""
    """Why the newest run could not be started."""
    created_ms: int = 0
    definition: str = ""
    """The registered definition that it belongs to."""
    plan: bytes = b""
