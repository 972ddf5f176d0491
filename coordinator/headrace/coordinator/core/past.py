"""A run folded again from the beginning of its history: to its end, or up to an event or a time.

The run is folded in a state of its own, so nothing that lives is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.coordinator.core.fold import apply_chunk
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.state import UNREADABLE, Run, ShardState
from headrace.coordinator.core.views import run_view
from headrace.errors import InvalidRequest, Unavailable
from headrace.events import Chunk, decode_chunk, encode_chunk
from headrace.messages import GetRun, RunView, subjects


def asks_past(request: object) -> bool:
    """Tell whether *request* asks for a run as it was."""
    return isinstance(request, GetRun) and (request.at_event is not None or bool(request.at_ms))


def refold(state: ShardState, key: str, history: Iterable[tuple[Chunk, bytes]]) -> Run:
    """Fold run *key* in *state*, which knows its plan; return it with all of its *history*.

    The fold drops what went to the archive; the times of steps are read from all of it. Raises
    KeyError if there is nothing to fold.
    """
    folded: list[bytes] = []
    for chunk, data in history:
        state.now_ms = chunk.time_ms
        apply_chunk(state, data)
        folded.append(data)
    run = state.runs.get(key)
    if run is None:
        raise KeyError(key)
    run.history = folded
    return run


def past_view(
    key: str,
    programs: Iterable[Program],
    chunks: Sequence[bytes],
    request: GetRun,
    *,
    shard: int,
) -> RunView:
    """Return the view of run *key* right behind the event, or at the time, that *request* names.

    *programs*: all that it went by (`Run.programs`). *chunks*: its whole history, encoded, in
    order; what comes twice counts once. What ran then is shown as dispatched: who ran it is no
    event. Raises `InvalidRequest` for an event or a time that the history does not reach,
    `Unavailable` for one that this release cannot read.
    """
    try:
        history = in_order([(decode_chunk(data), data) for data in chunks])
    except UNREADABLE as error:
        raise Unavailable(f"the history of run {request.run} cannot be read: {error}") from error
    wanted = _up_to(_last_event([chunk for chunk, _ in history], request), history)
    state = ShardState(shard)
    for program in programs:
        state.programs[program.digest, subjects.split_key(key)[0]] = program
    run = refold(state, key, wanted)
    view = run_view(run, steps=request.steps, shard=shard)
    view.as_of_ms = request.at_ms or wanted[-1][0].time_ms
    return view


def in_order(chunks: Sequence[tuple[Chunk, bytes]]) -> list[tuple[Chunk, bytes]]:
    """Return each event's chunk once; archived segments may overlap with what the state holds."""
    found: list[tuple[Chunk, bytes]] = []
    following = 1
    for chunk, data in chunks:
        if chunk.first == following:
            found.append((chunk, data))
            following += len(chunk.events)
        elif chunk.first > following:
            raise Unavailable(f"the history of {chunk.run} has no event {following}")
    return found


def _up_to(last: int, history: Sequence[tuple[Chunk, bytes]]) -> list[tuple[Chunk, bytes]]:
    """Return the chunks up to event number *last*, the one that holds it cut behind it."""
    found = [(chunk, data) for chunk, data in history if chunk.first <= last]
    chunk, _ = found[-1]
    events = chunk.events[: last - chunk.first + 1]
    if len(events) < len(chunk.events):
        data = encode_chunk(chunk.run, chunk.first, chunk.time_ms, events)
        found[-1] = (chunk, data)
    return found


def _last_event(history: Sequence[Chunk], request: GetRun) -> int:
    """Return the number of the last event to fold."""
    newest = history[-1].first + len(history[-1].events) - 1 if history else 0
    if request.at_event is not None:
        if not 1 <= request.at_event <= newest:
            raise InvalidRequest(
                f"run {request.run} has no event {request.at_event}: its history goes "
                f"from 1 to {newest}"
            )
        return request.at_event
    found = 0
    for chunk in history:
        if chunk.time_ms > request.at_ms:
            break
        found = chunk.first + len(chunk.events) - 1
    if not found:
        raise InvalidRequest(f"run {request.run} did not exist yet at that time")
    return found
