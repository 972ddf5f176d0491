"""Hard limits that the core itself enforces."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Hard limits that the core itself enforces."""

    runs: int = 5_000_000
    plan_bytes: int = 4 * 1024 * 1024
    input_bytes: int = 512 * 1024
    request_bytes: int = 768 * 1024
    """Of a submit's input and carried results together: they are one event."""
    append_bytes: int = 0
    """Of one log entry, but for a single event that is larger; 0: `entries.PART_BYTES_MAX`."""
    labels: int = 64
    label_bytes: int = 256
    """Of a label's name, and of its value."""
    events: int = 10_000_000
    """Of one run, about: one that has more fails."""
    losses: int = 20
    """Times that one step may lose its worker before it fails (a poison step)."""
    restarts: int = 10
    """Times that one job may begin anew."""
    signals: int = 10_000
    """Kept signals a run."""
    attempts: int = 60_000
    nodes: int = 1_000_000
    """Instances of one run."""
    output_bytes: int = 512 * 1024
    """Of one container, and of a run."""
    journal_entries: int = 50_000
    """Of a code-first run, until it continues as new."""
    journal_bytes: int = 16 * 1024 * 1024
    timers: int = 10_000
    """Timers that fire in one tick; the rest do in the next."""
    schedules: int = 100_000
    """Of one shard."""
    held: int = 100_000
    """Runs that begin when it has been quiet for a while (`debounce`)."""
    definitions: int = 100_000
    """Registered versions of all names."""
