"""Reading a shard's log: batches to state, and what to do with a batch that is not right.

A hole (a batch that does not follow the one before) halts loudly. An event of one run that cannot
be applied quarantines that run: its raw events are kept, the shard goes on.
"""

from __future__ import annotations

import hashlib

import msgspec

from headrace.coordinator.core.evolve import evolve
from headrace.coordinator.core.shard_events import evolve_shard, forget_expired
from headrace.coordinator.core.state import UNREADABLE, Run, ShardState
from headrace.errors import HeadraceError
from headrace.events import (
    BATCH_VERSION,
    Batch,
    Chunk,
    RunCreated,
    RunEnded,
    RunEvent,
    RunQuarantined,
    SegmentArchived,
    decode_batch,
    decode_chunk,
)
from headrace.messages import subjects

WHILE_QUARANTINED = (RunEnded, RunQuarantined, SegmentArchived)
"""Events that are applied to a quarantined run too: it can be got rid of."""
_outlines = msgspec.msgpack.Decoder(tuple[str, int, int, list[msgspec.Raw]])
_events: msgspec.msgpack.Decoder[RunEvent] = msgspec.msgpack.Decoder(RunEvent)


class BrokenLog(HeadraceError):
    """The log has a hole or an entry that this release cannot read."""

    code = "broken-log"

    def __init__(self, shard: int, position: int, reason: str) -> None:
        self.shard, self.position, self.reason = shard, position, reason
        super().__init__(f"shard {shard}, position {position}: {reason}")


def batch_hash(data: bytes) -> bytes:
    """Return the 8 bytes by which the next batch names this one."""
    return hashlib.blake2b(data, digest_size=8).digest()


class Folder:
    """Folds a log's entries into a state; keeps the parts of an unfinished tick apart."""

    def __init__(self, state: ShardState) -> None:
        self.state = state
        self._parts: list[Batch] = []
        self._position = state.batch_position
        self._index = state.batch_index
        self._hash = state.batch_hash

    def fold(self, position: int, data: bytes) -> None:
        """Apply one entry. Raises `BrokenLog` on a hole or on an unreadable entry."""
        state = self.state
        try:
            batch = decode_batch(data)
        except UNREADABLE as error:
            raise BrokenLog(state.shard, position, _unreadable(data, error)) from error
        if batch.version != BATCH_VERSION:
            raise BrokenLog(state.shard, position, _newer(f"entry of version {batch.version}"))
        if self._parts and batch.index != self._parts[-1].index + 1:
            # The tick's owner died between its parts: the tick does not count.
            self._drop_parts()
        if batch.index != self._index + 1 or batch.previous_hash != self._hash:
            raise BrokenLog(
                state.shard,
                position,
                f"batch {batch.index} does not follow batch {self._index} "
                f"at position {self._position}",
            )
        self._position, self._index, self._hash = position, batch.index, batch_hash(data)
        self._parts.append(batch)
        if not batch.more:
            self._apply()

    def _drop_parts(self) -> None:
        self._parts.clear()
        state = self.state
        self._position, self._index, self._hash = (
            state.batch_position,
            state.batch_index,
            state.batch_hash,
        )

    def _apply(self) -> None:
        state = self.state
        parts, self._parts = self._parts, []
        state.now_ms = state.logged_ms = max(state.logged_ms, parts[0].time_ms)
        forget_expired(state)
        for batch in parts:
            for event in batch.before:
                evolve_shard(state, event)
            for raw in batch.chunks:
                apply_chunk(state, bytes(raw))
            for event in batch.after:
                evolve_shard(state, event)
        state.batch_position, state.batch_index = self._position, self._index
        state.batch_hash = self._hash


def _newer(what: str) -> str:
    return f"{what}: a newer release wrote it; start that release or a later one"


def _unreadable(data: bytes, error: Exception) -> str:
    """Say why an entry cannot be read, and what to do about it."""
    try:
        version, *_ = msgspec.msgpack.decode(data)
    except (*UNREADABLE, TypeError, ValueError):
        return f"unreadable entry: {error}"
    if isinstance(version, int) and version > BATCH_VERSION:
        return _newer(f"entry of version {version}")
    # All of it is msgpack: nothing was torn. It has a tag or a field that we do not know.
    return _newer(f"unknown event ({error})")


def apply_chunk(state: ShardState, data: bytes) -> None:
    """Apply one run's events; what cannot be read or applied quarantines the run."""
    try:
        chunk = decode_chunk(data)
    except UNREADABLE:
        _apply_unread(state, data)
        return
    apply_read(state, chunk, data)


def apply_read(state: ShardState, chunk: Chunk, data: bytes) -> None:
    """Apply one run's events; *chunk* is what was read from *data*."""
    run = state.runs.get(chunk.run)
    if run is None:
        run = _created(state, chunk)
    run.history.append(data)
    run.history_bytes += len(data)
    for number, event in enumerate(chunk.events, chunk.first):
        _apply_event(state, run, number, event)


def _apply_event(state: ShardState, run: Run, number: int, event: RunEvent) -> None:
    if not run.quarantined or isinstance(event, WHILE_QUARANTINED):
        try:
            evolve(state, run, event)
        except Exception as error:
            # Whatever is wrong with it concerns this run alone; the event is in the history.
            run.quarantined = f"event {number} {type(event).__name__}: {error!r}"[:1_000]
    run.events = number


def _apply_unread(state: ShardState, data: bytes) -> None:
    """Apply a chunk of which this release cannot read every event."""
    try:
        key, first, _, events = _outlines.decode(data)
    except UNREADABLE as error:
        raise BrokenLog(state.shard, state.batch_position, f"unreadable chunk: {error}") from error
    run = state.runs.get(key)
    if run is None:
        raise BrokenLog(state.shard, state.batch_position, f"run {key} begins unreadably")
    run.history.append(data)
    run.history_bytes += len(data)
    for number, raw in enumerate(events, first):
        try:
            event = _events.decode(raw)
        except UNREADABLE as error:
            run.quarantined = run.quarantined or _newer(f"event {number} ({error})")[:1_000]
            run.events = number
        else:
            _apply_event(state, run, number, event)


def _created(state: ShardState, chunk: Chunk) -> Run:
    first = chunk.events[0]
    if not isinstance(first, RunCreated):
        raise BrokenLog(state.shard, state.batch_position, f"no run {chunk.run} in the state")
    try:
        program = state.program(first.plan, subjects.split_key(chunk.run)[0])
    except KeyError:
        reason = f"run {chunk.run} names plan {first.plan}, which is not there"
        raise BrokenLog(state.shard, state.batch_position, reason) from None
    run = Run(chunk.run, program)
    state.runs[chunk.run] = run
    return run
