"""What people see of a run's history: its events, one entry each. Pure reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.pieces import Packed, Piece, Pieces, Sink, finished
from headrace.coordinator.core.state import Run
from headrace.events import (
    OF_ENTRIES,
    EntryBegun,
    EntryEnded,
    RunEvent,
    chunk_first,
    decode_chunk,
    event_name,
)
from headrace.messages import EntryState, HistoryEntry

_decode = msgspec.msgpack.Decoder().decode

ENTRY_STATES = {
    number: name for name, number in vars(EntryState).items() if isinstance(number, int)
}
"""Of a journal's entries."""


def history_entries(
    run: Run, chunks: Iterable[bytes], *, after: int, limit: int
) -> list[HistoryEntry]:
    """Render encoded chunks of *run* from event number *after* + 1 on, at most *limit*.

    Paths come from *run*, which must have been folded at least as far.
    """
    entries: list[HistoryEntry] = []
    finished(_telling(run, list(chunks), after, limit, entries))
    return entries


def telling(run: Run, chunks: Sequence[bytes], *, after: int, limit: int) -> Pieces[msgspec.Raw]:
    """`history_entries`, piece by piece, and encoded.

    *run* may go on meanwhile: it is asked for paths only.
    """
    packed = Packed()
    yield from _telling(run, chunks, after, limit, packed)
    return packed.raw()


def _telling(
    run: Run, chunks: Sequence[bytes], after: int, limit: int, entries: Sink[HistoryEntry]
) -> Pieces[None]:
    piece = Piece()
    last = after + max(limit, 0)
    for at in range((yield from _place(chunks, after + 1)), len(chunks)):
        chunk = decode_chunk(chunks[at])
        for number, event in enumerate(chunk.events, chunk.first):
            if number <= after:
                continue
            if number > last:
                return
            entries.append(_entry(run, number, chunk.time_ms, event))
            after = number
            if piece.full():
                yield
        if piece.full(len(chunks[at])):
            yield


def _place(chunks: Sequence[bytes], number: int) -> Pieces[int]:
    """Return which chunk holds event *number*; what is behind it needs nothing before it."""
    piece = Piece()
    for at in range(len(chunks) - 1, -1, -1):
        # From the end: most who ask have seen the beginning.
        if chunk_first(chunks[at]) <= number:
            return at
        if piece.full():
            yield
    return 0


def _path_then(run: Run, number: int, instance: int) -> str:
    """Return the path of what event *number* names."""
    if run.patches is not None and instance >= 0:
        instance, gone = run.patches.since(number, instance)
        if gone:
            return gone
    return run.path(instance) if 0 <= instance < len(run.status) else ""


@cache
def _fields(kind: type[RunEvent]) -> list[tuple[str, Any]]:
    """Return names and defaults of an event's fields: they are asked for at each event."""
    return [(field.name, field.default) for field in msgspec.structs.fields(kind)]


def _entry(run: Run, number: int, time_ms: int, event: RunEvent) -> HistoryEntry:
    data: dict[str, Any] = {}
    path = ""
    for name, default in _fields(type(event)):
        value: Any = getattr(event, name)
        if name in ("step", "node"):
            path = _path_then(run, number, value)
            continue
        if name == "key" and isinstance(event, OF_ENTRIES):
            path = value
        if value is None or value == "" or value == default:
            continue
        if isinstance(value, msgspec.Raw):
            value = _decode(value)
            if value == {}:
                continue
        elif isinstance(value, msgspec.Struct):
            value = msgspec.to_builtins(value)
        elif name in ("state", "status") and isinstance(value, int):
            names = ENTRY_STATES if isinstance(event, EntryBegun | EntryEnded) else status.NAMES
            value = names[value]
        elif name == "carried":
            value = sorted(value)
        data[name] = value
    return HistoryEntry(
        number=number, time_ms=time_ms, type=event_name(type(event)), path=path, data=data
    )
