"""The fold of what happens to steps, sleeps and waits."""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.state import EMPTY_MAP, Run, ShardState
from headrace.coordinator.core.sticky import note_worker
from headrace.coordinator.core.surroundings import (
    begun,
    call_for,
    drop_gate,
    drop_key,
    ended,
    keep_result,
    leave,
    note_completed,
    pin,
    unpin,
)
from headrace.events import (
    SleepStarted,
    StepCached,
    StepCancelled,
    StepCarried,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepKeyed,
    StepLost,
    StepQueued,
    StepResolved,
    StepReturned,
    StepScheduled,
    StepSkipped,
    StepUnknown,
    WaitEnded,
    WaitStarted,
)
from headrace.messages import StepError


def scheduled(state: ShardState, run: Run, event: StepScheduled) -> None:
    """Fold `StepScheduled`."""
    step = event.step
    run.status[step] = status.DISPATCHED
    run.attempt[step] = event.attempt
    run.tokens[step] = event.token
    run.active += 1
    if run.patches is not None:
        run.patches.wired.pop(step, None)
    if event.token > state.token_last:
        state.token_last = event.token
    if run.due:
        run.due.pop(step, None)
    timed = run.program.timed
    if timed and step not in run.first_ms and run.locate(step)[0] in timed:
        run.first_ms[step] = state.now_ms
    if run.jobs:
        job = run.jobs.get(run.job_of(step))
        if job is not None and not job.worker:
            job.first = step
    if run.gates:
        begun(state, run, step)


def completed(state: ShardState, run: Run, event: StepCompleted) -> None:
    """Fold `StepCompleted`."""
    step = event.step
    # `leave`, without the call: this is done for every step.
    if run.tokens.pop(step, None) is not None:
        run.active -= 1
    if run.doomed or run.claims or run.due:
        leave(run, step)
    run.status[step] = status.COMPLETED
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[step] = output
    elif event.attempt > 1:
        run.outputs.pop(step, None)
    if run.errors:
        run.errors.pop(step, None)
    if run.jobs:
        pin(state, run, step, event.worker, event.extra)
    if run.sticky:
        note_worker(state, run, step, event.worker)
    if run.program.compensation:
        note_completed(run, step)
    if run.gates:
        keep_result(state, run, step, output, event.extra)
        drop_gate(state, run, step)
    ended(state, run, step, ok=True)


def failed(state: ShardState, run: Run, event: StepFailed) -> None:
    """Fold `StepFailed`."""
    step = event.step
    leave(run, step)
    run.errors[step] = event.error
    if run.waits:
        run.waits.pop(step, None)
    if run.node_keys or run.family or run.gates:
        drop_key(state, run, step)
    if run.jobs:
        pin(state, run, step, event.worker, event.extra)
        unpin(state, run, step)
    if run.sticky:
        note_worker(state, run, step, event.worker)
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[step] = output
    if event.retry_ms:
        run.status[step] = status.WAITING
        run.due[step] = event.retry_ms
        return
    if event.handler >= 0:
        run.status[step] = status.WAITING
        run.held[step] = event.handler
        call_for(state, run, event.handler, step)
        return
    if event.skipped:
        run.status[step] = status.SKIPPED
        ended(state, run, step, ok=True)
        return
    run.status[step] = status.FAILED
    if event.tolerated:
        run.tolerated.add(step)
    ended(state, run, step, ok=event.tolerated, failed=not event.tolerated)


def _back(state: ShardState, run: Run, step: int) -> None:
    """A dispatched step becomes ready again, under the next attempt."""
    leave(run, step)
    run.status[step] = status.PENDING
    run.uncounted[step] = run.uncounted.get(step, 0) + 1
    if run.journal is not None:
        # Whoever had it is gone, or leaves: the next one need not wait for them.
        run.journal.worker = ""
    if run.gates:
        drop_gate(state, run, step)
    if run.jobs:
        unpin(state, run, step)
    if state.leading:
        state.agenda.append((run, step))


def lost(state: ShardState, run: Run, event: StepLost) -> None:
    """Fold `StepLost`."""
    run.losses[event.step] = run.losses.get(event.step, 0) + 1
    _back(state, run, event.step)


def returned(state: ShardState, run: Run, event: StepReturned) -> None:
    """Fold `StepReturned`."""
    _back(state, run, event.step)


def keyed(state: ShardState, run: Run, event: StepKeyed) -> None:
    """Fold `StepKeyed`."""
    run.sticky[event.step] = event.key


def queued(state: ShardState, run: Run, event: StepQueued) -> None:
    """Fold `StepQueued`."""
    # Of a step that waited for its retry, too: the time for that has come.
    run.status[event.step] = status.PENDING
    run.due[event.step] = event.due_ms


