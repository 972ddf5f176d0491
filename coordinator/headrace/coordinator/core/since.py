"""Since when something waits, read from the history that the state still holds.

Of a quarantined run nothing is told: its history may be what cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.coordinator.core.state import Run
from headrace.coordinator.core.views import Times, times_of
from headrace.events import CancelRequested, RunPaused, decode_chunk


def step_times(run: Run) -> Mapping[int, Times]:
    """Return what `waits_since` needs; it reads the whole history, so once for all steps."""
    return {} if run.quarantined else times_of(run, ())


def waits_since(run: Run, instance: int, times: Mapping[int, Times]) -> int:
    """Return since when *instance* is as it is, in ms; 0 when the state does not tell.

    A step that has not begun waits since the last thing that it needed: a step, or its container.
    """
    if run.quarantined:
        return 0
    own = times.get(instance)
    if own is not None:
        return own.ended_ms or own.started_ms
    node, shift, scope = run.locate(instance)
    latest_ms = run.started_ms
    above = run.parent(instance)
    if above > 0:
        found = times.get(above)
        if found is None:
            return 0
        latest_ms = found.started_ms
    if scope is not None and node == scope.body:
        counts = run.counts.get(scope.loop)
        if counts is not None and counts.window and scope.index >= counts.window:
            # It waited for room in the loop, which no event tells.
            return 0
    for need in run.program.nodes[node].needs:
        found = times.get(need + shift)
        if found is None:
            return 0
        latest_ms = max(latest_ms, found.ended_ms)
    return latest_ms


def told_ms(run: Run, kind: type[RunPaused | CancelRequested]) -> int:
    """Return when the last event of *kind* was logged; 0 when the state does not tell."""
    latest_ms = 0
    for data in run.history if not run.quarantined else ():
        chunk = decode_chunk(data)
        if any(isinstance(event, kind) for event in chunk.events):
            latest_ms = chunk.time_ms
    return latest_ms
