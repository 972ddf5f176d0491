"""What follows from what happened: nodes that begin or are skipped, containers that end.

Works off the agenda that the fold fills, so each decision costs what changed. Every decision is
an event; a task that may run is pushed to the ready queue, which is an index, not a fact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.contexts import Contexts, functions, outputs
from headrace.coordinator.core.deferral import plain
from headrace.coordinator.core.durations import moment_ms, parse_duration_ms
from headrace.coordinator.core.expand import ITEMS_MAX, expand_items
from headrace.coordinator.core.state import EMPTY_MAP, Counts, Run
from headrace.errors import HeadraceError, InvalidRequest
from headrace.events import (
    Expanded,
    KeyRequested,
    NodeEnded,
    NodeStarted,
    RunEnded,
    SleepStarted,
    StepCancelled,
    StepCarried,
    StepFailed,
    StepSkipped,
    WaitEnded,
    WaitStarted,
)
from headrace.expressions import Opaque, OpaqueValue, resolve, to_number, to_string, truthy
from headrace.messages import StepError
from headrace.payloads import reference
from headrace.plan import Choice, Concurrency, Group, Loop, Sleep, Task, Wait

if TYPE_CHECKING:
    from headrace.coordinator.core.machine import Machine

_encode = msgspec.msgpack.Encoder().encode
EXPANSION_PART = 2_000
"""Items in one `Expanded` event, so that no event outgrows an append."""
EXPANSION_PART_BYTES = 256 * 1024
EXPANSION_BYTES_MAX = 16 * 1024 * 1024
"""All items of one loop together."""
OUTPUT_LEAVES_MAX = 100
KEY_LENGTH_MAX = 512


def advance(machine: Machine) -> None:
    """Work off the agenda until nothing more follows."""
    agenda = machine.state.agenda
    while agenda:
        run, at = agenda.popleft()
        if run.quarantined:
            continue
        try:
            if at >= 0:
                _enable(machine, run, at)
            else:
                _settle(machine, run, ~at)
        except Exception as error:
            # A fault of ours that this run has met: it is blocked, with the reason; the shard
            # and all other runs go on.
            machine.quarantine(run, error)


def _enable(machine: Machine, run: Run, instance: int) -> None:
    """A node whose needs have ended: run it, skip it, or cancel it."""
    value = run.status[instance]
    if run.state != status.RUNNING or run.waiting[instance] or not run.may_begin(instance):
        return
    node, _, _ = run.locate(instance)
    if value == status.WAITING and run.program.kind[node] == kinds.TASK:
        if run.is_ready(instance, machine.state.now_ms):
            # Its retry is due; it was queued for a worker that is not its job's any more.
            machine.push_ready(run, instance, node)
        return
    if value != status.PENDING:
        return
    parent = run.parent(instance)
    if parent >= 0 and run.program.kind[run.locate(parent)[0]] == kinds.CHOICE:
        # Its branch was chosen when the choice began; only a takeover comes here.
        begin(machine, run, instance, node)
        return
    try:
        wanted = _wanted(run, instance, node)
    except HeadraceError as error:
        fail_node(machine, run, instance, "expression", str(error))
        return
    if wanted:
        begin(machine, run, instance, node)
    elif run.cancelling:
        machine.emit(run, StepCancelled(instance, run.attempt[instance], "", run.cancel_reason))
    else:
        reason = "needs" if run.taint[instance] else "condition"
        machine.emit(run, StepSkipped(instance, reason))


def _wanted(run: Run, instance: int, node: int) -> bool:
    """Evaluate the node's condition; `success()` is implied unless a status function is there."""
    program = run.program
    if program.implied[node] and (run.taint[instance] & 1 or run.cancelling):
        return False
    condition = program.condition[node]
    if condition is None:
        return True
    return truthy(condition.evaluate(Contexts(run, instance), functions(run, instance)))


