"""Events from outside, which begin runs of registered definitions; and what they have begun.

They are messages of the broker on `headrace.in.<namespace>.<subject>`, published by anybody; the
owner of the system shard reads them.
"""

from __future__ import annotations

import msgspec


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One event from outside, as its stream holds it."""

    sequence: int
    """Its number in the stream."""
    namespace: str
    subject: str
    """Without `headrace.in.<namespace>.`."""
    data: bytes
    """JSON, or empty."""
    time: str = ""
    """When the broker stored it, RFC 3339."""
    headers: dict[str, str] = {}
    """Of the message, without the broker's own."""
    id: str = ""
    """Given by who published it; empty: it has its number only."""


class ListTriggers(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="event-triggers"
):
    """To the system shard. Result: list of `TriggerView` of the namespace, by name."""


class TriggerView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The `on.event` of a definition as people see it; times in ms since the epoch, 0: never."""

    definition: str
    version: str
    namespace: str = "default"
    subjects: list[str] = []
    filters: list[str] = []
    """One for each subject; empty: every event."""
    started: int = 0
    """Runs begun by events, of all versions."""
    failed: int = 0
    """Events that matched, and could not begin a run."""
    last_ms: int = 0
    last_run: str = ""
    """Id of the newest run."""
    problem: str = ""
    """Why an event could not begin a run: the newest one that could not."""
    problem_ms: int = 0
    held: int = 0
    """Runs that begin when no other event like theirs comes for a while (`debounce`)."""
