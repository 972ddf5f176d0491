"""Why a run waits: every non-terminal thing has a reason, an owner and, maybe, a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.state import Run, ShardState
from headrace.errors import HeadraceError
from headrace.expressions import resolve, to_string
from headrace.messages import Explanation, WaitReason, subjects
from headrace.plan import Task

REASONS_MAX = 200


class WorkerFacts(NamedTuple):
    """One live worker, as the dispatcher knows it."""

    worker: str
    namespace: str
    capabilities: frozenset[str]
    slots: int
    free: int
    draining: bool


class Facts(NamedTuple):
    """What the state does not know: who is alive and who holds what."""

    workers: tuple[WorkerFacts, ...] = ()
    holders: Mapping[tuple[str, int], str] = {}
    missing_since_ms: Mapping[str, int] = {}
    """Capability label -> since when no worker of the namespace offers it."""


def explain(state: ShardState, run: Run, facts: Facts | None = None) -> Explanation:
    """Return why *run* is where it is: one reason for each thing that it waits for."""
    facts = facts or Facts()
    name = subjects.split_key(run.key)[1]
    shown = status.NAMES[run.state]
    if status.is_final(run.state):
        summary = f"run {name} has ended: {shown}"
        if run.ended_reason:
            summary += f" ({run.ended_reason})"
        return Explanation(run=name, state=shown, summary=summary)
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
            )
        )
    if run.state == status.PENDING:
        reasons.append(_key_reason(state, "", run.key_name, run.key, run.created_ms))
    else:
        for instance in range(1, len(run.status)):
            if len(reasons) >= REASONS_MAX:
                break
            reason = _step_reason(state, run, instance, facts)
            if reason is not None:
                reasons.append(reason)
    if run.cancelling:
        reasons.append(
            WaitReason(
                state="CANCELLING", reason=f"being cancelled: {run.cancel_reason}", owner="worker"
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
    return Explanation(run=name, state=shown, summary=f"{where}{first.reason}", reasons=reasons)


def _key_reason(state: ShardState, path: str, key: str, holder: str, since_ms: int) -> WaitReason:
    group = key.partition("/")[2]
    record = state.keys.get(key)
    held_by = ", ".join(sorted(record.holders)) if record is not None else ""
    text = f"waits for concurrency key {group}"
    if held_by:
        text += f", held by {held_by}"
    return WaitReason(
        path=path, state="WAITING", reason=text, owner=held_by or "coordinator", since_ms=since_ms
    )


def _step_reason(state: ShardState, run: Run, instance: int, facts: Facts) -> WaitReason | None:
    value = run.status[instance]
    if value == status.DISPATCHED:
        return _dispatched(run, instance, facts)
    if value == status.WAITING:
        return _waiting(state, run, instance)
    if value != status.PENDING or run.waiting[instance] or run.paused:
        return None
    node, _, _ = run.locate(instance)
    if run.program.kind[node] == kinds.TASK and run.may_begin(instance):
        return _ready(run, instance, facts)
    return None


def _dispatched(run: Run, instance: int, facts: Facts) -> WaitReason:
    path, attempt = run.path(instance), run.attempt[instance]
    holder = facts.holders.get((run.key, instance), "")
    doomed = instance in run.doomed
    if holder:
        verb = "is being stopped on" if doomed else "runs on"
        return WaitReason(
            path=path,
            state="RUNNING",
            owner=holder,
            reason=f"attempt {attempt} {verb} worker {holder}",
        )
    return WaitReason(
        path=path,
        state="DISPATCHED",
        owner="worker",
        reason=f"attempt {attempt} was dispatched and is on its way to a worker",
    )


def _waiting(state: ShardState, run: Run, instance: int) -> WaitReason:
    path = run.path(instance)
    due_ms = run.due.get(instance, 0)
    node = run.program.nodes[run.locate(instance)[0]]
    if instance in run.waits:
        return WaitReason(
            path=path,
            state="WAITING",
            owner="person",
            deadline_ms=due_ms,
            reason=f"waiting for signal {run.waits[instance]}",
        )
    if instance in run.node_keys:
        key, holder = run.node_keys[instance]
        return _key_reason(state, path, key, holder, 0)
    left_ms = max(due_ms - state.now_ms, 0)
    if isinstance(node, Task):
        limit = node.retry.max_attempts if node.retry is not None else 1
        error = run.errors.get(instance)
        after = f" after {error.type}: {error.message}"[:200] if error is not None else ""
        number = run.attempt[instance] - run.uncounted.get(instance, 0)
        return WaitReason(
            path=path,
            state="WAITING",
            owner="timer",
            deadline_ms=due_ms,
            reason=f"retry {number} of {limit - 1} in {left_ms / 1000:.1f} s{after}",
        )
    return WaitReason(
        path=path,
        state="WAITING",
        owner="timer",
        deadline_ms=due_ms,
        reason=f"sleeping, {left_ms / 1000:.1f} s left",
    )


def needed_labels(run: Run, instance: int) -> tuple[str, ...]:
    """Return the capabilities that a task needs, expressions evaluated where they can be."""
    node = run.locate(instance)[0]
    fixed = run.program.capabilities[node]
    if fixed is not None:
        return fixed
    labels: set[str] = set()
    contexts = Contexts(run, instance)
    for label in run.program.needed_capabilities(node):
        try:
            value = resolve(label, contexts, functions(run, instance))
        except HeadraceError:
            value = label
        labels.update(to_string(v) for v in (value if isinstance(value, list) else [value]))
    return tuple(sorted(labels))


def _ready(run: Run, instance: int, facts: Facts) -> WaitReason:
    path = run.path(instance)
    job = run.jobs.get(run.job_of(instance))
    live = [w for w in facts.workers if w.namespace == run.program.namespace]
    if job is not None and job.worker:
        worker = job.worker.partition(".")[0]
        if not any(w.worker == worker for w in live):
            return WaitReason(
                path=path,
                state="READY",
                owner=worker,
                reason=f"waits for worker {worker}, which has the job's workspace",
            )
        return WaitReason(
            path=path, state="READY", owner=worker, reason=f"waits for a slot of worker {worker}"
        )
    needed = needed_labels(run, instance)
    wanted = {label.lower() for label in needed}
    able = [w for w in live if wanted <= w.capabilities and not w.draining]
    if able:
        free = sum(w.free for w in able)
        slots = sum(w.slots for w in able)
        return WaitReason(
            path=path,
            state="READY",
            owner="coordinator",
            reason=f"waits for a free slot ({free} of {slots} free)",
        )
    listed = ", ".join(needed)
    if not live:
        text = f"no worker is connected in namespace {run.program.namespace}"
        if needed:
            text += f" (needed: {listed})"
        return WaitReason(path=path, state="READY", owner="operator", reason=text)
    missing = [label for label in needed if not any(label.lower() in w.capabilities for w in live)]
    if missing:
        text = f"no worker offers {', '.join(missing)} (needed: {listed})"
    else:
        text = f"no one worker offers all of {listed}"
    since = max((facts.missing_since_ms.get(label, 0) for label in missing), default=0)
    return WaitReason(path=path, state="READY", owner="operator", reason=text, since_ms=since)
