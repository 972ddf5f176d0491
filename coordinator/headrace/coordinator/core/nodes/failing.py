"""A node's end as FAILED, for a reason that no worker gave."""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.nodes.fields import is_tolerated
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import NodeEnded, StepFailed
from headrace.messages import StepError


def fail_node(tick: Tick, run: Run, instance: int, kind: str, message: str) -> None:
    """End a node that has not been dispatched as FAILED; what runs below it is stopped."""
    tolerated = is_tolerated(run, instance)
    if run.status[instance] == status.RUNNING:
        # A container: nothing else is RUNNING to the core.
        tick.emit(
            run,
            NodeEnded(instance, status.FAILED, reason=f"{kind}: {message}", tolerated=tolerated),
        )
        tick.stop_doomed(run)
        return
    now_ms = tick.state.now_ms
    error = StepError(kind, message, False)
    tick.emit(
        run,
        StepFailed(instance, run.attempt[instance], "", now_ms, now_ms, error, tolerated=tolerated),
    )
