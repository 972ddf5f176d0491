"""Sleeps: for a time, or until one."""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.durations import moment_ms, parse_duration_ms
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes.fields import evaluated
from headrace.coordinator.core.nodes.kind import NodeKind
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.events import SleepStarted, WaitEnded
from headrace.expressions import to_string
from headrace.messages import WaitReason
from headrace.plan import Sleep


class SleepKind(NodeKind):
    """It waits for a time and does nothing else."""

    name = "sleep"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Arm its timer."""
        sleep = run.program.nodes[node]
        assert isinstance(sleep, Sleep)
        due_ms = _sleep_due(tick, run, instance, sleep)
        tick.emit(run, SleepStarted(instance, due_ms))
        tick.timers.push(due_ms, run.key, instance)

    def due(self, tick: Tick, run: Run, instance: int) -> None:
        """It has slept."""
        tick.emit(run, WaitEnded(instance, "slept"))

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """It sleeps."""
        if run.status[instance] != status.WAITING:
            return None
        due_ms = run.due.get(instance, 0)
        left_ms = max(due_ms - state.now_ms, 0)
        return WaitReason(
            path=run.path(instance),
            state="WAITING",
            owner="timer",
            deadline_ms=due_ms,
            reason=f"sleeping, {left_ms / 1000:.1f} s left",
        )


def _sleep_due(tick: Tick, run: Run, instance: int, sleep: Sleep) -> int:
    if sleep.until is not None:
        return moment_ms(to_string(evaluated(run, instance, sleep.until)))
    value = sleep.duration_ms
    if isinstance(value, str):
        return tick.state.now_ms + parse_duration_ms(evaluated(run, instance, value))
    return tick.state.now_ms + (value or 0)
