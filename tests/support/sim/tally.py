"""What can befall a world: each kind is counted where it really happens, not where it is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

HAPPENINGS = {
    "message-lost": "a message never arrives",
    "message-delayed": "a message takes up to 1.5 s",
    "message-doubled": "a message arrives twice",
    "message-overtaken": "a message arrives before one sent earlier",
    "message-parted": "a message meets a partition; no connection breaks",
    "task-doubled": "a task message is delivered twice",
    "request-lost": "a request to the broker never arrives",
    "answer-lost": "a request is served, and its answer lost: the outcome is unknown",
    "request-late": "a request is served after its asker gave up",
    "request-doubled": "a request is served twice",
    "replica-behind": "a read is answered by a replica that lags",
    "leaderless": "a request meets a stream without a leader",
    "killed": "a process dies between two steps",
    "killed-at-step": "a process dies at a step that was chosen by its number",
    "stopped": "a process is asked to end, and ends in order",
    "restarted": "a process begins a new life",
    "frozen": "a process stands still",
    "thawed": "a frozen process goes on, with what became due meanwhile",
    "cut": "a connection breaks",
    "partition": "two parts, or two halves, do not reach each other",
    "control-parted": "a message of the control plane meets a partition of that alone",
    "clock-skewed": "a process begins with a wrong clock",
    "clock-forward": "a clock is set forwards",
    "clock-back": "a clock is set back",
    "broker-restart": "all connections break",
    "memory-lost": "a stream in the broker's memory is gone, with messages in it",
    "disk-slow": "a write waits for a slow disk",
    "disk-full": "a write is refused: no room",
    "disk-freed": "there is room again",
    "store-failed": "archive or snapshot store fail, before or after they did it",
    "snapshot-torn": "a snapshot is stored in part",
    "snapshot-rotten": "a stored snapshot is cut, changed or lost",
    "snapshot-corrupt": "a damaged snapshot is read",
    "release-forgotten": "another shard confirms a release, and forgets it",
    "controller-changed": "another coordinator is elected",
    "shard-moved": "another life of a coordinator leads a shard",
    "old-view": "a coordinator acts on an old view",
    "two-owners": "all coordinators take themselves for a shard's owner",
    "hash-compared": "a state is compared with a fresh fold of the log (no fault)",
}
"""Name -> what it means."""


class Tally:
    """Sums of many worlds."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self.worlds: Counter[str] = Counter()
        """In how many worlds it happened at all."""

    def add(self, world: Counter[str]) -> None:
        """Count one world."""
        self.times.update(world)
        self.worlds.update(name for name, count in world.items() if count)

    def merge(self, times: Counter[str], worlds: Counter[str]) -> None:
        """Count what others have counted."""
        self.times.update(times)
        self.worlds.update(worlds)

    def missing(self) -> list[str]:
        """Return what has never happened."""
        return [name for name in HAPPENINGS if not self.times[name]]

    def table(self) -> list[str]:
        """Return lines for people."""
        return [
            f"  {name:18} {self.times[name]:>10,} times in {self.worlds[name]:>7,} worlds"
            for name in _ordered(self.times)
        ]


def _ordered(names: Iterable[str]) -> list[str]:
    known = list(HAPPENINGS)
    return sorted({*known, *names}, key=lambda n: known.index(n) if n in HAPPENINGS else len(known))
