"""What happens when a time comes. Timers are hints: each is checked against the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.advance import fail_node
from headrace.coordinator.core.requests import cancel_waiting
from headrace.coordinator.core.state import Run
from headrace.events import CancelRequested, WaitEnded
from headrace.plan import Wait

if TYPE_CHECKING:
    from headrace.coordinator.core.machine import Machine

_encode = msgspec.msgpack.Encoder().encode


def fire(machine: Machine, when_ms: int, key: str, instance: int) -> int:
    """Fire one timer if it still applies; return 1 if it did, else 0."""
    run = machine.state.runs.get(key)
    if run is None or run.state != status.RUNNING or run.quarantined:
        return 0
    if run.due.get(instance) != when_ms:
        return 0
    try:
        return _fire(machine, run, instance)
    except Exception as error:
        machine.quarantine(run, error)
        return 1


def _fire(machine: Machine, run: Run, instance: int) -> int:
    node, _, _ = run.locate(instance)
    program = run.program
    value = run.status[instance]
    if value == status.RUNNING:
        if instance == 0:
            machine.emit(run, CancelRequested("the run's timeout passed", failed=True))
            cancel_waiting(machine, run)
            return 1
        fail_node(machine, run, instance, "timeout", "its timeout passed")
        return 1
    if value == status.PENDING and not run.paused:
        fail_node(machine, run, instance, "schedule-timeout", "no worker took it in time")
        return 1
    if value != status.WAITING:
        return 0
    found = program.nodes[node]
    if program.kind[node] == kinds.TASK:
        machine.push_ready(run, instance, node)
    elif program.kind[node] == kinds.SLEEP:
        machine.emit(run, WaitEnded(instance, "slept"))
    elif isinstance(found, Wait):
        if found.has_default:
            payload = {"payload": found.default, "timed_out": True}
            if isinstance(found.default, dict):
                payload = {**found.default, **payload}
            machine.emit(run, WaitEnded(instance, "default", msgspec.Raw(_encode(payload))))
        else:
            name = run.waits.get(instance, found.signal)
            fail_node(machine, run, instance, "timeout", f"signal {name} did not come in time")
    return 1
