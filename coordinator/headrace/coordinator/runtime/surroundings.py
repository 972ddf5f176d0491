"""What the shards of one coordinator share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from headrace.bus import Bus, Message
from headrace.coordinator.archive.store import Archive
from headrace.coordinator.core import Limits
from headrace.coordinator.dispatch import Dispatcher
from headrace.coordinator.runtime.arrivals import Incoming
from headrace.coordinator.runtime.evidence import Notary
from headrace.coordinator.runtime.layout import Layout
from headrace.coordinator.runtime.retreat import Views
from headrace.coordinator.runtime.slices import Slices
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.shardlog.log import SnapshotStore
from headrace.telemetry import Clock


class Surroundings(NamedTuple):
    """What all shards of one process share."""

    bus: Bus
    clock: Clock
    dispatcher: Dispatcher
    archive: Archive
    snapshots: SnapshotStore
    layout: Layout
    builtin: frozenset[str]
    limits: Limits
    coordinator: str
    incarnation: str
    replicas: int
    synced: bool
    log_bytes_max: int
    inbox_bytes_max: int
    backlog_ms: int
    snapshot_touches: int
    snapshot_ms: int
    observe: Callable[[int], Watch | None]
    """Returns who counts what the owners of a shard do."""
    views: Views
    broken: Callable[[BaseException], None]
    """Told of an error that nobody expected: the process must end, loudly."""
    traced: float = 0.0
    """See `Tick`."""
    refused: Callable[[str], None] = lambda _reason: None
    """Told why a worker's message was not even looked at."""
    page_runs_max: int = 1_000
    respond: Callable[[Message, bytes], object] | None = None
    """Answers a message (see `Replies`); None: as the bus does."""
    skewed: Callable[[int], None] = lambda _ms: None
    """Told at each takeover how far our clock is from the broker's."""
    feature_level: Callable[[], int] = lambda: 0
    """What every coordinator of the cluster can read: successors must be able to, too."""
    release: str = ""
    notary: Notary | None = None
    slices: Slices | None = None
    """Makes long answers; None: each shard by itself."""
    incoming: Incoming | None = None
    """Events from outside, which the owner of the system shard reads; None: nobody does."""
