"""Schedules of a world: times that come every second or two, and what must become of them.

The calendar is the world's own, so that times come often; that of the core has tests of its own.
The rules: a time has at most one run, which does not begin before it; no time passes by itself when
all are to be caught up; runs that must not overlap do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.messages import subjects

if TYPE_CHECKING:
    from support.sim.oracle import ShardOracle
    from support.sim.runs import RunModel

PERIODS_MS = {"* * * * *": 1_000, "*/2 * * * *": 2_000, "*/3 * * * *": 3_000}
ON_TIME_MS, PAUSE_MS = 500, 100
"""In the place of a minute, and of half a second."""


def problem(cron: str, timezone: str) -> str:
    """See `core.calendar`, here and below."""
    return "" if cron in PERIODS_MS and timezone else "no such period"


def next_after(cron: str, timezone: str, after_ms: int) -> int:
    """Return the first time after *after_ms*."""
    period_ms = PERIODS_MS[cron]
    return (after_ms // period_ms + 1) * period_ms


def times_after(
    cron: str, timezone: str, after_ms: int, *, until_ms: int = 0, limit: int
) -> list[int]:
    """Return at most *limit* times after *after_ms*, up to *until_ms*."""
    found = [next_after(cron, timezone, after_ms)]
    while len(found) < limit and (not until_ms or found[-1] <= until_ms):
        found.append(next_after(cron, timezone, found[-1]))
    return [when_ms for when_ms in found if not until_ms or when_ms <= until_ms]


def newest_until(cron: str, timezone: str, until_ms: int, *, since_ms: int) -> int:
    """Return the last time up to *until_ms*, and not before *since_ms*."""
    return max(since_ms, until_ms // PERIODS_MS[cron] * PERIODS_MS[cron])


class Schedule:
    """What the log says of one."""

    def __init__(self, spec: list[Any] | dict[str, Any]) -> None:
        assert isinstance(spec, dict)
        self.period_ms = PERIODS_MS[spec["cron"]]
        self.overlap: str = spec.get("overlap", "allow")
        self.catch_up: str = spec.get("catch_up", "one")
        self.begun: set[int] = set()
        """Nominal times of its runs."""
        self.free: set[int] = set()
        """Of these, those that were begun when runs might overlap, or before the schedule was
        deleted: nobody calls them back, they may come to their shard much later, and a later
        content does not count them."""
        self.queue: list[int] = []
        self.next_ms = 0
        self.paused = False


class Schedules:
    """All schedules of one shard, as its log has them."""

    def __init__(self, shard: ShardOracle) -> None:
        self._shard = shard
        self.known: dict[str, Schedule] = {}

    def apply(self, event: list[Any], time_ms: int) -> None:
        """Apply one of the events 132 to 136."""
        kind, key = event[0], event[1]
        if kind == 132:
            before = self.known.get(key)
            self.known[key] = Schedule(event[2])
            self.known[key].next_ms = event[4]
            if before is not None:
                # Another content: times that had runs have them still.
                self.known[key].begun, self.known[key].queue = before.begun, before.queue
                self.known[key].free = before.free
        elif kind == 133:
            self.known[key].paused, self.known[key].next_ms = event[2], event[3]
        elif kind == 136:
            # What it has begun comes all the same; one that is made anew does not know of it.
            self.known[key].free |= self.known[key].begun
        elif kind == 134:
            self._fired(key, self.known[key], event, time_ms)

    def _fired(self, key: str, schedule: Schedule, event: list[Any], time_ms: int) -> None:
        started, queue, next_ms = event[2], event[3], event[4]
        fault = self._shard.fault
        for when_ms in started:
            # What waits in the queue may be a time of a content before.
            its_own = when_ms in schedule.queue or not when_ms % schedule.period_ms
            if not its_own or when_ms > time_ms:
                fault(f"schedule {key} begins {when_ms} at {time_ms}: it is no time of its own")
            if when_ms in schedule.begun:
                fault(f"schedule {key} begins {when_ms} twice")
            schedule.begun.add(when_ms)
            if schedule.overlap == "allow":
                schedule.free.add(when_ms)
        if schedule.paused:
            fault(f"schedule {key} fires while it is paused")
        if schedule.catch_up == "all" and schedule.overlap in ("allow", "queue"):
            came = range(schedule.next_ms, next_ms, schedule.period_ms)
            wanted = sorted({*schedule.queue, *came})
            if sorted([*started, *queue]) != wanted:
                fault(f"schedule {key}: of {wanted} {started} begin and {queue} wait")
        schedule.queue, schedule.next_ms = queue, next_ms

    def begins(self, key: str, run: RunModel, others: list[RunModel]) -> None:
        """A run of a schedule is created; *others*: all that there are of the same one."""
        schedule = self.known.get(key)
        if schedule is None:
            self._shard.fault(f"{run.key} begins, of a schedule {key} that never was")
            return
        if run.key not in {subjects.scheduled_run(key, when_ms) for when_ms in schedule.begun}:
            self._shard.fault(f"{run.key} begins, and {key} has not said so")
        free = {subjects.scheduled_run(key, when_ms) for when_ms in schedule.free}
        live = [one.key for one in others if one.state in ("PENDING", "RUNNING")]
        if run.key not in free and not free.issuperset(live):
            self._shard.fault(f"{run.key} begins while {live} of the same schedule run")

    def check(self, runs: set[str]) -> None:
        """The world is over: each time that was to have a run has one."""
        for key, schedule in self.known.items():
            for when_ms in schedule.begun:
                name = subjects.scheduled_run(key, when_ms)
                if name not in runs:
                    self._shard.fault(f"{name} of schedule {key} never began")
