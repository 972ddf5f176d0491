"""What follows when a step has failed for good: `continue-on-error` and `on-failure`."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.deferral import plain
from headrace.coordinator.core.nodes.fields import is_tolerated
from headrace.coordinator.core.outcomes import outputs
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import StepCancelled, StepResolved
from headrace.plan import Task

_encode = msgspec.msgpack.Encoder().encode
RESOLUTIONS: Final = ("completed", "failed", "retry")
"""What a handler, or a person, may decide about a step."""


class Consequence(NamedTuple):
    """How the end of a step counts."""

    tolerated: bool = False
    skipped: bool = False
    handler: int = -1
    """What decides on the end; -1: it is decided."""
    aborts: bool = False


_NONE = Consequence()


def consequence(run: Run, instance: int, *, handled: bool = False) -> Consequence:
    """Return what the failure of *instance* leads to. *handled*: its handler has had its say."""
    if is_tolerated(run, instance):
        return Consequence(tolerated=True)
    node, shift, _ = run.locate(instance)
    policies = run.program.policies
    if not policies or node not in policies or run.cancelling:
        return _NONE
    policy, _ = policies[node]
    if policy.action == "skip":
        return Consequence(skipped=True)
    if policy.action == "abort":
        return Consequence(aborts=True)
    if policy.action == "run" and not handled:
        return Consequence(handler=free_handler(run, policy.handler + shift))
    return _NONE


def unknown_consequence(run: Run, instance: int) -> tuple[Consequence, bool]:
    """Return (what follows when nobody knows what became of a step, whether its end is open)."""
    node, shift, _ = run.locate(instance)
    task = run.program.nodes[node]
    assert isinstance(task, Task)
    if not run.cancelling and instance not in run.doomed:
        if task.on_unknown == "wait":
            return _NONE, True
        if task.on_unknown == "run":
            handler = free_handler(run, task.unknown_handler + shift)
            if handler >= 0:
                return Consequence(handler=handler), True
    found = consequence(run, instance)
    if found.skipped:
        # It may have taken effect: it stays UNKNOWN, and does not stop what needs it.
        found = Consequence(tolerated=True)
    return found, found.handler >= 0


def free_handler(run: Run, handler: int) -> int:
    """Return *handler*, or -1 when it has been run: it is asked once."""
    return -1 if handler in run.handlers else handler


def decide(tick: Tick, run: Run, step: int) -> None:
    """A step's handler has ended: let it decide, by its output `resolution`."""
    handler = run.held[step]
    if handler < 0 or not status.is_final(run.status[handler]):
        return
    if run.cancelling and run.status[step] != status.UNKNOWN:
        tick.emit(run, StepCancelled(step, run.attempt[step], "", run.cancel_reason))
        return
    found = _said(run, handler) if run.status[handler] == status.COMPLETED else {}
    resolution = found.pop("resolution", "")
    if resolution not in RESOLUTIONS or run.cancelling:
        # It could not find out, or has not said.
        resolution, found = "failed", {}
        if run.status[step] == status.UNKNOWN:
            resolution = "unknown"
    event = StepResolved(step, resolution, handler=handler)
    if resolution == "completed":
        event = msgspec.structs.replace(event, output=msgspec.Raw(_encode(plain(found))))
    resolve(tick, run, event)


def _said(run: Run, handler: int) -> dict[str, Any]:
    """Return the outputs of a handler; of a list of steps those of the last one."""
    node, shift, _ = run.locate(handler)
    children = run.program.children[node]
    return dict(outputs(run, children[-1] + shift if children else handler))


def resolve(tick: Tick, run: Run, event: StepResolved) -> None:
    """Decide on the open end of a step; a failure counts as its policies say."""
    aborts = False
    if event.resolution in ("failed", "unknown"):
        found = consequence(run, event.step, handled=True)
        aborts = found.aborts
        if found.skipped and event.resolution == "failed":
            event = msgspec.structs.replace(event, resolution="skipped")
        else:
            event = msgspec.structs.replace(event, tolerated=found.tolerated or found.skipped)
    error = run.errors.get(event.step)
    tick.emit(run, event)
    if aborts:
        reason = f"{error.type}: {error.message}" if error is not None else event.resolution
        abort(tick, run, event.step, reason)


def abort(tick: Tick, run: Run, instance: int, reason: str) -> None:
    """Have the run fail, as soon as what the tick has stated is worked off."""
    tick.aborted.append((run, f"{run.path(instance)}: {reason}"[:1_000]))
