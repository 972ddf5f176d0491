"""The log as an outsider reads it: entries decoded by the numbers of the format alone.

Shares no code with the core and imports none of its types: what a batch, a chunk and an event
look like is spelled here a second time. Each effective batch is handed to a `Checker`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

_decode = msgspec.msgpack.Decoder().decode

# A batch's fields, by place.
BATCH_ID, INDEX, PREVIOUS_HASH, TIME_MS, MORE = 1, 2, 4, 6, 7
BEFORE, CHUNKS, AFTER = 8, 9, 10


class Journal:
    """One shard's log."""

    def __init__(
        self,
        shard: int,
        apply: Callable[[int, list[list[Any]]], None],
        fault: Callable[[str], None],
    ) -> None:
        """*apply* gets (position of the last part, the parts of one whole tick)."""
        self.shard = shard
        self._apply, self._fault = apply, fault
        self._parts: list[list[Any]] = []
        self._hashes: list[bytes] = []
        self._ids: set[str] = set()
        self._index, self._hash = 0, b""
        self._time_ms = 0
        self.last = 0
        """Position of the last entry that counts."""

    def entry(self, position: int, data: bytes) -> None:
        """An entry was stored."""
        batch = _decode(data)
        if batch[BATCH_ID] in self._ids:
            self._fault(f"batch {batch[BATCH_ID]} is in the log twice, again at {position}")
        self._ids.add(batch[BATCH_ID])
        if self._parts and batch[INDEX] != self._parts[-1][INDEX] + 1:
            self._parts, self._hashes = [], []
        index = self._parts[-1][INDEX] if self._parts else self._index
        before = self._hashes[-1] if self._hashes else self._hash
        if batch[INDEX] != index + 1 or batch[PREVIOUS_HASH] != before:
            self._fault(
                f"position {position}: batch {batch[INDEX]} does not follow batch {index}: "
                "two owners wrote"
            )
        self._parts.append(batch)
        self._hashes.append(hashlib.blake2b(data, digest_size=8).digest())
        if batch[MORE]:
            return
        parts, self._parts = self._parts, []
        self._index, self._hash = batch[INDEX], self._hashes[-1]
        self._hashes = []
        if batch[TIME_MS] < self._time_ms:
            self._fault(f"position {position}: logged time goes back")
        self._time_ms = batch[TIME_MS]
        self.last = position
        self._apply(position, parts)
