"""What follows from what happened: nodes that begin or are skipped, containers that end.

Works off the agenda that the fold fills, so each decision costs what changed. Every decision is
an event; a task that may run is pushed to the ready queue, which is an index, not a fact.
"""

from __future__ import annotations

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.endings import end_run
from headrace.coordinator.core.nodes import (
    KINDS,
    decide,
    fail_node,
    is_wanted,
    push_plain,
    push_ready,
    rule_holds,
)
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError
from headrace.events import StepCancelled, StepSkipped


def advance(tick: Tick) -> None:
    """Work off the agenda until nothing more follows."""
    agenda = tick.state.agenda
    while agenda:
        run, at = agenda.popleft()
        if run.quarantined:
            continue
        try:
            if at >= 0:
                _enable(tick, run, at)
            else:
                _settle(tick, run, ~at)
        except Exception as error:
            # A fault of ours that this run has met: it is blocked, with the reason; the shard
            # and all other runs go on.
            tick.quarantine(run, error)


def _enable(tick: Tick, run: Run, instance: int) -> None:
    """A node whose needs have ended: run it, skip it, or cancel it."""
    value, program = run.status[instance], run.program
    if run.state != status.RUNNING or run.waiting[instance]:
        return
    if (
        run.handlers
        or instance >= program.size
        or run.status[program.parent[instance]] != status.RUNNING
    ) and not run.may_begin(instance):
        # Of most that is known without the call; the root has no parent, and may always begin.
        return
    node = instance if instance < program.size else run.locate(instance)[0]
    if value != status.PENDING:
        if (
            value == status.WAITING
            and program.kind[node] == kinds.TASK
            and run.is_ready(instance, tick.state.now_ms)
        ):
            # Its retry is due; it was queued for a worker that is not its job's any more.
            push_ready(tick, run, instance, node)
        return
    plain = program.plain[node]
    if plain is not None and not (
        run.taint[instance] or run.cancelling or run.paused or run.carried is not None
    ):
        # The short way; what follows would decide the same.
        push_plain(tick, run, instance, plain)
        return
    parent = program.parent[node]
    if parent >= 0 and program.kind[parent] == kinds.CHOICE:
        # It was chosen when the choice began.
        _begin(tick, run, instance, node)
        return
    try:
        wanted = is_wanted(run, instance, node)
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))
        return
    if wanted:
        _begin(tick, run, instance, node)
    elif run.cancelling and not run.undoes(instance):
        tick.emit(run, StepCancelled(instance, run.attempt[instance], "", run.cancel_reason))
    else:
        reason = "needs" if run.taint[instance] & 3 else "condition"
        if node in program.rule:
            reason = "condition" if rule_holds(run, instance, program.rule[node]) else "rule"
        tick.emit(run, StepSkipped(instance, reason))


def _begin(tick: Tick, run: Run, instance: int, node: int) -> None:
    """Begin a node that is to run."""
    try:
        KINDS[run.program.kind[node]].start(tick, run, instance, node)
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))


def _settle(tick: Tick, run: Run, container: int) -> None:
    """Look whether a container, or the run, has ended, or a handler has decided."""
    if run.held and container in run.held:
        decide(tick, run, container)
        return
    if run.status[container] == status.RUNNING:
        kind = run.program.kind[run.locate(container)[0]]
        KINDS[kind].child_ended(tick, run, container)
        # If that was the root's end, the agenda has it again.
        return
    end_run(tick, run)
