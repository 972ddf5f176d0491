"""What groups, loops and choices have in common: they begin, count children's ends, and end."""

from __future__ import annotations

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.nodes import sagas
from headrace.coordinator.core.nodes.fields import cancel_due_ms, deadline_ms, is_tolerated
from headrace.coordinator.core.nodes.kind import NodeKind
from headrace.coordinator.core.scopes import Counts
from headrace.coordinator.core.state import EMPTY_MAP, Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError
from headrace.events import NodeEnded, NodeStarted
from headrace.plan import Choice, Group, Loop

_encode = msgspec.msgpack.Encoder().encode


class Container(NodeKind):
    """A node with children."""

    def child_ended(self, tick: Tick, run: Run, instance: int) -> None:
        """End the container, once its children have decided how."""
        if run.sagas and instance in run.sagas:
            ended = run.sagas[instance].status
            if sagas.proceed(tick, run, instance):
                self._end(tick, run, instance, ended, sagas.closing_reason(run, instance))
            return
        node = run.program.nodes[run.locate(instance)[0]]
        verdict = _verdict(run, node, run.counts[instance])
        if verdict < 0 or (run.sagas and sagas.is_compensating(run, instance)):
            return
        may_undo = run.program.compensates and verdict != status.COMPLETED
        if may_undo and sagas.begin(tick, run, instance, verdict):
            return
        self._end(tick, run, instance, verdict, "")

    def _end(self, tick: Tick, run: Run, instance: int, verdict: int, reason: str) -> None:
        counts = run.counts[instance]
        node = run.program.nodes[run.locate(instance)[0]]
        ended = verdict
        if not reason and verdict == status.FAILED and not counts.bad:
            reason = f"join: {counts.ok} of {counts.total} succeeded, {counts.needed} were needed"
        output = EMPTY_MAP
        if verdict != status.CANCELLED:
            try:
                output = self.output(tick, run, instance)
            except HeadraceError as error:
                ended, reason = status.FAILED, f"outputs: {error}"
        unfinished = counts.ended < counts.total
        detached = unfinished and _losers(node) == "detach" and ended == status.COMPLETED
        tolerated = ended == status.FAILED and is_tolerated(run, instance)
        tick.emit(run, NodeEnded(instance, ended, msgspec.Raw(output), reason, tolerated, detached))
        if run.doomed:
            tick.stop_doomed(run)

    def output(self, tick: Tick, run: Run, instance: int) -> bytes:
        """Return the declared outputs in msgpack; raises `HeadraceError`."""
        return EMPTY_MAP


def start_container(tick: Tick, run: Run, instance: int, node: Group | Choice) -> None:
    """Begin a group or a choice now, and its timeout with it."""
    due_ms = deadline_ms(run, instance, node.timeout_ms, tick.state.now_ms)
    if run.cancelling and (limit_ms := cancel_due_ms(run, instance, tick.state.now_ms)):
        due_ms = min(due_ms or limit_ms, limit_ms)
    tick.emit(run, NodeStarted(instance, due_ms))
    if due_ms:
        tick.timers.push(due_ms, run.key, instance)


def _losers(node: object) -> str:
    return node.join.losers if isinstance(node, Group | Loop) else "cancel"


def _verdict(run: Run, node: object, counts: Counts) -> int:
    """Return the final status that a container has reached, or -1."""
    finished = counts.ended >= counts.total
    if counts.needed >= 0:
        join = node.join.kind if isinstance(node, Group | Loop) else "all"
        await_all = _losers(node) == "await" and not finished
        if join == "all":
            # A matrix with fail-fast: one failure settles it.
            if counts.bad:
                return status.FAILED
        elif counts.ok >= counts.needed:
            return -1 if await_all else status.COMPLETED
        elif counts.total - (counts.ended - counts.ok) < counts.needed:
            if run.cancelling and finished:
                return status.CANCELLED
            return -1 if await_all else status.FAILED
    if not finished:
        return -1
    if counts.bad:
        return status.FAILED
    if counts.cancelled:
        return status.CANCELLED
    return status.COMPLETED
