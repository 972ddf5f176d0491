"""What a shard's owner tells of itself while it works, to whoever counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headrace.coordinator.core import Run
from headrace.coordinator.runtime.room import Room
from headrace.coordinator.traces import Traced
from headrace.events import StepFailed


class Tick(NamedTuple):
    """What one tick did, once it is in the log."""

    counts: Mapping[type, int]
    """Events by type."""
    failed: Sequence[StepFailed]
    ended: Sequence[Run]
    sizes: Sequence[int]
    """Bytes of each entry that was appended."""
    append_s: float
    traced: Sequence[Traced] = ()
    """Runs with events in it that have a trace context, where anybody wants to know."""


class Figures(NamedTuple):
    """What waits at an owner, and how full its log is."""

    inbox_bytes: int
    waiters: int
    """Runs that somebody waits for."""
    archive_runs: int
    """Finished runs that are not in the archive yet."""
    archive_since_ms: int
    """When the one of them ended that has waited longest; 0: none waits."""
    room: Room


class Watch:
    """Told on the owner's loop: must be cheap, and must not fail. This one counts nothing."""

    active = False
    """Whether to tell of each tick, and of what it took in, at all."""
    tracing = False
    """Whether to look for the traced runs of a tick."""

    def ticked(self, tick: Tick) -> None:
        """A tick is in the log."""

    def request(self, kind: type, *, refused: bool = False) -> None:
        """A request, a batch of results, a claim or another shard's message was taken."""

    def result_refused(self, reason: str) -> None:
        """A result changed nothing: `stale_attempt stale_token run_ended not_owner malformed`."""

    def busy(self, count: int = 1) -> None:
        """Something was turned away: the inbox is full, or new runs are more than can be done."""

    def timers(self, fired: int, late_ms: int) -> None:
        """Timers fired; the first of them was so late."""

    def concluded(self, items: int, took_s: float) -> None:
        """A tick that took in so many items has answered."""

    def taken(self, took_s: float, entries: int) -> None:
        """The shard is ours and answers; so many entries of the log were read for it."""

    def rebuilt(self) -> None:
        """The state is thrown away, and read again from the log."""

    def fed(self, entries: int) -> None:
        """So many entries are in the event feed."""

    def fenced(self) -> None:
        """Another owner has taken it."""

    def log_full(self) -> None:
        """An append was refused for want of space."""

    def resolved(self, outcome: str) -> None:
        """What an append of unknown outcome turned out to be: `stored absent fenced`."""

    def events_taken(self, begun: int, held: int, failed: int, unmatched: int) -> None:
        """Events from outside were read: runs begun, held for a quiet time, failed; the rest."""

    def events_lost(self, events: int) -> None:
        """Events left their stream before they were read."""

    def archived(self, runs: int, took_s: float) -> None:
        """The archive has so many runs more (0: a part of a live one's history)."""

    def not_archived(self) -> None:
        """The archive could not be written."""

    def snapshot(self, size: int, took_s: float) -> None:
        """A snapshot of *size* bytes is registered."""

    def no_snapshot(self) -> None:
        """A snapshot could not be taken."""


def refusal_reason(run: Run | None, step: int, attempt: int) -> str:
    """Return why a result was refused."""
    step = -1 if run is None else run.instance(step)
    if run is None or step < 0:
        return "run_ended"
    return "stale_attempt" if run.attempt[step] != attempt else "stale_token"
