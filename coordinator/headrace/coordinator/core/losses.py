"""Lost workers: what becomes of the attempts and of the jobs that they held."""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.nodes import (
    abort,
    fail_node,
    fail_step,
    is_compensating,
    lose_iterations,
    unknown_consequence,
)
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import (
    JobMoved,
    JobRestarted,
    StepCancelled,
    StepLost,
    StepUnknown,
)
from headrace.messages import StepError
from headrace.plan import Group, Task


def lose(tick: Tick, key: str, step: int, attempt: int, worker: str, reason: str) -> None:
    """Take a dispatched attempt away from a lost holder; it becomes ready, or UNKNOWN."""
    run = tick.state.runs.get(key)
    if run is None or not 0 <= step < len(run.status):
        return
    if run.status[step] != status.DISPATCHED or run.attempt[step] != attempt:
        return
    if step in run.claims and is_at_most_once(run, step):
        # Whether it was being cancelled or not: nobody knows what it has done.
        found, held = unknown_consequence(run, step)
        tick.emit(run, StepUnknown(step, attempt, worker, found.tolerated, held, found.handler))
        if found.aborts:
            abort(tick, run, step, "its worker was lost after it had claimed the effect")
        return
    if step in run.doomed:
        tick.emit(run, StepCancelled(step, attempt, worker, reason))
        return
    if run.losses.get(step, 0) >= tick.limits.losses:
        message = f"{tick.limits.losses} workers were lost while they ran it"
        fail_step(tick, run, step, attempt, StepError("worker-lost", message, False))
        return
    tick.emit(run, StepLost(step, attempt, worker, reason))


def is_at_most_once(run: Run, step: int) -> bool:
    """Tell whether a step must never be run again by itself."""
    node = run.program.nodes[run.locate(step)[0]]
    return isinstance(node, Task) and node.effect == "at-most-once"


_HAS_RUN = frozenset({status.COMPLETED, status.FAILED, status.UNKNOWN})


def _at_most_once_done(run: Run, job: int) -> str:
    """Return the path of an at-most-once step of the job that has run; empty: none has."""
    for step in run.descendants(job):
        # One that was cancelled may have been stopped in the middle of it.
        begun = run.status[step] in _HAS_RUN or (
            run.status[step] == status.CANCELLED and run.attempt[step] > run.uncounted.get(step, 0)
        )
        if begun and run.attempt[step] and is_at_most_once(run, step):
            return run.path(step)
    return ""


def lose_worker(tick: Tick, worker: str, reason: str) -> None:
    """The worker with this id will not come back: apply `on-worker-loss` to all that is its."""
    # Parked ones have neither a step with a worker nor a job's workspace.
    for run in tick.state.runs.records():
        if run.state != status.RUNNING:
            continue
        if run.program.broadcasts:
            for step in sorted(run.tokens):
                if run.broadcast_to(step) == worker:
                    lose(tick, run.key, step, run.attempt[step], worker, reason)
            lose_iterations(tick, run, worker, reason)
        if not run.jobs:
            continue
        for instance in list(run.jobs):
            job = run.jobs.get(instance)
            if job is None or job.worker.partition(".")[0] != worker:
                continue
            if run.status[instance] == status.RUNNING or instance in run.detached:
                _lose_job(tick, run, instance, job.worker, reason)


def _lose_job(tick: Tick, run: Run, instance: int, worker: str, reason: str) -> None:
    group = run.program.nodes[run.locate(instance)[0]]
    assert isinstance(group, Group)
    for step in sorted(run.tokens):
        if run.job_of(step) == instance and step not in run.doomed:
            lose(tick, run.key, step, run.attempt[step], worker, reason)
    if instance in run.detached:
        # Its end is settled; what was left running goes on elsewhere.
        tick.emit(run, JobMoved(instance, worker, reason))
        return
    if run.status[instance] != status.RUNNING:
        return
    if is_compensating(run, instance) or any(run.is_below(step, instance) for step in run.held):
        # It does not begin anew: what it has done is being undone, or somebody decides about it.
        tick.emit(run, JobMoved(instance, worker, reason))
    elif group.on_worker_loss == "fail":
        fail_node(tick, run, instance, "worker-lost", reason)
    elif group.on_worker_loss == "restart-job" and (done := _at_most_once_done(run, instance)):
        message = f"{reason}; the job cannot begin anew, because {done} has run and may run once"
        fail_node(tick, run, instance, "worker-lost", message)
    elif run.jobs[instance].restarts >= tick.limits.restarts:
        fail_node(tick, run, instance, "worker-lost", f"restarted {tick.limits.restarts} times")
    elif group.on_worker_loss == "continue":
        tick.emit(run, JobMoved(instance, worker, reason))
    else:
        tick.emit(run, JobRestarted(instance, worker, reason))
