"""A run folded again from the beginning of its history: to its end, or up to an event or a time.

The run is folded in a state of its own, so nothing that lives is touched. All of it is done in
pieces, see `pieces`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from headrace.coordinator.core.fold import apply_read
from headrace.coordinator.core.pieces import PIECE, Piece, Pieces, finished
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.snapshot import decode_run
from headrace.coordinator.core.state import UNREADABLE, Run, ShardState
from headrace.coordinator.core.views import run_view, viewing
from headrace.errors import InvalidRequest, Unavailable
from headrace.events import Chunk, decode_chunk, encode_chunk
from headrace.messages import GetRun, RunView, subjects

FOLDED: Final = PIECE
"""Events that are folded in one go, about; a chunk may hold ten thousand."""


def asks_past(request: object) -> bool:
    """Tell whether *request* asks for a run as it was."""
    return isinstance(request, GetRun) and (request.at_event is not None or bool(request.at_ms))


def refolding(
    state: ShardState,
    key: str,
    chunks: Iterable[bytes],
    until: Callable[[Chunk], int] = lambda chunk: len(chunk.events),
) -> Pieces[Run | None]:
    """Fold run *key* in *state*, which knows its plan; return it with all of its history, or None.

    *chunks* are in order; what comes twice counts once. *until* tells how many events of a chunk
    count; the first one of which not all do is the last. The fold drops what went to the archive;
    the times of steps are read from all of it. Raises `Unavailable` for a history with a hole, or
    one that this release cannot read.
    """
    folded: list[bytes] = []
    piece = Piece()
    for chunk, data in in_order((read_chunk(key, data), data) for data in chunks):
        if chunk is None:
            if piece.full(len(data)):
                yield
            continue
        count = until(chunk)
        for part in _parts(chunk, data, count):
            state.now_ms = chunk.time_ms
            apply_read(state, *part)
            folded.append(part[1])
            if piece.full(len(part[1])):
                yield
        if count < len(chunk.events):
            break
    run = state.runs.get(key)
    if run is not None:
        run.history = folded
    return run


def in_order(chunks: Iterable[tuple[Chunk, bytes]]) -> Iterator[tuple[Chunk | None, bytes]]:
    """Yield each event's chunk once, and None for one whose events came before.

    Archived segments may overlap with what the state holds. Raises `Unavailable` for a hole.
    """
    following = 1
    for chunk, data in chunks:
        if chunk.first > following:
            raise Unavailable(f"the history of {chunk.run} has no event {following}")
        if chunk.first == following:
            following += len(chunk.events)
            yield chunk, data
        else:
            yield None, data


def read_chunk(key: str, data: bytes) -> Chunk:
    """Read one of the chunks of run *key*. Raises `Unavailable`: this release cannot read it."""
    try:
        return decode_chunk(data)
    except UNREADABLE as error:
        raise Unavailable(f"the history of {key} cannot be read: {error}") from error


def _parts(chunk: Chunk, data: bytes, count: int) -> Iterator[tuple[Chunk, bytes]]:
    """Yield the first *count* events of a chunk as chunks that are folded in one go."""
    events = chunk.events
    if count == len(events) <= FOLDED:
        yield chunk, data
        return
    for at in range(0, count, FOLDED):
        part = Chunk(
            chunk.run, chunk.first + at, chunk.time_ms, events[at : min(at + FOLDED, count)]
        )
        yield part, encode_chunk(part.run, part.first, part.time_ms, part.events)


def past_view(
    key: str, programs: Iterable[Program], chunks: Sequence[bytes], request: GetRun, *, shard: int
) -> RunView:
    """Return the view of run *key* right behind the event, or at the time, that *request* names.

    *programs*: all that it went by (`Run.programs`). *chunks*: its whole history, encoded, in
    order; what comes twice counts once. What ran then is shown as dispatched: who ran it is no
    event. Raises `InvalidRequest` for an event or a time that the history does not reach,
    `Unavailable` for one that this release cannot read.
    """
    run = finished(_run_then(key, programs, chunks, request, shard))
    return _as_of(request, run, run_view(run, steps=request.steps, shard=shard))


def viewing_past(
    key: str, programs: Iterable[Program], chunks: Sequence[bytes], request: GetRun, *, shard: int
) -> Pieces[RunView]:
    """`past_view`, piece by piece, to be encoded: its steps are already."""
    run = yield from _run_then(key, programs, chunks, request, shard)
    if not request.steps:
        return _as_of(request, run, run_view(run, steps=False, shard=shard))
    return _as_of(request, run, (yield from viewing(run, shard=shard)))


def _as_of(request: GetRun, run: Run, view: RunView) -> RunView:
    view.as_of_ms = request.at_ms or decode_chunk(run.history[-1]).time_ms
    return view


def _run_then(
    key: str, programs: Iterable[Program], chunks: Sequence[bytes], request: GetRun, shard: int
) -> Pieces[Run]:
    """Return run *key* as it was."""

    def until(chunk: Chunk) -> int:
        if request.at_event is not None:
            return max(min(request.at_event - chunk.first + 1, len(chunk.events)), 0)
        return len(chunk.events) if chunk.time_ms <= request.at_ms else 0

    run = yield from refolding(_apart(key, programs, shard), key, chunks, until)
    if request.at_event is not None and (run is None or run.events < request.at_event):
        newest = run.events if run is not None else _newest(chunks)
        raise InvalidRequest(
            f"run {request.run} has no event {request.at_event}: its history goes "
            f"from 1 to {newest}"
        )
    if run is None:
        raise InvalidRequest(f"run {request.run} did not exist yet at that time")
    return run


def _newest(chunks: Sequence[bytes]) -> int:
    chunk = decode_chunk(chunks[-1]) if chunks else None
    return chunk.first + len(chunk.events) - 1 if chunk is not None else 0


def copy_of(data: bytes, key: str, programs: Iterable[Program], shard: int) -> Run:
    """Return run *key*, which `snapshot.encode_run` has encoded, as a run that nobody changes."""
    return decode_run(_apart(key, programs, shard), data)


def _apart(key: str, programs: Iterable[Program], shard: int) -> ShardState:
    """Return a state of its own for a run that has gone by *programs*."""
    state = ShardState(shard)
    for program in programs:
        state.programs[program.digest, subjects.split_key(key)[0]] = program
    return state
