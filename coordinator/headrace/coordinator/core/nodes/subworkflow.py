"""Subworkflows: another workflow, as a run of its own.

The child's id is made of the run, the instance and the attempt: whatever is sent twice, it is one
run. Not of the path: a loop that begins anew has the same paths again, and other children.
"""

from __future__ import annotations

import hashlib

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.deferral import plain
from headrace.coordinator.core.facts import Facts
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.fields import deadline_ms, evaluated
from headrace.coordinator.core.nodes.kind import NodeKind
from headrace.coordinator.core.state import EMPTY_MAP, Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.errors import InvalidRequest
from headrace.events import ChildEnded, ChildStarted
from headrace.messages import WaitReason, subjects
from headrace.plan import Subworkflow, check_inputs

_encode = msgspec.msgpack.Encoder().encode
_NAME_KEPT = 100
"""Characters of the parent's id that begin the child's."""


class SubworkflowKind(NodeKind):
    """It waits for the end of the run that it has begun."""

    name = "subworkflow"

    def start(self, tick: Tick, run: Run, instance: int, node: int) -> None:
        """Begin the child. Its input is checked here, where somebody is there to be told."""
        found = run.program.nodes[node]
        assert isinstance(found, Subworkflow)
        plan = run.program.subplans[node][1]
        given = check_inputs(plan, plain(evaluated(run, instance, found.inputs)))
        data = _encode(given) if given else EMPTY_MAP
        if len(data) > tick.limits.input_bytes:
            raise InvalidRequest(
                f"an input of {len(data)} bytes; the limit is {tick.limits.input_bytes}"
            )
        attempt = run.attempt[instance] + 1
        child = child_name(run.key, instance, attempt)
        due_ms = 0
        if not found.detached:
            due_ms = deadline_ms(run, instance, found.timeout_ms, tick.state.now_ms)
        raw = msgspec.Raw(data)
        tick.emit(run, ChildStarted(instance, attempt, child, raw, found.detached, due_ms))
        if due_ms:
            tick.timers.push(due_ms, run.key, instance)
        if found.detached:
            output = msgspec.Raw(_encode({"run": child}))
            tick.emit(run, ChildEnded(instance, status.COMPLETED, output))

    def due(self, tick: Tick, run: Run, instance: int) -> None:
        """The child did not end in time; with this failure goes its cancel."""
        assert run.family is not None
        child = run.family.children[instance]
        fail_node(tick, run, instance, "timeout", f"child run {child} did not end in time")

    def why(self, state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
        """It waits for its child."""
        if run.status[instance] != status.WAITING or run.family is None:
            return None
        child = run.family.children[instance]
        return WaitReason(
            path=run.path(instance),
            state="WAITING",
            owner=f"run {child}",
            deadline_ms=run.due.get(instance, 0),
            reason=f"waits for child run {child}",
        )


def child_name(parent: str, instance: int, attempt: int) -> str:
    """Return the id of a child: the beginning of its parent's, and a digest of what makes it."""
    return child_id(parent, f"{parent}#{instance}.{attempt}")


def child_id(parent: str, place: str) -> str:
    """Return the id of the child that *parent* begins at *place*."""
    name = subjects.split_key(parent)[1][:_NAME_KEPT]
    return f"{name}-{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}"
