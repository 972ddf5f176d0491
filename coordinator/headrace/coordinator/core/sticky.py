"""Which worker last ran a sticky key: what steps of the key prefer, for a moment.

It is a preference, so what is kept may be forgotten at any time; it is part of the state all the
same, so that it survives a takeover and every replica has the same. Used by the fold: the newest
end counts, and of two in one batch the higher name: the order of runs in it must not matter.
"""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.state import Run, ShardState

KEYS_MAX: Final = 10_000
"""Keys that are remembered; the oldest tenth is forgotten then."""
KEY_MAX: Final = 256
"""Characters of a key, its namespace not counted."""


def full_key(run: Run, key: str) -> str:
    """Return *key* in its namespace."""
    return f"{run.program.namespace}/{key}"


def note_worker(state: ShardState, run: Run, step: int, worker: str) -> None:
    """*worker* (``<id>.<incarnation>``) has ended an attempt of *step*."""
    key = run.sticky.get(step)
    if key and worker:
        name = full_key(run, key)
        found = (state.now_ms, worker.partition(".")[0])
        state.sticky[name] = max(state.sticky.get(name, found), found)


def forget_oldest(state: ShardState) -> None:
    """Begin a batch with more than `KEYS_MAX`: keep what is remembered bounded."""
    ordered = sorted(state.sticky.items(), key=lambda item: (item[1], item[0]))
    state.sticky = dict(ordered[len(ordered) - KEYS_MAX * 9 // 10 :])


def preferred(state: ShardState, run: Run, step: int) -> str:
    """Return the id of the worker that the step prefers, or "": of a turn who had the last one."""
    if run.journal is not None:
        return run.journal.worker.partition(".")[0]
    key = run.sticky.get(step)
    found = state.sticky.get(full_key(run, key)) if key else None
    return found[1] if found is not None else ""
