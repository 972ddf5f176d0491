"""The log's entry: all events of one tick of a shard's owner.

``Batch.chunks`` keeps each run's events as bytes, encoded once: the same bytes are the run's
history. A batch names the one before it (position and hash), so that a reader can tell a hole
from a legitimate gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from headrace.events._run import RunEvent
from headrace.events._shard import ShardEvent

BATCH_VERSION = 1


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Events of one run (`run`: its key) in one tick."""

    run: str
    first: int
    """Number of the first event within the run, from 1."""
    time_ms: int
    events: list[RunEvent]


class Batch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a shard's log."""

    version: int
    batch_id: str
    """Unique among all batches of all owners."""
    index: int
    """Number of the batch in the shard, from 1."""
    previous_position: int
    previous_hash: bytes
    epoch: int
    time_ms: int
    more: bool
    """A further part of the same tick follows; without it the tick does not count."""
    before: list[ShardEvent]
    """Applied before the runs' chunks: what they refer to (plans)."""
    chunks: list[msgspec.Raw]
    """One `Chunk` for each run that the tick touched."""
    after: list[ShardEvent]
    """Applied after the runs' chunks: keys, outbox, evictions."""


_encoder = msgspec.msgpack.Encoder()
_batches = msgspec.msgpack.Decoder(Batch)
_chunks = msgspec.msgpack.Decoder(Chunk)
_heads = msgspec.msgpack.Decoder(tuple[str, int, int, msgspec.Raw])


def encode_chunk(run: str, first: int, time_ms: int, events: Sequence[object]) -> bytes:
    """Return a chunk's bytes."""
    return encode_fields((run, first, time_ms, events))


encode_fields: Final[Callable[[tuple[str, int, int, Sequence[object]]], bytes]] = _encoder.encode
"""Return the bytes of a chunk with these fields. (An object and a call less on the hot path.)"""


def encode_batch(batch: Batch) -> bytes:
    """Return the log entry."""
    return _encoder.encode(batch)


def decode_batch(data: bytes) -> Batch:
    """Return the batch in *data*; raises `msgspec.MsgspecError`."""
    return _batches.decode(data)


def decode_chunk(data: bytes | msgspec.Raw) -> Chunk:
    """Return a run's chunk; raises `msgspec.MsgspecError`."""
    return _chunks.decode(data)


def chunk_first(data: bytes) -> int:
    """Return the number of a chunk's first event, at a fraction of the cost of `decode_chunk`.

    Raises `msgspec.MsgspecError`.
    """
    return _heads.decode(data)[1]


def event_name(kind: type) -> str:
    """Return the public name of an event's type: ``StepCompleted``."""
    return kind.__name__
