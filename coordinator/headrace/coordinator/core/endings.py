"""The end of a run: its state, its reason and its output."""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.outcomes import outputs
from headrace.coordinator.core.state import EMPTY_MAP, Run
from headrace.coordinator.core.tick import Tick
from headrace.events import RunEnded
from headrace.plan import Task

_encode = msgspec.msgpack.Encoder().encode
OUTPUT_LEAVES_MAX = 100


def end_run(tick: Tick, run: Run) -> None:
    """End the run once its root has ended and nothing of it runs any more."""
    root = run.status[0]
    if run.state != status.RUNNING or not status.is_final(root) or run.active or run.detached:
        return
    state = root
    reason = run.ended_reason
    if run.cancelling and (root != status.COMPLETED or run.failing):
        state = status.FAILED if run.failing else status.CANCELLED
        reason = run.cancel_reason
    elif root == status.SKIPPED:
        state = status.COMPLETED
    if not reason and state in (status.FAILED, status.CANCELLED):
        reason = failure_reason(run, state)
    if run.uncompensated:
        left = ", ".join(map(run.path, sorted(run.uncompensated)))
        if "not compensated" not in reason:
            reason = f"{reason}; not compensated: {left}"[:1_000]
    output = _run_output(run) if state == status.COMPLETED else EMPTY_MAP
    if len(output) > tick.limits.output_bytes:
        # Nobody declared it; the steps' own outputs are there to be read.
        output = EMPTY_MAP
    tick.emit(run, RunEnded(state, reason, msgspec.Raw(output)))
    tick.ended.append(run)


def failure_reason(run: Run, ended: int = status.FAILED) -> str:
    """Return ``path: type: message`` of the first node that failed (was cancelled) for good."""
    for instance in sorted(run.errors):
        if instance in run.handlers or run.undoes(instance):
            continue
        if run.status[instance] == ended and instance not in run.tolerated:
            error = run.errors[instance]
            return f"{run.path(instance)}: {error.type}: {error.message}"[:1_000]
    for instance, value in enumerate(run.status):
        if value == status.UNKNOWN:
            return f"{run.path(instance)}: its worker was lost after it had claimed the effect"
    return ""


def _run_output(run: Run) -> bytes:
    """Return the run's output: the root's `outputs`, else those of the nodes that end the graph."""
    own = run.outputs.get(0)
    if own is not None:
        return own
    program = run.program
    leaves = program.leaves
    if len(leaves) == 1 and isinstance(program.nodes[leaves[0]], Task):
        return run.outputs.get(leaves[0], EMPTY_MAP)
    if len(leaves) > OUTPUT_LEAVES_MAX:
        return EMPTY_MAP
    children = leaves if program.plan.dialect == "tasks" else program.children[0]
    found = {program.nodes[child].name: outputs(run, child) for child in children}
    found = {name: value for name, value in found.items() if value}
    return _encode(found) if found else EMPTY_MAP