def begin(machine: Machine, run: Run, instance: int, node: int) -> None:
    """Begin a node that is to run."""
    kind = run.program.kind[node]
    if kind == kinds.TASK:
        if run.carried is not None:
            carried = run.carried.get(run.path(instance))
            if carried is not None:
                machine.emit(run, StepCarried(instance, msgspec.Raw(carried)))
                return
        machine.push_ready(run, instance, node)
        return
    found = run.program.nodes[node]
    try:
        if isinstance(found, Group):
            _begin_group(machine, run, instance, found)
        elif isinstance(found, Loop):
            _begin_loop(machine, run, instance, found)
        elif isinstance(found, Wait):
            _begin_wait(machine, run, instance, found)
        elif isinstance(found, Sleep):
            due_ms = _sleep_due(machine, run, instance, found)
            machine.emit(run, SleepStarted(instance, due_ms))
            machine.timers.push(due_ms, run.key, instance)
        else:
            _begin_choice(machine, run, instance, node)
    except HeadraceError as error:
        fail_node(machine, run, instance, "expression", str(error))


def _evaluated(run: Run, instance: int, value: Any) -> Any:
    return resolve(value, Contexts(run, instance), functions(run, instance))


def timeout_ms(run: Run, instance: int, value: int | str | None) -> int:
    """Return a node's timeout in ms (0: none); an expression gives minutes, as on GitHub."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    return parse_duration_ms(_evaluated(run, instance, value), unit_ms=60_000)


def concurrency(run: Run, instance: int, wanted: Concurrency) -> tuple[str, int, int]:
    """Return (key, limit, mode) of a concurrency block; keys are per namespace."""
    group = to_string(_evaluated(run, instance, wanted.group))
    mode = (1 if wanted.cancel_in_progress else 0) | (2 if wanted.queue == "single" else 0)
    if len(group) > KEY_LENGTH_MAX:
        raise InvalidRequest(f"a concurrency group of {len(group)} characters: {group[:80]}…")
    return f"{run.program.namespace}/{group}", max(wanted.limit, 1), mode


def _begin_group(machine: Machine, run: Run, instance: int, group: Group) -> None:
    if group.concurrency is not None and instance not in run.node_keys:
        key, limit, mode = concurrency(run, instance, group.concurrency)
        if _holds_already(run, instance, key):
            fail_node(
                machine,
                run,
                instance,
                "deadlock",
                f"what is around it holds concurrency group {key.partition('/')[2]} itself",
            )
            return
        machine.emit(run, KeyRequested(instance, key, limit, mode))
        return
    start_group(machine, run, instance, group)


def _holds_already(run: Run, instance: int, key: str) -> bool:
    """Tell whether the run, or a group around *instance*, holds the key that it would wait for."""
    if run.key_name == key:
        return True
    above = run.parent(instance)
    while above >= 0:
        if run.node_keys.get(above, ("", ""))[0] == key:
            return True
        above = run.parent(above)
    return False


def start_group(machine: Machine, run: Run, instance: int, group: Group) -> None:
    """Begin a group that holds its key, or needs none."""
    limit_ms = timeout_ms(run, instance, group.timeout_ms)
    due_ms = machine.state.now_ms + limit_ms if limit_ms else 0
    machine.emit(run, NodeStarted(instance, due_ms))
    if due_ms:
        machine.timers.push(due_ms, run.key, instance)


def _begin_choice(machine: Machine, run: Run, instance: int, node: int) -> None:
    shift = instance - node
    children = run.program.children[node]
    chosen = next((child for child in children if _wanted(run, child + shift, child)), -1)
    limit_ms = timeout_ms(run, instance, run.program.nodes[node].timeout_ms)
    due_ms = machine.state.now_ms + limit_ms if limit_ms else 0
    machine.emit(run, NodeStarted(instance, due_ms))
    if due_ms:
        machine.timers.push(due_ms, run.key, instance)
    for child in children:
        if child != chosen:
            machine.emit(run, StepSkipped(child + shift, "branch"))
    if chosen >= 0:
        begin(machine, run, chosen + shift, chosen)


def _begin_loop(machine: Machine, run: Run, instance: int, loop: Loop) -> None:
    found = _evaluated(run, instance, loop.items)
    if isinstance(found, Opaque):
        raise OpaqueValue(found)
    items, labels = expand_items(loop, plain(found))
    size = run.program.nodes[run.locate(instance)[0] + 1].size
    if len(run.status) + len(items) * size > machine.limits.nodes:
        raise InvalidRequest(
            f"{len(items)} iterations of {size} nodes: a run has at most {machine.limits.nodes}"
        )
    window = _window(_evaluated(run, instance, loop.max_parallel))
    needed = -1 if loop.join.kind == "all" else loop.join.needed(len(items))
    fail_fast = truthy(_evaluated(run, instance, loop.fail_fast))
    limit_ms = timeout_ms(run, instance, loop.timeout_ms)
    due_ms = machine.state.now_ms + limit_ms if limit_ms else 0
    for first, last in _expansion_parts(items):
        machine.emit(
            run,
            Expanded(
                instance,
                first,
                items[first:last],
                len(items),
                labels[first:last] if labels is not None else None,
                window,
                fail_fast,
                needed,
                due_ms,
            ),
        )
    if due_ms:
        machine.timers.push(due_ms, run.key, instance)


def _window(value: Any) -> int:
    """Return `max-parallel` as a number; 0: no limit."""
    if value is None or value == "":
        return 0
    number = to_number(value)
    if not 1 <= number <= ITEMS_MAX or number != int(number):
        raise InvalidRequest(f"max-parallel is a whole number from 1 on, not {value!r:.80}")
    return int(number)


def _expansion_parts(items: list[Any]) -> list[tuple[int, int]]:
    """Return [first, last) of each `Expanded` event, so that no event outgrows an append."""
    parts: list[tuple[int, int]] = []
    first = size = total = 0
    for index, item in enumerate(items):
        length = len(_encode(item))
        total += length
        if index > first and (
            size + length > EXPANSION_PART_BYTES or index - first >= EXPANSION_PART
        ):
            parts.append((first, index))
            first, size = index, 0
        size += length
    if total > EXPANSION_BYTES_MAX:
        raise InvalidRequest(f"items of {total} bytes; the limit is {EXPANSION_BYTES_MAX}")
    parts.append((first, len(items)))
    return parts


def _sleep_due(machine: Machine, run: Run, instance: int, sleep: Sleep) -> int:
    if sleep.until is not None:
        return moment_ms(to_string(_evaluated(run, instance, sleep.until)))
    value = sleep.duration_ms
    if isinstance(value, str):
        return machine.state.now_ms + parse_duration_ms(_evaluated(run, instance, value))
    return machine.state.now_ms + (value or 0)


def _begin_wait(machine: Machine, run: Run, instance: int, wait: Wait) -> None:
    name = to_string(_evaluated(run, instance, wait.signal))
    limit_ms = timeout_ms(run, instance, wait.timeout_ms)
    due_ms = machine.state.now_ms + limit_ms if limit_ms else 0
    machine.emit(run, WaitStarted(instance, name, due_ms))
    if due_ms:
        machine.timers.push(due_ms, run.key, instance)
    deliver_signals(machine, run)


def deliver_signals(machine: Machine, run: Run) -> None:
    """Give kept signals to waits of their name, oldest to oldest; each is delivered once."""
    if not run.signals or not run.waits or run.state != status.RUNNING:
        return
    for signal in list(run.signals):
        for instance in sorted(run.waits):
            if run.waits[instance] == signal.name and run.status[instance] == status.WAITING:
                payload = msgspec.msgpack.decode(signal.payload)
                result: dict[str, Any] = {
                    "payload": payload,
                    "actor": signal.actor,
                    "received_ms": signal.time_ms,
                    "timed_out": False,
                }
                if isinstance(payload, dict) and reference(payload) is None:
                    result = {**payload, **result}
                machine.emit(run, WaitEnded(instance, "signal", msgspec.Raw(_encode(result))))
                break


def fail_node(
    machine: Machine, run: Run, instance: int, kind: str, message: str, *, ended_ms: int = 0
) -> None:
    """End a node that has not been dispatched as FAILED."""
    node = run.program.nodes[run.locate(instance)[0]]
    tolerated = is_tolerated(run, instance)
    if isinstance(node, Group | Loop | Choice) and run.status[instance] == status.RUNNING:
        machine.emit(
            run,
            NodeEnded(instance, status.FAILED, reason=f"{kind}: {message}", tolerated=tolerated),
        )
        machine.stop_doomed(run)
        return
    now_ms = ended_ms or machine.state.now_ms
    error = StepError(kind, message, False)
    machine.emit(
        run,
        StepFailed(instance, run.attempt[instance], "", now_ms, now_ms, error, tolerated=tolerated),
    )


def is_tolerated(run: Run, instance: int) -> bool:
    """Evaluate `continue-on-error`."""
    value = run.program.nodes[run.locate(instance)[0]].continue_on_error
    if isinstance(value, bool):
        return value
    try:
        return truthy(_evaluated(run, instance, value))
    except HeadraceError:
        # The step has failed already; a broken expression must not turn that into success.
        return False


# --- ends --------------------------------------------------------------------------------------


def _settle(machine: Machine, run: Run, container: int) -> None:
    """Look whether a container, or the run, has ended."""
    if run.status[container] != status.RUNNING:
        _end_run(machine, run)
        return
    counts = run.counts[container]
    node = run.program.nodes[run.locate(container)[0]]
    verdict = _verdict(run, node, counts)
    if verdict < 0:
        return
    ended, reason = verdict, ""
    if verdict == status.FAILED and not counts.bad:
        reason = f"join: {counts.ok} of {counts.total} succeeded, {counts.needed} were needed"
    output = EMPTY_MAP
    if isinstance(node, Group) and node.outputs and verdict != status.CANCELLED:
        try:
            output = _encode(plain(_evaluated(run, container, node.outputs)))
            if len(output) > machine.limits.output_bytes:
                raise InvalidRequest(
                    f"{len(output)} bytes; the limit is {machine.limits.output_bytes}"
                )
        except HeadraceError as error:
            ended, reason = status.FAILED, f"outputs: {error}"
    unfinished = counts.ended < counts.total
    detached = unfinished and _losers(node) == "detach" and ended == status.COMPLETED
    tolerated = ended == status.FAILED and is_tolerated(run, container)
    machine.emit(run, NodeEnded(container, ended, msgspec.Raw(output), reason, tolerated, detached))
    if run.doomed:
        machine.stop_doomed(run)
    if container == 0:
        _end_run(machine, run)


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


def _end_run(machine: Machine, run: Run) -> None:
    """End the run once its root has ended and nothing of it runs any more."""
    root = run.status[0]
    if run.state != status.RUNNING or not status.is_final(root) or run.active or run.detached:
        return
    state = root
    reason = run.ended_reason
    if run.cancelling and (root != status.COMPLETED or run.failing):
        state = status.FAILED if run.failing else status.CANCELLED
        reason = run.cancel_reason
    elif root == status.SKIPPED:
        state = status.COMPLETED
    if not reason and state in (status.FAILED, status.CANCELLED):
        reason = failure_reason(run, state)
    output = _run_output(run) if state == status.COMPLETED else EMPTY_MAP
    if len(output) > machine.limits.output_bytes:
        # Nobody declared it; the steps' own outputs are there to be read.
        output = EMPTY_MAP
    machine.emit(run, RunEnded(state, reason, msgspec.Raw(output)))
    machine.ended.append(run)


def failure_reason(run: Run, ended: int = status.FAILED) -> str:
    """Return ``path: type: message`` of the first node that failed (was cancelled) for good."""
    for instance in sorted(run.errors):
        if run.status[instance] == ended and instance not in run.tolerated:
            error = run.errors[instance]
            return f"{run.path(instance)}: {error.type}: {error.message}"[:1_000]
    for instance, value in enumerate(run.status):
        if value == status.UNKNOWN:
            return f"{run.path(instance)}: its worker was lost after it had claimed the effect"
    return ""


def _run_output(run: Run) -> bytes:
    """Return the run's output: the root's `outputs`, else those of the nodes that end the graph."""
    own = run.outputs.get(0)
    if own is not None:
        return own
    program = run.program
    leaves = [child for child in program.children[0] if not program.dependents[child]]
    if len(leaves) == 1 and isinstance(program.nodes[leaves[0]], Task):
        return run.outputs.get(leaves[0], EMPTY_MAP)
    if len(leaves) > OUTPUT_LEAVES_MAX:
        return EMPTY_MAP
    children = leaves if program.plan.dialect == "tasks" else program.children[0]
    found = {program.nodes[child].name: outputs(run, child) for child in children}
    found = {name: value for name, value in found.items() if value}
    return _encode(found) if found else EMPTY_MAP
