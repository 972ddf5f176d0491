"""Cancelling a run, and failing one: what waits ends, what runs is stopped.

Steps whose condition asks for it, as `always()` does, still run.
"""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.commands import Order
from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.evolve_code import LET_GO_TIMER
from headrace.coordinator.core.nodes import cancel_due_ms, is_compensating
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.waking import ask_to_let_go, lets_go, may_let_go
from headrace.errors import HeadraceError
from headrace.events import CancelRequested, NodeEnded, RunEnded, StepCancelled, StepResolved
from headrace.expressions import truthy
from headrace.messages import CancelRun, CancelStep


def cancel_run(
    tick: Tick,
    run: Run,
    reason: str,
    request: CancelRun | None = None,
    *,
    force: bool = False,
) -> None:
    """Cancel a run: stop what is dispatched, cancel what waits, let `always()` steps run.

    Compensations that have begun go on, and a workflow function is asked to let go. Asked a second
    time, or with *force*, it stops all of these, too.
    """
    if run.quarantined:
        _end_quarantined(tick, run, reason)
        return
    spared: list[int] = []
    asks = may_let_go(run) and not force
    if asks:
        spared = [run.program.code]
    elif not run.cancelling and run.tokens:
        # The condition is asked as if the run were cancelled already: `cancelled()` is true.
        spared = [step for step in sorted(run.tokens) if _wants_to_run(run, step, cancelling=True)]
    tick.emit(
        run,
        CancelRequested(
            reason,
            request.request_id if request else "",
            request.not_after_ms if request else 0,
            request.actor if request else "",
            spared=spared or None,
            gives_up=run.cancelling and bool(run.sagas),
            limits=_time_to_let_go(tick, run) if asks else _limits(tick, run),
        ),
    )
    _arm(tick, run)
    if run.state == status.PENDING:
        # It waits for its key and has not begun: nothing is to be stopped.
        tick.emit(run, RunEnded(status.CANCELLED, reason))
        tick.ended.append(run)
        return
    cancel_waiting(tick, run)
    if asks:
        ask_to_let_go(tick, run, reason, request.actor if request else "")


def _end_quarantined(tick: Tick, run: Run, reason: str) -> None:
    """The one thing that can be done about a blocked run. What it has running is stopped."""
    for step in sorted(run.tokens):
        cancel = CancelStep(run.key, step, run.attempt[step], reason)
        tick.orders.append(Order(run.program.namespace, "", cancel))
    tick.emit(run, RunEnded(status.CANCELLED, f"{reason}; it was blocked: {run.quarantined}"))
    tick.ended.append(run)


def fail_run(tick: Tick, run: Run, reason: str) -> None:
    """End a running run as FAILED, as its own timeout does."""
    if run.state == status.RUNNING and not run.cancelling and not run.quarantined:
        _fail(tick, run, reason)


def time_out(tick: Tick, run: Run) -> None:
    """The run's own timeout has passed: it fails, even if it is being cancelled already."""
    _fail(tick, run, "the run's timeout passed")


def _fail(tick: Tick, run: Run, reason: str) -> None:
    tick.emit(run, CancelRequested(reason, failed=True, limits=_limits(tick, run)))
    _arm(tick, run)
    cancel_waiting(tick, run)


def _limits(tick: Tick, run: Run) -> list[tuple[int, int]] | None:
    """Return (job, when what still runs in it is stopped) by `cancel-timeout-minutes`."""
    now_ms = tick.state.now_ms
    live = [job for job in sorted(run.jobs) if run.status[job] == status.RUNNING]
    found = [(job, cancel_due_ms(run, job, now_ms)) for job in live]
    return [(job, due_ms) for job, due_ms in found if due_ms] or None


def _time_to_let_go(tick: Tick, run: Run) -> list[tuple[int, int]] | None:
    due_ms = cancel_due_ms(run, 0, tick.state.now_ms)
    return [(LET_GO_TIMER, due_ms)] if due_ms else None


def _arm(tick: Tick, run: Run) -> None:
    for place in (*run.jobs, LET_GO_TIMER):
        if place in run.due:
            tick.timers.push(run.due[place], run.key, place)


def abandon(tick: Tick, run: Run) -> None:
    """The time of a function that was asked to let go is over: its run ends without it.

    Its worker is told to stop the turn; whatever it still says is refused.
    """
    if not lets_go(run):
        return
    step = run.program.code
    reason = f"{run.cancel_reason}; abandoned: its function did not let go in time"
    tick.emit(run, CancelRequested(reason))
    tick.stop_doomed(run)
    tick.emit(run, StepCancelled(step, run.attempt[step], "", reason))


def stop_job(tick: Tick, run: Run, job: int) -> None:
    """The time of a job in a cancelled run is over: whatever still runs in it is stopped."""
    if is_compensating(run, job):
        # What has completed is being undone: that is not cut short.
        return
    reason = "cancelled: its cancel-timeout-minutes are over"
    tick.emit(run, NodeEnded(job, status.CANCELLED, reason=reason))
    tick.stop_doomed(run)


def cancel_waiting(tick: Tick, run: Run) -> None:
    """Cancel what waits or is ready; what is dispatched gets an order to stop."""
    tick.stop_doomed(run)
    for instance in sorted(run.held):
        if run.status[instance] == status.UNKNOWN:
            # Nobody will find out any more.
            tick.emit(run, StepResolved(instance, "unknown", handler=run.held[instance]))
    given_up = any(saga.stopped for saga in run.sagas.values())
    for instance in range(len(run.status)):
        value = run.status[instance]
        if run.sagas and not given_up and run.undoes(instance):
            continue
        waits = value == status.WAITING or (
            value == status.PENDING
            and not run.waiting[instance]
            and (run.is_open(run.parent(instance)) or instance in run.handlers)
            and instance != 0
        )
        if waits and not _wants_to_run(run, instance):
            tick.emit(run, StepCancelled(instance, run.attempt[instance], "", run.cancel_reason))


def _wants_to_run(run: Run, instance: int, *, cancelling: bool = False) -> bool:
    """Tell whether a node's condition asks for it to run in a cancelled run."""
    node, _, _ = run.locate(instance)
    if node == run.program.code and lets_go(run):
        return True
    condition = run.program.condition[node]
    if run.program.implied[node] or condition is None:
        return False
    available = functions(run, instance, cancelling=cancelling)
    try:
        return truthy(condition.evaluate(Contexts(run, instance), available))
    except HeadraceError:
        return False
