"""A tick's events as log entries: batches in a chain, each no larger than an append may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from headrace.coordinator.core.fold import batch_hash
from headrace.coordinator.core.state import Run, ShardState
from headrace.events import (
    BATCH_VERSION,
    Batch,
    PlanStored,
    RunEvent,
    ShardEvent,
    encode_batch,
    encode_chunk,
    encode_fields,
)

PART_BYTES_MAX = 512 * 1024
"""An append is no larger than this, but for a single event (a plan, a payload) that is."""
LONG_BYTES = 256 * 1024
"""A live run's history above this goes to the archive, but for its newest part."""
PART_EVENTS_MAX = 1_000
"""Shard events of one append, for the same reason."""


class Part(NamedTuple):
    """What one of a tick's log entries holds."""

    before: list[ShardEvent]
    chunks: list[msgspec.Raw]
    after: list[ShardEvent]


def split(
    before: Iterable[ShardEvent],
    chunks: Iterable[tuple[Run, int, list[RunEvent]]],
    after: list[ShardEvent],
    *,
    now_ms: int,
    bytes_max: int,
    long: list[Run],
) -> list[Part]:
    """Split a tick: plans first, then the runs' chunks, then the shard's other events.

    *chunks*: (run, number of its first event, events). What is encoded for the log is added to the
    run's history as it stands; to *long* go the runs whose history is long by now. *bytes_max* of
    a part; 0: `PART_BYTES_MAX`.
    """
    parts = [Part([], [], [])]
    bytes_max = bytes_max or PART_BYTES_MAX
    size = 0
    for stored in before:
        length = len(stored.data) if isinstance(stored, PlanStored) else 0
        if size and size + length > bytes_max:
            parts.append(Part([], [], []))
            size = 0
        parts[-1].before.append(stored)
        size += length
    for run, first, events in chunks:
        whole = encode_fields((run.key, first, now_ms, events))
        small = len(whole) <= bytes_max or len(events) == 1
        for data in (whole,) if small else _halved(run.key, first, now_ms, events, bytes_max):
            if size and size + len(data) > bytes_max:
                parts.append(Part([], [], []))
                size = 0
            parts[-1].chunks.append(msgspec.Raw(data))
            size += len(data)
            run.history.append(data)
            run.history_bytes += len(data)
        if run.history_bytes > LONG_BYTES:
            long.append(run)
    parts[-1].after.extend(after[:PART_EVENTS_MAX])
    for begin in range(PART_EVENTS_MAX, len(after), PART_EVENTS_MAX):
        parts.append(Part([], [], after[begin : begin + PART_EVENTS_MAX]))
    return parts


def keep(chunks: Iterable[tuple[Run, int, list[RunEvent]]], now_ms: int, long: list[Run]) -> None:
    """Add a tick's events to the histories of their runs, and to no log; see `split`."""
    for run, first, events in chunks:
        data = encode_fields((run.key, first, now_ms, events))
        run.history.append(data)
        run.history_bytes += len(data)
        if run.history_bytes > LONG_BYTES:
            long.append(run)


def _halved(
    run: str, first: int, now_ms: int, events: list[RunEvent], bytes_max: int
) -> list[bytes]:
    """Return a run's events as several chunks that fit into parts."""
    half = len(events) // 2
    chunks: list[bytes] = []
    for number, some in ((first, events[:half]), (first + half, events[half:])):
        data = encode_chunk(run, number, now_ms, some)
        if len(data) <= bytes_max or len(some) == 1:
            chunks.append(data)
        else:
            chunks.extend(_halved(run, number, now_ms, some, bytes_max))
    return chunks


def chain(state: ShardState, parts: list[Part], *, batch_id: str, epoch: int) -> list[bytes]:
    """Encode the parts of a tick, in the order of the log; each names the one before by its hash.

    Readers ignore the parts of a tick until the last one is there.
    """
    last = len(parts) - 1
    entries: list[bytes] = []
    for number, (before, chunks, after) in enumerate(parts):
        state.batch_index += 1
        entry = encode_batch(
            Batch(
                BATCH_VERSION,
                f"{batch_id}.{number}",
                state.batch_index,
                state.batch_position if number == 0 else 0,
                state.batch_hash,
                epoch,
                state.now_ms,
                number < last,
                before,
                chunks,
                after,
            )
        )
        state.batch_hash = batch_hash(entry)
        entries.append(entry)
    state.logged_ms = state.now_ms
    return entries
