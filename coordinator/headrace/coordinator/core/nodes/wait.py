"""Waits: for a signal of a name, kept ones included."""

from __future__ import annotations

from typing import Any

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.fields import deadline_ms, evaluated
from headrace.coordinator.core.nodes.kind import NodeKind
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.waking import deliver_to_journal, wake
from headrace.errors import InvalidRequest
from headrace.events import WaitEnded, WaitStarted
from headrace.expressions import to_string
from headrace.messages import WaitReason
from headrace.payloads import reference
from headrace.plan import Wait

_encode = msgspec.msgpack.Encoder().encode
CORRELATION_KEY_MAX = 256


class WaitKind(NodeKind):
    """It waits for a signal, or for its timeout."""

    name = "wait"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Begin to wait; a signal that came early is taken at once."""
        wait = run.program.nodes[node]
        assert isinstance(wait, Wait)
        key = to_string(evaluated(run, instance, wait.correlation_key))
        if wait.correlation_key and not 0 < len(key) <= CORRELATION_KEY_MAX:
            text = f"a correlation key has 1 to {CORRELATION_KEY_MAX} characters, not {len(key)}"
            raise InvalidRequest(text)
        name = signal_address(to_string(evaluated(run, instance, wait.signal)), key)
        due_ms = deadline_ms(run, instance, wait.timeout_ms, tick.state.now_ms)
        tick.emit(run, WaitStarted(instance, name, due_ms))
        if due_ms:
            tick.timers.push(due_ms, run.key, instance)
        deliver_signals(tick, run)

    def due(self, tick: Tick, run: Run, instance: int) -> None:
        """No signal came: the default, if there is one."""
        wait = run.program.nodes[run.locate(instance)[0]]
        assert isinstance(wait, Wait)
        if not wait.has_default:
            name = run.waits.get(instance, wait.signal)
            fail_node(tick, run, instance, "timeout", f"signal {name} did not come in time")
            return
        payload = {"payload": wait.default, "timed_out": True}
        if isinstance(wait.default, dict):
            payload = {**wait.default, **payload}
        tick.emit(run, WaitEnded(instance, "default", msgspec.Raw(_encode(payload))))

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """It waits for a signal."""
        if run.status[instance] != status.WAITING:
            return None
        return WaitReason(
            path=run.path(instance),
            state="WAITING",
            owner="person",
            deadline_ms=run.due.get(instance, 0),
            reason=f"waiting for signal {run.waits[instance]}",
        )


def signal_address(name: str, key: str) -> str:
    """Return by what a wait and a signal find each other: the name, and the key if there is one."""
    return f"{name}:{key}" if key else name


def deliver_signals(tick: Tick, run: Run) -> None:
    """Give kept signals to waits of their name, oldest to oldest; each is delivered once."""
    if run.journal is not None:
        if deliver_to_journal(tick, run):
            wake(tick, run)
        return
    if not run.signals or not run.waits or run.state != status.RUNNING:
        return
    for signal in list(run.signals):
        for instance in sorted(run.waits):
            if run.waits[instance] == signal.name and run.status[instance] == status.WAITING:
                payload = msgspec.msgpack.decode(signal.payload)
                wait = run.program.nodes[run.locate(instance)[0]]
                assert isinstance(wait, Wait)
                result: dict[str, Any] = {
                    "payload": payload,
                    "actor": signal.actor,
                    "received_ms": signal.time_ms,
                    "timed_out": False,
                }
                if isinstance(payload, dict) and reference(payload) is None:
                    result = {**payload, **result}
                if wait.approval:
                    result = {"approved": True, "by": signal.actor, "comment": ""} | result
                tick.emit(run, WaitEnded(instance, "signal", msgspec.Raw(_encode(result))))
                break
