"""A node's end as FAILED, for a reason that no worker gave."""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.nodes.consequences import abort, consequence
from headrace.coordinator.core.nodes.sagas import begin, is_compensating
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import NodeEnded, StepFailed
from headrace.messages import StepError


def fail_node(tick: Tick, run: Run, instance: int, kind: str, message: str) -> None:
    """End a node that has not been dispatched as FAILED; what runs below it is stopped."""
    if run.status[instance] == status.RUNNING:
        # A container: nothing else is RUNNING to the core.
        _fail_container(tick, run, instance, f"{kind}: {message}")
        return
    fail_step(tick, run, instance, run.attempt[instance], StepError(kind, message, False))


def fail_step(tick: Tick, run: Run, instance: int, attempt: int, error: StepError) -> None:
    """End an attempt as FAILED on our own account, with what its failure policies say.

    Without a worker: a job must not be bound to one that is lost.
    """
    now_ms = tick.state.now_ms
    found = consequence(run, instance)
    tick.emit(
        run,
        StepFailed(
            instance,
            attempt,
            "",
            now_ms,
            now_ms,
            error,
            tolerated=found.tolerated,
            skipped=found.skipped,
            handler=found.handler,
        ),
    )
    if found.aborts:
        abort(tick, run, instance, f"{error.type}: {error.message}")


def _fail_container(tick: Tick, run: Run, instance: int, reason: str) -> None:
    if run.sagas and is_compensating(run, instance):
        # What completed is being undone: that is not cut short, and the end comes anyway.
        return
    found = consequence(run, instance)
    may_undo = run.program.compensates and not found.skipped
    if may_undo and begin(tick, run, instance, status.FAILED, reason):
        return
    ended = status.SKIPPED if found.skipped else status.FAILED
    tolerated = found.tolerated or found.skipped
    tick.emit(run, NodeEnded(instance, ended, reason=reason, tolerated=tolerated))
    tick.stop_doomed(run)
    if found.aborts:
        abort(tick, run, instance, reason)
