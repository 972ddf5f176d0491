"""The fold: how each event of a run changes the state. It cannot refuse and decides nothing.

Followers, restarts and time travel run only this. While leading, it also notes on the agenda
what became enabled, so that deciding costs what changed, not what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from headrace.coordinator.core import evolve_children as children
from headrace.coordinator.core import evolve_code as code
from headrace.coordinator.core import evolve_nodes as nodes
from headrace.coordinator.core import evolve_patch as patch
from headrace.coordinator.core import evolve_runs as runs
from headrace.coordinator.core import evolve_steps as steps
from headrace.coordinator.core.state import Run, ShardState
from headrace.events import (
    CancelRequested,
    ChildEnded,
    ChildRunBegun,
    ChildStarted,
    ChildStopped,
    CompensationScheduled,
    CompensationStarted,
    EntryAccepted,
    EntryBeat,
    EntryBegun,
    EntryEnded,
    EntryTried,
    Expanded,
    JobMoved,
    JobRestarted,
    KeyGranted,
    KeyLost,
    KeyRequested,
    LabelsChanged,
    NodeEnded,
    NodeRestarted,
    NodeStarted,
    PlanPatched,
    RunCreated,
    RunEnded,
    RunEvent,
    RunPaused,
    RunQuarantined,
    RunResumed,
    RunStarted,
    RunUnblocked,
    SegmentArchived,
    SignalReceived,
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
    StepsStopped,
    StepUnknown,
    TurnDue,
    TurnEnded,
    TurnReported,
    WaitEnded,
    WaitStarted,
)


def evolve(state: ShardState, run: Run, event: RunEvent) -> None:
    """Apply *event* to *run* in place, and to what the shard derives from it."""
    run.events += 1
    EVOLVE[type(event)](state, run, event)


EVOLVE: Final[dict[type, Callable[[ShardState, Run, Any], None]]] = {
    RunCreated: runs.run_created,
    RunStarted: runs.run_started,
    StepScheduled: steps.scheduled,
    StepCompleted: steps.completed,
    StepFailed: steps.failed,
    StepLost: steps.lost,
    StepKeyed: steps.keyed,
    StepQueued: steps.queued,
    StepReturned: steps.returned,
    StepClaimed: steps.claimed,
    StepUnknown: steps.unknown,
    StepSkipped: steps.skipped,
    StepCancelled: steps.cancelled,
    StepCarried: steps.carried,
    StepCached: steps.cached,
    NodeStarted: nodes.node_started,
    StepsStopped: nodes.steps_stopped,
    NodeEnded: nodes.node_ended,
    Expanded: nodes.expanded,
    SleepStarted: steps.sleep_started,
    WaitStarted: steps.wait_started,
    WaitEnded: steps.wait_ended,
    SignalReceived: runs.signal,
    CancelRequested: runs.cancel,
    RunPaused: runs.paused,
    RunResumed: runs.resumed,
    RunEnded: runs.run_ended,
    JobRestarted: nodes.job_restarted,
    JobMoved: nodes.job_moved,
    KeyGranted: nodes.key_granted,
    KeyRequested: nodes.key_requested,
    KeyLost: nodes.key_lost,
    SegmentArchived: runs.segment_archived,
    RunQuarantined: runs.quarantined,
    ChildStarted: children.child_started,
    ChildEnded: children.child_ended,
    ChildStopped: children.child_stopped,
    StepResolved: steps.resolved,
    CompensationStarted: nodes.compensation_started,
    CompensationScheduled: nodes.compensation_scheduled,
    NodeRestarted: nodes.node_restarted,
    PlanPatched: patch.plan_patched,
    TurnReported: code.turn_reported,
    EntryBegun: code.entry_begun,
    EntryEnded: code.entry_ended,
    EntryTried: code.entry_tried,
    EntryAccepted: code.entry_accepted,
    EntryBeat: code.entry_beat,
    ChildRunBegun: code.child_begun,
    TurnDue: code.turn_due,
    TurnEnded: code.turn_ended,
    RunUnblocked: code.unblocked,
    LabelsChanged: code.labels_changed,
}
