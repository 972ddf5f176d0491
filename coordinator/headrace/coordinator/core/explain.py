"""Why a run waits: every non-terminal thing has a reason, an owner and, maybe, a deadline."""

from __future__ import annotations

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


def explain(state: ShardState, run: Run, facts: Facts | None = None) -> Explanation:
    """Return why *run* is where it is: one reason for each thing that it waits for."""
    facts = facts or Facts()
    name = subjects.split_key(run.key)[1]
    shown = status.NAMES[run.state]
    if status.is_final(run.state):
        return Explanation.of_ended(name, shown, run.ended_reason)
    reasons: list[WaitReason] = []
    if run.quarantined:
        reasons.append(
            WaitReason(state="BLOCKED", reason=f"quarantined: {run.quarantined}", owner="operator")
        )
    if run.paused:
        why = f": {run.pause_reason}" if run.pause_reason else ""
        reasons.append(
            WaitReason(
                state="PAUSED",
                reason=f"paused{why}; `flowctl resume {name}` goes on",
                owner="person",
                since_ms=told_ms(run, RunPaused),
            )
        )
    if run.state == status.PENDING:
        reasons.append(
            gate_reason(state, run, -1)
            or key_reason(state, "", run.key_name, run.key, run.created_ms)
        )
    else:
        kind = run.program.kind
        times = step_times(run)
        for instance in range(0 if run.sagas else 1, len(run.status)):
            if len(reasons) >= REASONS_MAX:
                break
            reason: WaitReason | None
            if instance in run.held:
                reason = held_reason(run, instance)
            else:
                reason = KINDS[kind[run.locate(instance)[0]]].why(state, run, instance, facts)
            if reason is not None:
                # A label may have been missing for longer than this step has needed it.
                reason.since_ms = max(reason.since_ms, waits_since(run, instance, times))
                if instance in run.sagas:
                    reason.since_ms = told_ms(run, CompensationStarted, instance)
                reasons.append(reason)
    reasons += journal_reasons(run, state.now_ms, REASONS_MAX - len(reasons))
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
                state=shown,
                reason="the coordinator is about to decide what follows",
                owner="coordinator",
            )
        )
    first = reasons[0]
    where = f"{first.path}: " if first.path else ""
    summary = f"{where}{first.reason}"
    if run.patches is not None:
        event = run.patches.moves[-1].event
        summary += f" (its definition was patched at event {event})"
    return Explanation(run=name, state=shown, summary=summary, reasons=reasons)
