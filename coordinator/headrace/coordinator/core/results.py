"""Workers' results and claims: recorded once, fenced by attempt and token."""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.nodes import Consequence, abort, consequence, timeout_ms
from headrace.coordinator.core.state import EMPTY_MAP, UNREADABLE, Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError
from headrace.events import (
    StepCancelled,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepReturned,
    StepSkipped,
)
from headrace.messages import (
    Claim,
    ClaimReply,
    ResultBatch,
    ResultStatus,
    StepError,
    StepResult,
)
from headrace.plan import Task
from headrace.retry import RetryAt

WORKER_STOPPED = "worker-stopped"
"""The worker's drain took longer than its grace and it killed the step: nobody's failure."""
_decode = msgspec.msgpack.Decoder().decode
_RECORDED = frozenset(
    {status.COMPLETED, status.FAILED, status.CANCELLED, status.WAITING, status.SKIPPED}
)


def record(tick: Tick, batch: ResultBatch) -> list[int]:
    """Record a worker's results; return the indexes of those refused as stale.

    A result that is in the log already is neither refused nor recorded again.
    """
    refused: list[int] = []
    runs = tick.state.runs
    worker = f"{batch.worker}.{batch.incarnation}"
    for index, result in enumerate(batch.results):
        run = runs.get(result.run)
        step = result.step
        if run is not None and run.patches is not None:
            step = run.instance(step)
            result = msgspec.structs.replace(result, step=step)
        if run is None or not 0 <= step < len(run.status) or run.quarantined:
            refused.append(index)
            continue
        if (
            run.tokens.get(step) != result.token
            or run.attempt[step] != result.attempt
            or run.status[step] != status.DISPATCHED
        ):
            recorded = run.attempt[step] == result.attempt and run.status[step] in _RECORDED
            if not recorded:
                refused.append(index)
            continue
        if len(result.output) > 1 and not is_readable(result.output):
            error = StepError("invalid-output", "the worker sent outputs that are no map", False)
            plain = msgspec.structs.replace(result, output=msgspec.Raw(EMPTY_MAP))
            _failed(tick, run, worker, plain, error)
        elif result.status == ResultStatus.COMPLETED:
            tick.emit(
                run,
                StepCompleted(
                    step,
                    result.attempt,
                    worker,
                    result.started_ms,
                    result.ended_ms,
                    result.output,
                    result.extra,
                ),
            )
        else:
            _not_completed(tick, run, worker, result)
    return refused


def is_readable(output: msgspec.Raw) -> bool:
    """Tell whether outputs are a map that can be read: what is in the log must be."""
    try:
        return isinstance(_decode(output), dict)
    except UNREADABLE:
        return False


def _not_completed(tick: Tick, run: Run, worker: str, result: StepResult) -> None:
    step, attempt = result.step, result.attempt
    stopped = result.error is not None and result.error.type == WORKER_STOPPED
    if result.status == ResultStatus.RETURNED or stopped:
        if step in run.doomed:
            tick.emit(run, StepCancelled(step, attempt, worker, run.cancel_reason))
        else:
            tick.emit(run, StepReturned(step, attempt, worker))
    elif step in run.doomed and (result.status == ResultStatus.CANCELLED or step in run.stopped):
        tick.emit(run, StepCancelled(step, attempt, worker, run.cancel_reason))
    elif result.status == ResultStatus.SKIPPED:
        tick.emit(run, StepSkipped(step, "condition", worker))
    else:
        error = result.error or StepError("cancelled", "the worker stopped it")
        _failed(tick, run, worker, result, error)


def _failed(tick: Tick, run: Run, worker: str, result: StepResult, error: StepError) -> None:
    step = result.step
    node = run.program.nodes[run.locate(step)[0]]
    assert isinstance(node, Task)
    retry_ms = 0
    cancelling = run.cancelling and not run.undoes(step)
    if node.retry is not None and step not in run.doomed and not cancelling:
        now_ms = tick.state.now_ms
        decision = node.retry.decide(
            attempt=result.attempt - run.uncounted.get(step, 0),
            error_type=error.type,
            retryable=error.retryable,
            now_ms=now_ms,
            first_started_ms=run.first_ms.get(step, now_ms),
            jitter=tick.chance(),
        )
        if isinstance(decision, RetryAt):
            # 0 means "final" in the event, so a retry at once is one millisecond away.
            retry_ms = max(decision.due_ms, now_ms, 1)
            if _out_of_time(run, step, node, retry_ms):
                retry_ms = 0
    found = Consequence() if retry_ms else consequence(run, step)
    tick.emit(
        run,
        StepFailed(
            step,
            result.attempt,
            worker,
            result.started_ms,
            result.ended_ms,
            error,
            retry_ms,
            result.output,
            result.extra,
            found.tolerated,
            found.skipped,
            found.handler,
        ),
    )
    if retry_ms:
        tick.timers.push(retry_ms, run.key, step)
    elif found.aborts:
        abort(tick, run, step, f"{error.type}: {error.message}")


def _out_of_time(run: Run, step: int, node: Task, retry_ms: int) -> bool:
    """Tell whether the step's whole time (`timeout`, all attempts) is over by *retry_ms*."""
    try:
        limit_ms = timeout_ms(run, step, node.timeout_ms)
    except HeadraceError:
        return False
    return bool(limit_ms) and retry_ms - run.first_ms.get(step, retry_ms) >= limit_ms


def claim(tick: Tick, request: Claim, start_by_ms: int) -> ClaimReply:
    """Log a claim of an at-most-once attempt, once; the same life of a worker may ask again."""
    run = tick.state.runs.get(request.run)
    step = request.step if run is None else run.instance(request.step)
    worker = f"{request.worker}.{request.incarnation}"
    if run is None or not 0 <= step < len(run.status) or step in run.doomed or run.quarantined:
        return ClaimReply(False)
    if run.tokens.get(step) != request.token or run.attempt[step] != request.attempt:
        return ClaimReply(False)
    holder = run.claims.get(step)
    if holder is None:
        tick.emit(run, StepClaimed(step, request.attempt, worker, start_by_ms))
        return ClaimReply(True, start_by_ms)
    return ClaimReply(holder == worker, start_by_ms if holder == worker else 0)
