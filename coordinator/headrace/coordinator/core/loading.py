"""A state read from its bytes; runs that plainly only wait come parked, as they are in there."""

from __future__ import annotations

from functools import partial

from headrace.coordinator.core.outline import parkable
from headrace.coordinator.core.pieces import Pieces, finished
from headrace.coordinator.core.snapshot import decode_image, decode_run, restore_rest
from headrace.coordinator.core.state import ShardState

PIECE_RUNS = 500
"""Runs of one piece: a millisecond or two; some 15 if none of them is parked."""


def loading(data: bytes, builtin: frozenset[str]) -> Pieces[ShardState]:
    """Return the state in *data*, read piece by piece; raises `BadSnapshot`."""
    image = decode_image(data)
    yield
    state = ShardState(image.shard, builtin)
    state.plans = dict(image.plans)
    runs, uses = state.runs, state.plan_uses
    runs.restore = partial(decode_run, state)
    for number, raw in enumerate(image.runs, 1):
        found = parkable(state, raw)
        if found is not None:
            runs.park(found.key, bytes(raw), found.condition)
            uses[found.plan] = uses.get(found.plan, 0) + 1
        else:
            run = decode_run(state, raw)
            runs[run.key] = run
            for program in run.programs():
                uses[program.digest] = uses.get(program.digest, 0) + 1
        if number % PIECE_RUNS == 0:
            yield
    restore_rest(state, image)
    return state


def decode_state(data: bytes, builtin: frozenset[str]) -> ShardState:
    """Return the state in *data*, read in one go; raises `BadSnapshot`."""
    return finished(loading(data, builtin))