def claimed(state: ShardState, run: Run, event: StepClaimed) -> None:
    """Fold `StepClaimed`."""
    run.claims[event.step] = event.worker


def unknown(state: ShardState, run: Run, event: StepUnknown) -> None:
    """Fold `StepUnknown`."""
    leave(run, event.step)
    run.status[event.step] = status.UNKNOWN
    if event.tolerated:
        run.tolerated.add(event.step)
    if run.gates:
        drop_gate(state, run, event.step)
    if run.jobs:
        unpin(state, run, event.step)
    run.errors[event.step] = StepError(
        "unknown", "its worker was lost after it had claimed the effect", False
    )
    if event.held:
        run.held[event.step] = event.handler
        if event.handler >= 0:
            call_for(state, run, event.handler, event.step)
        return
    ended(state, run, event.step, ok=event.tolerated, failed=not event.tolerated)


def skipped(state: ShardState, run: Run, event: StepSkipped) -> None:
    """Fold `StepSkipped`."""
    leave(run, event.step)
    run.status[event.step] = status.SKIPPED
    if run.gates:
        drop_gate(state, run, event.step)
    if event.worker and run.jobs:
        # It looked at its files and at itself: what follows is to see the same.
        pin(state, run, event.step, event.worker, None)
    if run.due:
        run.due.pop(event.step, None)
    ended(state, run, event.step, ok=False)


def cancelled(state: ShardState, run: Run, event: StepCancelled) -> None:
    """Fold `StepCancelled`."""
    leave(run, event.step)
    run.waits.pop(event.step, None)
    if run.held:
        run.held.pop(event.step, None)
    run.status[event.step] = status.CANCELLED
    if run.node_keys or run.family or run.gates:
        drop_key(state, run, event.step)
    if run.jobs:
        unpin(state, run, event.step)
    ended(state, run, event.step, ok=False)


def carried(state: ShardState, run: Run, event: StepCarried) -> None:
    """Fold `StepCarried`."""
    run.status[event.step] = status.COMPLETED
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[event.step] = output
    if run.program.compensation:
        note_completed(run, event.step)
    ended(state, run, event.step, ok=True)


def cached(state: ShardState, run: Run, event: StepCached) -> None:
    """Fold `StepCached`."""
    step = event.step
    drop_gate(state, run, step)
    run.status[step] = status.COMPLETED
    run.due.pop(step, None)
    run.errors.pop(step, None)
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[step] = output
    else:
        run.outputs.pop(step, None)
    if run.jobs:
        # No worker has done it: what it said counts, and the job is bound to none.
        pin(state, run, step, "", event.extra)
    if run.program.compensation:
        note_completed(run, step)
    ended(state, run, step, ok=True)


def resolved(state: ShardState, run: Run, event: StepResolved) -> None:
    """Fold `StepResolved`."""
    step = event.step
    state.remember(event.request_id, event.not_after_ms)
    del run.held[step]
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[step] = output
    if event.resolution == "retry":
        run.status[step] = status.PENDING
        run.uncounted[step] = run.attempt[step]
        run.first_ms.pop(step, None)
        if state.leading:
            state.agenda.append((run, step))
    elif event.resolution == "completed":
        run.status[step] = status.COMPLETED
        run.errors.pop(step, None)
        if run.program.compensation:
            note_completed(run, step)
        ended(state, run, step, ok=True)
    elif event.resolution == "skipped":
        run.status[step] = status.SKIPPED
        ended(state, run, step, ok=True)
    else:
        if event.resolution == "failed":
            run.status[step] = status.FAILED
        if event.tolerated:
            run.tolerated.add(step)
        ended(state, run, step, ok=event.tolerated, failed=not event.tolerated)


def sleep_started(state: ShardState, run: Run, event: SleepStarted) -> None:
    """Fold `SleepStarted`."""
    run.status[event.node] = status.WAITING
    run.due[event.node] = event.due_ms


def wait_started(state: ShardState, run: Run, event: WaitStarted) -> None:
    """Fold `WaitStarted`."""
    run.status[event.node] = status.WAITING
    run.waits[event.node] = event.signal
    if event.due_ms:
        run.due[event.node] = event.due_ms


def wait_ended(state: ShardState, run: Run, event: WaitEnded) -> None:
    """Fold `WaitEnded`."""
    node = event.node
    signal = run.waits.pop(node, None)
    run.due.pop(node, None)
    if event.outcome == "signal" and signal is not None:
        for index, kept in enumerate(run.signals):
            if kept.name == signal:
                del run.signals[index]
                break
    output = bytes(event.output)
    if output != EMPTY_MAP:
        run.outputs[node] = output
    run.status[node] = status.COMPLETED
    ended(state, run, node, ok=True)
