"""What begins runs, as plain records: definitions and schedules."""

from __future__ import annotations

from typing import NamedTuple

from headrace.messages import ScheduleSpec


class Definition(NamedTuple):
    """A registered version."""

    digest: str
    number: int
    time_ms: int
    actor: str


class Schedule:
    """Times at which runs begin, in its home shard."""

    __slots__ = (
        "created_ms",
        "due_ms",
        "last_ms",
        "missed",
        "next_ms",
        "open",
        "paused",
        "plan",
        "problem",
        "queue",
        "reason",
        "spec",
        "started",
    )

    def __init__(self, spec: ScheduleSpec, plan: str, created_ms: int) -> None:
        self.spec, self.plan, self.created_ms = spec, plan, created_ms
        self.next_ms = self.due_ms = self.last_ms = self.started = self.missed = 0
        self.paused = False
        self.reason = self.problem = ""
        self.open: list[str] = []
        """Keys of its live runs; not kept if they may overlap."""
        self.queue: list[int] = []
        """Nominal times that wait for a run to end."""
