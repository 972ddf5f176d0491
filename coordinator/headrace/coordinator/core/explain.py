"""Why a run waits: every non-terminal thing has a reason, an owner and, maybe, a deadline."""

from __future__ import annotations

import re
from typing import Final

from headrace.coordinator.core import status
from headrace.coordinator.core.evolve_code import LET_GO_TIMER
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.journal_views import journal_reasons
from headrace.coordinator.core.nodes import KINDS, gate_reason, held_reason, key_reason
from headrace.coordinator.core.since import step_times, told_ms, waits_since
from headrace.coordinator.core.state import Run, ShardState
from headrace.events import CancelRequested, CompensationStarted, RunPaused
from headrace.messages import Explanation, WaitReason, subjects

REASONS_MAX = 200
_OPEN: Final = re.compile(rb"[\x00-\x03]")
"""Status of what has not ended (see `status`): among 50,000 steps a few are looked for."""


def explain(state: ShardState, run: Run, facts: Facts | None = None) -> Explanation:
    """Return why *run* is where it is: one reason for each thing that it waits for."""
    name = subjects.split_key(run.key)[1]
    shown = status.NAMES[run.state]
    if status.is_final(run.state):
        return Explanation.of_ended(name, shown, run.ended_reason)
    reasons, steps = _reasons(state, run, facts or Facts(), REASONS_MAX)
    times = step_times(run) if steps else {}
    for instance, reason in steps.items():
        # A label may have been missing for longer than this step has needed it.
        reason.since_ms = max(reason.since_ms, waits_since(run, instance, times))
        if instance in run.sagas:
            reason.since_ms = told_ms(run, CompensationStarted, instance)
    return Explanation(run=name, state=shown, summary=_summary(run, reasons[0]), reasons=reasons)


def summary(state: ShardState, run: Run, facts: Facts) -> str:
    """Return the first reason of a run that has not ended, in words."""
    reasons, _ = _reasons(state, run, facts, 1)
    return _summary(run, reasons[0])


def _summary(run: Run, first: WaitReason) -> str:
    where = f"{first.path}: " if first.path else ""
    text = f"{where}{first.reason}"
    if run.patches is not None:
        event = run.patches.moves[-1].event
        text += f" (its definition was patched at event {event})"
    return text


def _reasons(
    state: ShardState, run: Run, facts: Facts, reasons_max: int
) -> tuple[list[WaitReason], dict[int, WaitReason]]:
    """Return all reasons, about *reasons_max* of them, and those of steps by instance."""
    reasons: list[WaitReason] = []
    steps: dict[int, WaitReason] = {}
    if run.quarantined:
        reasons.append(
            WaitReason(state="BLOCKED", reason=f"quarantined: {run.quarantined}", owner="operator")
        )
    if run.paused:
        reasons.append(_paused(run))
    if run.state == status.PENDING:
        reasons.append(
            gate_reason(state, run, -1)
            or key_reason(state, "", run.key_name, run.key, run.created_ms)
        )
    else:
        kind = run.program.kind
        for instance in _waiting(run):
            if len(reasons) >= reasons_max:
                break
            reason: WaitReason | None
            if instance in run.held:
                reason = held_reason(run, instance)
            else:
                reason = KINDS[kind[run.locate(instance)[0]]].why(state, run, instance, facts)
            if reason is not None:
                steps[instance] = reason
                reasons.append(reason)
    reasons += journal_reasons(run, state.now_ms, max(reasons_max - len(reasons), 0))
    if run.cancelling:
        reasons.append(
            WaitReason(
                state="CANCELLING",
                reason=f"being cancelled: {run.cancel_reason}",
                owner="worker",
                since_ms=told_ms(run, CancelRequested),
                deadline_ms=run.due.get(LET_GO_TIMER, 0),
            )
        )
    if not reasons:
        reasons.append(
            WaitReason(
                state=status.NAMES[run.state],
                reason="the coordinator is about to decide what follows",
                owner="coordinator",
            )
        )
    return reasons, steps


def _paused(run: Run) -> WaitReason:
    name = subjects.split_key(run.key)[1]
    why = f": {run.pause_reason}" if run.pause_reason else ""
    return WaitReason(
        state="PAUSED",
        reason=f"paused{why}; `flowctl resume {name}` goes on",
        owner="person",
        since_ms=told_ms(run, RunPaused),
    )


def _waiting(run: Run) -> list[int]:
    """Return the instances, in order, that something may be said of; the root only in a saga."""
    found = [match.start() for match in _OPEN.finditer(run.status)]
    if run.held or run.sagas:
        found = sorted({*found, *run.held, *run.sagas})
    return found if run.sagas or not found or found[0] else found[1:]
