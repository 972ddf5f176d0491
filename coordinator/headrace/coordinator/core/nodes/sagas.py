"""Compensation: a group that has failed undoes what completed in it, then ends or begins anew.

One compensation after the other, the last completed step first (H. Garcia-Molina, K. Salem,
"Sagas", 1987). It begins when nothing below the group runs any more, no child run either. No cancel
stops it but the second.
"""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.nodes.fields import deadline_ms
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import CompensationScheduled, CompensationStarted, NodeRestarted
from headrace.plan import Group, OnFailure, Task

_UNDOING = ("compensate", "compensate-and-retry")
_BAD = (status.FAILED, status.UNKNOWN)


def begin(tick: Tick, run: Run, group: int, verdict: int, reason: str = "") -> bool:
    """Begin to compensate instead of ending *group* with *verdict*, if that is what is wanted."""
    node = run.program.nodes[run.locate(group)[0]]
    if not isinstance(node, Group) or group in run.sagas:
        return False
    cause, retry = -1, False
    if run.cancelling and not run.failing:
        if group or node.on_cancel != "compensate":
            return False
    else:
        if verdict == status.CANCELLED and not run.failing:
            return False
        policy, cause = _wanted(run, group, node, own=bool(reason))
        if policy is None:
            return False
        retry = (
            policy.action == "compensate-and-retry"
            and run.rounds.get(group, 0) + 1 < policy.rounds
            and not run.cancelling
        )
    if not retry and not any(run.is_below(step, group) for step in _undoable(run, group)):
        return False
    tick.emit(run, CompensationStarted(group, verdict, cause, reason, retry))
    tick.stop_doomed(run)
    return True


def _undoable(run: Run, group: int) -> list[int]:
    """Return what may be compensated: what has completed, and what runs and may complete yet."""
    steps = list(run.undo)
    if run.tokens:
        compensation = run.program.compensation
        steps += [step for step in run.tokens if run.locate(step)[0] in compensation]
    return steps


def _wanted(run: Run, group: int, node: Group, *, own: bool) -> tuple[OnFailure | None, int]:
    """Return (the policy by which *group* compensates, if any; the step that failed first or -1).

    The group's own policy holds unless all that has failed below has another one of its own; a
    step may ask for it where the group does not.
    """
    policies = run.program.policies
    found = node.on_failure
    mine = found if found is not None and found.action in _UNDOING else None
    first, overridden = -1, False
    for instance in sorted(run.errors):
        if (
            instance == group
            or run.status[instance] not in _BAD
            or instance in run.tolerated
            or not run.is_below(instance, group)
        ):
            continue
        index = run.locate(instance)[0]
        policy, scope = policies.get(index, (None, -1))
        if policy is None or policy.action not in _UNDOING:
            overridden = overridden or policy is not None
            continue
        if mine is not None or _around(run, instance, scope) == group:
            return mine or policy, instance
        first = instance if first < 0 else first
    return (None if overridden and not own else mine), first


def _around(run: Run, instance: int, node: int) -> int:
    """Return the instance of *node* at or around *instance*."""
    while instance >= 0 and run.locate(instance)[0] != node:
        instance = run.parent(instance)
    return instance


def is_compensating(run: Run, group: int) -> bool:
    """Tell whether *group*, or a group below it, compensates: it must not end before."""
    return any(run.is_below(saga, group) for saga in run.sagas)


def proceed(tick: Tick, run: Run, group: int) -> bool:
    """Begin the next compensation, or the group anew; return True when the group is to end."""
    saga = run.sagas[group]
    if saga.current >= 0 and not status.is_final(run.status[saga.current]):
        return False
    if any(run.is_below(step, group) for step in run.tokens):
        return False
    if not saga.stopped and stopping(run, group):
        return False
    if not saga.stopped:
        step = next((step for step in reversed(run.undo) if run.is_below(step, group)), -1)
        if step >= 0:
            node, shift, _ = run.locate(step)
            tick.emit(run, CompensationScheduled(run.program.compensation[node] + shift, step))
            return False
    if saga.retry and not end_reason(run, group) and not run.cancelling:
        due_ms = _next_deadline_ms(tick, run, group)
        tick.emit(run, NodeRestarted(group, due_ms))
        if due_ms:
            tick.timers.push(due_ms, run.key, group)
        return False
    above = run.parent(group)
    while above >= 0:
        if above in run.due:
            # It may have passed meanwhile, and was put off.
            tick.timers.push(run.due[above], run.key, above)
        above = run.parent(above)
    return True


def stopping(run: Run, group: int) -> list[int]:
    """Return the subworkflows below *group* whose child was cancelled and has not ended."""
    if run.family is None:
        return []
    return [at for at in run.family.stopping.values() if run.is_below(at, group)]


def _next_deadline_ms(tick: Tick, run: Run, group: int) -> int:
    """Return the deadline of the next round; the run's own is that of all rounds."""
    if group == 0:
        return run.sagas[group].due_ms
    node = run.program.nodes[run.locate(group)[0]]
    return deadline_ms(run, group, node.timeout_ms, tick.state.now_ms)


def closing_reason(run: Run, group: int) -> str:
    """Return why a group ends as it does; empty when what has failed below says it."""
    saga = run.sagas[group]
    why = end_reason(run, group) if saga.retry or (group and run.uncompensated) else ""
    if not why:
        return saga.reason
    cause = saga.reason
    error = run.errors.get(saga.cause)
    if not cause and error is not None:
        head = "compensation: " if group else ""
        cause = f"{head}{run.path(saga.cause)}: {error.type}: {error.message}"
    return "; ".join(filter(None, (cause or "compensation", why)))


def end_reason(run: Run, group: int) -> str:
    """Return why a group cannot begin anew after its compensation; empty: it can."""
    left = [step for step in run.uncompensated if run.is_below(step, group)]
    if left:
        return "not compensated: " + ", ".join(run.path(step) for step in left)
    for step in sorted(run.descendants(group)):
        if _may_not_run_again(run, step):
            why = f"{run.path(step)} has run and may run once"
            return f"it cannot begin anew, because {why}"
    return ""


def _may_not_run_again(run: Run, step: int) -> bool:
    index = run.locate(step)[0]
    node = run.program.nodes[index]
    if not isinstance(node, Task) or node.effect != "at-most-once" or run.program.undoes[index]:
        return False
    if run.status[step] == status.CANCELLED:
        # Stopped in the middle of it, perhaps.
        return run.attempt[step] > run.uncounted.get(step, 0)
    undone = index in run.program.compensation
    return bool(run.attempt[step]) and (
        run.status[step] in _BAD or (run.status[step] == status.COMPLETED and not undone)
    )
