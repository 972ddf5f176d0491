"""One run as its events tell it, with the rules that every history must keep.

A second, slower reading of what a run is: one record an instance, no counters, no bitmaps.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from headrace.plan import Group, Join, Loop, Node, Plan, Sleep, Task, Wait
from support.sim.family import Families
from support.sim.gates import Gates
from support.sim.instances import (
    CANCELLED,
    COMPLETED,
    DISPATCHED,
    DORMANT,
    FAILED,
    FINAL,
    HELD,
    PENDING,
    RUNNING,
    SKIPPED,
    STATES,
    UNKNOWN,
    WAITING,
    Instance,
)
from support.sim.jobs import Jobs
from support.sim.loops import Loops
from support.sim.turns import Functions

if TYPE_CHECKING:
    from support.sim.oracle import ShardOracle

__all__ = ["DISPATCHED", "RunModel"]


class RunModel(Jobs, Families, Gates, Loops, Functions):
    """See the module. `fault` reports a broken rule."""

    def __init__(self, shard: ShardOracle, key: str, plan: Plan, asks_for_more: bool) -> None:
        Jobs.__init__(self)
        Families.__init__(self)
        Gates.__init__(self)
        Functions.__init__(self)
        self.shard, self.key, self.plan = shard, key, plan
        self.world = shard.world
        self._asks_for_more = asks_for_more
        self.instances: list[Instance] = []
        self.events = 0
        self.state = "PENDING"
        self.paused = self.cancelling = False
        self.requests: set[str] = set()
        self.chunks: list[bytes] = []
        self.received: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.evicted = False
        self.run_key = self.digest = ""
        self.variables: dict[str, str] | None = None
        self.carried: dict[str, bytes] = {}
        self.time_ms = 0
        self.grow(0, None)
        self.own = Instance(-1, plan.nodes[0], None)

    def fault(self, text: str) -> None:
        """Report a broken rule."""
        self.shard.fault(f"run {self.key}, event {self.events}: {text}")

    def grow(self, first: int, loop: Instance | None) -> Instance:
        """Add instances for the plan's nodes from *first* on: all, or one iteration's body; return
        the outermost."""
        nodes = self.plan.nodes
        base = len(self.instances)
        for node in range(first, first + nodes[first].size):
            above = loop
            if node > first:
                above = self.instances[base + nodes[node].parent - first]
            made = Instance(base + node - first, nodes[node], above)
            if above is not None and not (isinstance(above.node, Loop) and above is not loop):
                (above.dormant if made.node.dormant else above.children).append(made)
                made.grown = len(above.children) if above is loop else 0
            self.instances.append(made)
        for node in range(first, first + nodes[first].size):
            if node > first:
                made = self.instances[base + node - first]
                made.needs = [self.instances[base + need - first] for need in nodes[node].needs]
        return self.instances[base]

    # -- events --------------------------------------------------------------------------------

    def apply(self, event: list[Any], time_ms: int) -> None:
        """Apply one event: its tag, then its fields."""
        self.events += 1
        self.time_ms = time_ms
        kind = event[0]
        if kind == 28:
            return
        if self.state in ("COMPLETED", "FAILED", "CANCELLED"):
            self.fault(f"event {kind} after the run's end")
        handler = _HANDLERS.get(kind)
        if handler is None:
            self.fault(f"unexpected event {event}")
        else:
            handler(self, event)

    def _step(self, event: list[Any], attempt: int) -> Instance:
        """Return the dispatched step that an outcome of *attempt* is for."""
        step = self.instances[event[1]]
        if step.state != DISPATCHED or step.attempt != attempt:
            self.fault(
                f"outcome {event[0]} of attempt {attempt} of step {step.index}, which is "
                f"{step.state} at attempt {step.attempt}"
            )
        return step

    def finish(self, found: Instance, state: str) -> None:
        """An instance has its final state."""
        found.state = state
        self.drop(found)

    def wire(self, found: Instance) -> int:
        """Return the number by which others know an instance."""
        return found.index

    def _created(self, event: list[Any]) -> None:
        held, key = event[12], event[13]
        self.run_key, self.digest, self.variables = key, event[2], event[21]
        self.carried = event[16] or {}
        self.born(event[17])
        self.given = event[3]
        if self.variables is not None:
            self.shard.registry.pinned(self, self.variables)
        if not held:
            self._begin()

    def _begin(self) -> None:
        self.state = "RUNNING"
        self.instances[0].state = RUNNING
        if self.run_key:
            self.shard.hold_real(self.run_key, (self.key, -1))

    def _started(self, event: list[Any]) -> None:
        if self.state != "PENDING":
            self.fault("started twice")
        self.use_gates(self.own)
        self._begin()

    def _scheduled(self, event: list[Any]) -> None:
        step, attempt, token = self.instances[event[1]], event[2], event[3]
        if not isinstance(step.node, Task) or step.state not in (PENDING, WAITING):
            self.fault(f"step {step.index} scheduled while {step.state}")
        if attempt != step.attempt + 1:
            self.fault(f"step {step.index}: attempt {attempt} after {step.attempt}")
        if self.state != "RUNNING" or self.paused:
            self.fault(f"step {step.index} scheduled in a run that is {self.state}, or paused")
        if self.cancelling and not self._asks_for_more and not self._undoes(step):
            self.fault(f"step {step.index} scheduled after the cancel")
        if step.retry_ms > self.time_ms:
            self.fault(f"step {step.index}: retry {step.retry_ms - self.time_ms} ms early")
        if step.path in self.carried and not self._undoes(step):
            self.fault(f"step {step.index} runs, and its result is carried over")
        self.may_begin(step)
        self.use_gates(step)
        self.check_lane(step, event[4])
        self.shard.token(token)
        step.state, step.attempt, step.claimed = DISPATCHED, attempt, False
        step.token = token

    def _carried(self, event: list[Any]) -> None:
        """It has the result that the run before had, and does not run."""
        step, known = self.instances[event[1]], self.carried.get(self.instances[event[1]].path)
        if step.state != PENDING or known is None or self.shard.decoded(known) != event[2]:
            self.fault(f"{step.index} ({step.state}) takes over {event[2]}, is given {known!r}")
        self.may_begin(step)
        self.note_completed(step)
        self.finish(step, COMPLETED)

    def _stopped(self, event: list[Any]) -> None:
        """It stops steps in the background, and ends when they have ended."""
        found = self.instances[event[1]]
        if found.state not in (PENDING, WAITING):
            self.fault(f"{found.index} stops others while {found.state}")
        if sorted(event[2]) != self._to_stop(found):
            self.fault(f"{found.index} stops {event[2]}, and should {self._to_stop(found)}")
        self.may_begin(found)
        found.state = RUNNING

    def _to_stop(self, found: Instance) -> list[int]:
        """Return what goes on of the steps that it stops."""
        base, cancels = found.index - self.node_index(found), getattr(found.node, "cancels", ())
        return [base + at for at in cancels if self.instances[base + at].state not in FINAL]

    def _queued(self, event: list[Any]) -> None:
        """It is ready, and fails unless it is scheduled in time."""
        step, due_ms = self.instances[event[1]], event[2]
        node = step.node
        if isinstance(node, Loop):
            # A broadcast waits for the workers that its one task is for.
            node = next(n for n in self.plan.nodes if n.parent >= 0 and self._is(n.parent, node))
        limit_ms = (node.schedule_timeout_ms or 0) if isinstance(node, Task) else 0
        if step.state not in (PENDING, WAITING) or due_ms != self.time_ms + limit_ms:
            self.fault(f"step {step.index} is queued until {due_ms} while {step.state}")
        step.due_ms = due_ms

    def _is(self, number: int, node: Node) -> bool:
        return self.plan.nodes[number] is node

    def _undoes(self, step: Instance) -> bool:
        """It is part of a compensation."""
        found: Instance | None = step
        while found is not None and found.step is None:
            found = found.parent
        node = found.step.node if found is not None and found.step is not None else None
        return isinstance(node, Task) and self.plan.nodes[node.compensate] is found.node

    def may_begin(self, found: Instance) -> None:
        """Check that what is before and around it lets it begin."""
        if found.called:
            return
        late = [need.index for need in found.needs if need.state not in FINAL]
        if late and not self._one_is_enough(found):
            self.fault(f"{found.index} begins before {late} have ended")
        if found.parent is not None and not found.parent.open:
            self.fault(f"{found.index} begins in a container that is {found.parent.state}")

    def _one_is_enough(self, found: Instance) -> bool:
        """Its trigger rule lets it begin before all that it needs has ended."""
        rule = found.node.trigger_rule
        if rule == "one_success":
            return any(need.state == COMPLETED or need.tolerated for need in found.needs)
        return rule == "one_failed" and any(
            need.state in (FAILED, UNKNOWN, SKIPPED) and not need.tolerated for need in found.needs
        )

    def _completed(self, event: list[Any]) -> None:
        step = self._step(event, event[2])
        if step is self.function:
            self.check_result(event[6])
        else:
            self.shard.check_output(self.key, step.index, event[2], event[3], event[6])
        self.note_completed(step)
        self.note_result(step, event[6])
        self.finish(step, COMPLETED)

    def _failed(self, event: list[Any]) -> None:
        index, attempt, worker, retry_ms, tolerated = (
            event[1],
            event[2],
            event[3],
            event[7],
            event[10],
        )
        if worker or self.instances[index].state == DISPATCHED:
            step = self._step(event, attempt)
        else:
            step = self.instances[index]
            if step.state not in (PENDING, WAITING):
                self.fault(f"{index} fails while {step.state}")
            if step.due_ms > self.time_ms and event[6][0].endswith("timeout"):
                self.fault(f"{index}: timeout {step.due_ms - self.time_ms} ms early")
        skipped, handler = event[11], event[12]
        # Each attempt has a lock of its own.
        self.drop(step)
        if retry_ms:
            step.state, step.retry_ms = WAITING, retry_ms
        elif handler >= 0:
            self.hold(step, handler)
        else:
            step.tolerated = tolerated or skipped
            self.finish(step, SKIPPED if skipped else FAILED)

    def _lost(self, event: list[Any]) -> None:
        step = self._step(event, event[2])
        if step.claimed and event[0] == 6:
            self.fault(f"step {step.index} is at-most-once and claimed, and is to run again")
        if event[0] == 6:
            self.shard.lost(self.key, step.index, event[2])
        step.state = PENDING
        self.drop(step)

    def _claimed(self, event: list[Any]) -> None:
        step = self._step(event, event[2])
        if step.claimed:
            self.fault(f"step {step.index} is claimed twice")
        step.claimed = True

    def _unknown(self, event: list[Any]) -> None:
        step = self._step(event, event[2])
        if not step.claimed:
            self.fault(f"step {step.index} is UNKNOWN, and was never claimed")
        self.drop(step)
        if event[5]:
            self.hold(step, event[6])
            return
        step.tolerated = event[4]
        self.finish(step, UNKNOWN)

    def _skipped(self, event: list[Any]) -> None:
        found = self.instances[event[1]]
        if found.state != PENDING:
            self.fault(f"{found.index} skipped while {found.state}")
        self.finish(found, SKIPPED)

    def _cancelled(self, event: list[Any]) -> None:
        found = self.instances[event[1]]
        if found.state in FINAL or found.state == DORMANT:
            self.fault(f"{found.index} cancelled while {found.state}")
        self.finish(found, CANCELLED)

    def _node_started(self, event: list[Any]) -> None:
        found = self.instances[event[1]]
        if found.state not in (PENDING, WAITING):
            self.fault(f"container {found.index} begins while {found.state}")
        self.may_begin(found)
        self.use_gates(found)
        found.state, found.due_ms = RUNNING, event[2]

    def _node_ended(self, event: list[Any]) -> None:
        found, state, reason = self.instances[event[1]], STATES[event[2]], event[4]
        if found.state != RUNNING:
            self.fault(f"container {found.index} ends while {found.state}")
        if reason.startswith("timeout") and found.due_ms > self.time_ms:
            self.fault(f"container {found.index}: timeout early")
        if state == COMPLETED and (alive := self._to_stop(found)):
            self.fault(f"{found.index} ends, and what it stops goes on: {alive}")
        if not self.saga_ended(found) and not reason:
            self.check_join(found, state)
        found.tolerated, found.detached = event[5], event[6]
        self.finish(found, state)
        if not found.detached and any(child.state not in FINAL for child in found.children):
            self.close(found)

    def check_join(self, found: Instance, state: str) -> None:
        """A container completes when its join says so, and not before."""
        node, children = found.node, found.children
        each = isinstance(node, Loop) and node.kind != "repeat"
        total = found.total if each else len(children)
        ok = sum(c.state == COMPLETED or c.tolerated for c in children)
        bad = sum(c.state in (FAILED, UNKNOWN) and not c.tolerated for c in children)
        ended = sum(c.state in FINAL for c in children)
        join = node.join if isinstance(node, Group | Loop) else Join()
        if join.kind == "all":
            if state == COMPLETED and (bad or ended < total):
                self.fault(f"container {found.index} completes with {ended} of {total}, {bad} bad")
        else:
            needed = join.needed(total)
            if (state == COMPLETED) != (ok >= needed):
                self.fault(f"container {found.index} is {state}: {ok} of {needed} succeeded")
            if join.losers == "await" and ended < total:
                self.fault(f"container {found.index} does not await its losers")

    def close(self, container: Instance) -> None:
        """Nothing below begins any more; what is dispatched may still end."""
        for child in (*container.children, *container.dormant):
            if child.state == DORMANT:
                continue
            if child.state in (PENDING, WAITING, RUNNING, HELD):
                self.finish(child, CANCELLED)
            if child.state != DISPATCHED:
                child.detached = False
                self.close(child)

    def node_index(self, found: Instance) -> int:
        """Return the number of an instance's node."""
        for index, node in enumerate(self.plan.nodes):
            if node is found.node:
                return index
        raise AssertionError("a node of another plan")

    def _sleep_started(self, event: list[Any]) -> None:
        found, due_ms = self.instances[event[1]], event[2]
        assert isinstance(found.node, Sleep)
        self.may_begin(found)
        wanted_ms = self.time_ms + int(found.node.duration_ms or 0)
        if found.node.until is not None:
            wanted_ms = int(datetime.fromisoformat(found.node.until).timestamp() * 1_000)
        if found.state != PENDING or due_ms != wanted_ms:
            self.fault(f"sleep {found.index} begins while {found.state}, due {due_ms}")
        found.state, found.due_ms = WAITING, due_ms

    def _wait_started(self, event: list[Any]) -> None:
        found = self.instances[event[1]]
        assert isinstance(found.node, Wait)
        self.may_begin(found)
        if found.state != PENDING:
            self.fault(f"wait {found.index} begins while {found.state}")
        found.state, found.signal, found.due_ms = WAITING, event[2], event[3]

    def _wait_ended(self, event: list[Any]) -> None:
        found, outcome = self.instances[event[1]], event[2]
        if found.state != WAITING:
            self.fault(f"wait {found.index} ends while {found.state}")
        if outcome == "signal":
            taken = self.taken[found.signal] = self.taken.get(found.signal, 0) + 1
            if taken > self.received.get(found.signal, 0):
                self.fault(f"wait {found.index} took a signal {found.signal} that never came")
        elif not found.due_ms or found.due_ms > self.time_ms:
            self.fault(f"{found.index}: timer {found.due_ms - self.time_ms} ms early")
        self.finish(found, COMPLETED)

    def _signal(self, event: list[Any]) -> None:
        self.request(event[3])
        self.received[event[1]] = self.received.get(event[1], 0) + 1

    def request(self, request: str) -> None:
        if request and request in self.requests:
            self.fault(f"request {request} took effect twice")
        self.requests.add(request)

    def _cancel(self, event: list[Any]) -> None:
        self.request(event[2])
        self.cancelling = True
        self.gives_up = self.gives_up or event[7]

    def _pause(self, event: list[Any]) -> None:
        self.request(event[1])
        self.paused = True

    def _resume(self, event: list[Any]) -> None:
        self.request(event[1])
        self.paused = False

    def _ended(self, event: list[Any]) -> None:
        busy = [found.index for found in self.instances if found.state == DISPATCHED]
        if busy:
            self.fault(f"the run ends, and {busy} are dispatched")
        self.state = STATES[event[1]].upper()
        for found in self.instances:
            self.drop(found)
        if self.run_key:
            self.shard.release_real(self.run_key, (self.key, -1))

    def _quarantined(self, event: list[Any]) -> None:
        self.fault(f"quarantined: {event[1]}")


