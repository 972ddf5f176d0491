"""How full a shard's log is, and what may still go into it. Pure.

A log that is full to the last byte could never be emptied: what frees it (a snapshot, registered)
is an entry, too. So first submits are refused, then everything waits but that entry.
"""

from __future__ import annotations

from headrace.coordinator.shardlog.log import LogStatus

NEARLY_FULL = 0.8
"""Of the log's size; above it submits are refused and everything else goes on."""
FULL = 0.9
"""Above it nothing is appended but what makes room."""
ENTRY_OVERHEAD_BYTES = 300
"""What the broker stores beside a payload, rounded up."""
LOOK_MS = 1_000
LOOK_BYTES = 4 * 1024 * 1024
"""After so much the log is measured again."""
SNAPSHOT_MS = 3_000
"""Between two snapshots that are taken to make room; two are needed to free all that can be."""


class Room:
    """One log's figures, as of the last look and with what was appended since."""

    def __init__(self) -> None:
        self.bytes = self.bytes_max = 0
        self._since = 0
        self._looked_ms = 0
        self._snapshot_ms = 0
        self._refused = False

    @property
    def nearly_full(self) -> bool:
        """Take no new runs."""
        return self._refused or (self.bytes_max > 0 and self.bytes > self.bytes_max * NEARLY_FULL)

    @property
    def full(self) -> bool:
        """Append nothing but what makes room."""
        return self._refused or (self.bytes_max > 0 and self.bytes > self.bytes_max * FULL)

    def appended(self, size: int) -> None:
        """An entry of *size* bytes was stored, whatever had been refused before."""
        self._refused = False
        self.bytes += size + ENTRY_OVERHEAD_BYTES
        self._since += size

    def refused(self) -> None:
        """The store has no room, whatever its figures say."""
        self._refused = True

    def measured(self, status: LogStatus, now_ms: int) -> None:
        """Take the log's own figures."""
        self.bytes, self.bytes_max = status.bytes, status.bytes_max
        self._since, self._looked_ms = 0, now_ms

    def to_measure(self, now_ms: int) -> bool:
        """Tell whether the figures are out of date."""
        if self._since >= LOOK_BYTES or not self._looked_ms:
            return True
        return self.nearly_full and now_ms - self._looked_ms >= LOOK_MS

    def to_snapshot(self, now_ms: int) -> bool:
        """Tell whether to make room now; asked again only after a while."""
        if not self.nearly_full or now_ms - self._snapshot_ms < SNAPSHOT_MS:
            return False
        self._snapshot_ms = now_ms
        return True
