"""Families of what is kept: the log, snapshots, the archive, the event feed."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.telemetry._family import Counter, Gauge, Histogram, Label
from headrace.telemetry._labels import BYTES, COUNTS, FAST, SHARD, SLOW, WRITE

_UNKNOWN = Label("resolution", ("stored", "absent", "fenced"))


class StorageMetrics:
    """The shards' logs, their snapshots, and the archive."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._appends(registry)
        self._log(registry)
        self._snapshots(registry)
        self._archive(registry)

    def _appends(self, to: CollectorRegistry) -> None:
        self.appends = Counter(to, "log_appends_total", "Batches appended.", SHARD)
        self.appended_bytes = Counter(to, "log_appended_bytes_total", "Their bytes.", SHARD)
        self.append_seconds = Histogram(
            to,
            "log_append_seconds",
            "From the first batch of a tick to the last acknowledgement.",
            buckets=FAST,
        )
        self.append_events = Histogram(
            to, "log_append_events", "Events of a tick, all its batches together.", buckets=COUNTS
        )
        self.append_bytes = Histogram(to, "log_append_bytes", "Size of a batch.", buckets=BYTES)
        self.appends_unknown = Counter(
            to, "log_appends_unknown_total", "Unknown outcomes, by what was found.", _UNKNOWN
        )
        self.appends_fenced = Counter(
            to, "log_appends_fenced_total", "Appends refused: another owner.", SHARD
        )
        self.appends_full = Counter(
            to, "log_appends_full_total", "Appends refused for want of space.", SHARD
        )

    def _log(self, to: CollectorRegistry) -> None:
        self.log_bytes = Gauge(
            to, "log_bytes", "Size of the shard's log; counted on from when it was measured.", SHARD
        )
        self.log_max_bytes = Gauge(to, "log_max_bytes", "Size that it may have; 0: any.", SHARD)
        self.log_full = Gauge(
            to, "log_full", "1: only what makes room is appended; 0.5: submits are refused.", SHARD
        )
        self.log_position = Gauge(to, "log_position", "Position of the newest entry.", SHARD)
        self.log_tail_entries = Gauge(
            to,
            "log_tail_entries",
            "Entries behind the newest registered snapshot, which a cold takeover reads.",
            SHARD,
        )
        self.log_synced = Gauge(
            to, "log_synced", "1: the broker is known to fsync before it acknowledges."
        )
        self.feed_entries = Counter(
            to, "feed_entries_total", "Entries published in the event feed.", SHARD
        )

    def _snapshots(self, to: CollectorRegistry) -> None:
        self.snapshots = Counter(to, "snapshots_total", "Snapshots taken.", WRITE)
        self.snapshot_seconds = Histogram(
            to, "snapshot_seconds", "From beginning a snapshot to its registration.", buckets=SLOW
        )
        self.snapshot_age_seconds = Gauge(
            to,
            "snapshot_age_seconds",
            "Age of the newest registered snapshot, or since the shard was taken.",
            SHARD,
        )
        self.snapshot_bytes = Gauge(
            to, "snapshot_bytes", "Size of the newest registered snapshot.", SHARD
        )

    def _archive(self, to: CollectorRegistry) -> None:
        self.archive_writes = Counter(
            to, "archive_writes_total", "Groups of runs or segments written.", WRITE
        )
        self.archive_write_seconds = Histogram(
            to, "archive_write_seconds", "To write a group of runs.", buckets=FAST
        )
        self.archive_runs = Counter(to, "archive_runs_total", "Closed runs archived.")
        self.archive_expired = Counter(to, "archive_expired_total", "Runs deleted by retention.")
        self.archive_waiting = Gauge(
            to, "archive_waiting_runs", "Closed runs that are not archived yet."
        )
        self.archive_lag_seconds = Gauge(
            to, "archive_lag_seconds", "Age of the oldest closed run that is not archived yet."
        )
        self.blobs_swept = Counter(
            to, "blobs_swept_total", "Large values deleted, of runs that are no more."
        )
        self.blobs_swept_bytes = Counter(to, "blobs_swept_bytes_total", "Bytes of these.")
        self.blob_sweeps = Counter(
            to, "blob_sweeps_total", "Pieces of the bucket of large values looked through.", WRITE
        )