_HANDLERS = {
    1: RunModel._created,
    2: RunModel._started,
    3: RunModel._scheduled,
    4: RunModel._completed,
    5: RunModel._failed,
    6: RunModel._lost,
    7: RunModel._lost,
    8: RunModel._claimed,
    9: RunModel._unknown,
    10: RunModel._skipped,
    11: RunModel._cancelled,
    12: RunModel._carried,
    13: RunModel._node_started,
    14: RunModel._node_ended,
    16: RunModel.expanded,
    17: RunModel._sleep_started,
    18: RunModel._wait_started,
    19: RunModel._wait_ended,
    20: RunModel._signal,
    21: RunModel._cancel,
    22: RunModel._pause,
    23: RunModel._resume,
    24: RunModel._ended,
    25: RunModel.job_restarted,
    26: RunModel.job_moved,
    27: RunModel.key_granted,
    31: RunModel._queued,
    29: RunModel._quarantined,
    30: RunModel.key_requested,
    34: RunModel.cached,
    35: RunModel.key_lost,
    36: RunModel._stopped,
    37: RunModel.keyed,
    40: RunModel.child_started,
    41: RunModel.child_ended,
    42: RunModel.child_stopped,
    50: RunModel.resolved,
    51: RunModel.compensation_started,
    52: RunModel.compensation_scheduled,
    53: RunModel.restarted,
    60: RunModel.turn_reported,
    61: RunModel.entry_begun,
    62: RunModel.entry_ended,
    63: RunModel.entry_tried,
    64: RunModel.child_run_begun,
    65: RunModel.turn_ended,
    66: RunModel.turn_due,
    68: RunModel.labels_changed,
    69: RunModel.entry_accepted,
    70: RunModel.entry_beat,
}
