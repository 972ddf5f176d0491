"""What the start and the end of a node change around it: siblings, container, job, keys.

Used by the fold alone. While leading, it also notes on the agenda what became enabled.
"""

from __future__ import annotations

from typing import Any

from headrace.coordinator.core import program as kinds
from headrace.coordinator.core import status
from headrace.coordinator.core.gate import CACHE
from headrace.coordinator.core.scopes import Counts
from headrace.coordinator.core.state import Job, Run, ShardState
from headrace.messages import ResultExtra, child_of, subjects, valid_traceparent
from headrace.plan import Group

_NOT_OK = 1
_FAILED_BEFORE = 2
NEED_SUCCEEDED = 4
NEED_FAILED = 8
"""Bits of the taint of nodes with a trigger rule."""


def ended(state: ShardState, run: Run, instance: int, *, ok: bool, failed: bool = False) -> None:
    """Tell siblings and the container that *instance* has its final state.

    *ok*: it counts as success for those that need it; *failed*: it failed and is not tolerated.
    """
    program = run.program
    if run.stopped and state.leading:
        # Who stops others waits for all that runs in them.
        stoppers = dict.fromkeys(run.stopped.values())
        state.agenda.extend((run, ~by) for by in stoppers if run.status[by] == status.RUNNING)
    if (run.handlers or run.sagas) and _is_called_for(state, run, instance):
        return
    if instance < program.size:
        node, shift, above = instance, 0, program.parent[instance]
    else:
        node, shift, scope = run.locate(instance)
        if scope is not None and node == scope.body:
            above = scope.loop
        else:
            above = program.parent[node] + shift
    if above < 0 or (run.status[above] != status.RUNNING and above not in run.detached):
        # The root, or a latecomer below a container that has ended: only the run may follow.
        if state.leading:
            state.agenda.append((run, ~0))
        return
    if dependents := program.dependents[node]:
        _free_dependents(state, run, node, shift, dependents, ok=ok, failed=failed)
    counts = run.counts[above]
    counts.ended += 1
    if ok:
        counts.ok += 1
    elif failed:
        counts.bad += 1
    elif run.status[instance] == status.CANCELLED and instance not in run.stopped:
        counts.cancelled += 1
    if above in run.detached and counts.ended >= counts.total:
        run.detached.discard(above)
        del run.counts[above]
    if state.leading:
        if counts.window:
            _open_window(state, run, above, counts)
        if counts.ended >= counts.total or counts.needed >= 0:
            state.agenda.append((run, ~above))


def _is_called_for(state: ShardState, run: Run, instance: int) -> bool:
    """Tell whether nobody waits for what has ended but who called for it; tell those who do."""
    step = run.handlers.get(instance, -1)
    undone = run.status[instance] in (status.COMPLETED, status.SKIPPED)
    if step >= 0 and not undone and run.undoes(instance):
        run.uncompensated.append(step)
    if state.leading:
        # Who compensates waits for all that runs below.
        state.agenda.extend((run, ~saga) for saga in run.sagas)
        if step >= 0:
            state.agenda.extend(((run, ~step), (run, ~0)))
    return step >= 0


def call_for(state: ShardState, run: Run, handler: int, step: int) -> None:
    """Wake what is dormant, for *step*: it may begin now."""
    node, _, _ = run.locate(handler)
    statuses, waiting = run.program.body_template(node)
    run.status[handler : handler + len(statuses)] = statuses
    run.waiting[handler : handler + len(waiting)] = waiting
    run.handlers[handler] = step
    if state.leading:
        state.agenda.append((run, handler))


def _free_dependents(
    state: ShardState,
    run: Run,
    node: int,
    shift: int,
    dependents: tuple[int, ...],
    *,
    ok: bool,
    failed: bool,
) -> None:
    """Count one need less for each dependent; tell it what went wrong before it."""
    instance = node + shift
    if run.program.sequence[node]:
        # A sequence looks at every earlier sibling, and does not mind a skipped one.
        taint = run.taint[instance] | (_NOT_OK | _FAILED_BEFORE if failed else 0)
    else:
        taint = 0 if ok else _NOT_OK
        if run.program.plan.dialect == "jobs":
            # As GitHub has it: what did not succeed counts for the whole chain behind it.
            taint |= run.taint[instance] & _NOT_OK
        if failed or run.taint[instance] & _FAILED_BEFORE:
            taint |= _FAILED_BEFORE
    waiting, rules = run.waiting, run.program.rule
    # Skipped because of a failure is failed, to a trigger rule.
    blamed = failed or (not ok and bool(run.taint[instance] & _FAILED_BEFORE))
    for dependent in dependents:
        other = dependent + shift
        left = waiting[other]
        if not left:
            # Its trigger rule has fired; what else it needs is of no more concern.
            continue
        left -= 1
        if taint:
            run.taint[other] |= taint
        if rules:
            left = _triggered(run, dependent, other, left, ok=ok, failed=blamed)
        waiting[other] = left
        if left == 0 and state.leading:
            state.agenda.append((run, other))


def recount(state: ShardState, run: Run, node: int, instance: int) -> None:
    """Count what *instance* still waits for, from what has become of its needs."""
    shift = instance - node
    needs = run.program.nodes[node].needs
    run.waiting[instance], run.taint[instance] = len(needs), 0
    for need in needs:
        other = need + shift
        value = run.status[other]
        if not status.is_final(value) or other in run.held:
            continue
        tolerated = other in run.tolerated
        # Skipped because it failed (`on-failure: skip`) is as good as done; by a condition is not.
        ok = value == status.COMPLETED or tolerated
        ok = ok or (value == status.SKIPPED and other in run.errors)
        failed = value in (status.FAILED, status.UNKNOWN) and not tolerated
        _free_dependents(state, run, need, shift, (node,), ok=ok, failed=failed)


def _triggered(run: Run, node: int, instance: int, left: int, *, ok: bool, failed: bool) -> int:
    """Return how many needs a dependent still waits for; 0 when its trigger rule fires early."""
    rule = run.program.rule.get(node)
    if rule is None:
        return left
    if ok:
        run.taint[instance] |= NEED_SUCCEEDED
    elif failed:
        run.taint[instance] |= NEED_FAILED
    if (rule == "one_success" and ok) or (rule == "one_failed" and failed):
        return 0
    return left


def _open_window(state: ShardState, run: Run, loop: int, counts: Counts) -> None:
    """Enable the iteration that a loop's `max-parallel` lets in now."""
    index = counts.ended + counts.window - 1
    base = iteration_base(run, loop, index)
    if base >= 0 and run.status[base] == status.PENDING:
        state.agenda.append((run, base))


def iteration_base(run: Run, loop: int, index: int) -> int:
    """Return the body instance of iteration *index* of *loop*, or -1 if it is not there (yet)."""
    bases = run.iterations.get(loop, ())
    return bases[index] if index < len(bases) else -1


def leave(run: Run, step: int) -> None:
    """Take a step out of dispatch."""
    if run.tokens.pop(step, None) is not None:
        run.active -= 1
    if run.doomed:
        run.doomed.discard(step)
    if run.claims:
        run.claims.pop(step, None)
    if run.due:
        run.due.pop(step, None)


def pin(state: ShardState, run: Run, step: int, worker: str, extra: ResultExtra | None) -> None:
    """A job's first result decides its worker; its steps' `env` additions gather in the job."""
    instance = run.job_of(step)
    job = run.jobs.get(instance)
    if job is None:
        return
    if not job.worker and worker:
        job.worker = worker
        job.first = -1
        wake_job(state, run, instance)
    if extra is not None:
        job.env.update(extra.env)
        job.path.extend(extra.path)


def unpin(state: ShardState, run: Run, step: int) -> None:
    """A step that was to decide its job's worker did not: another one may."""
    instance = run.job_of(step)
    job = run.jobs.get(instance)
    if job is not None and job.first == step:
        job.first = -1
        wake_job(state, run, instance)


def wake_job(state: ShardState, run: Run, job: int) -> None:
    """Steps of a job may go to another lane from now on."""
    if state.leading:
        for inner in run.descendants(job):
            if run.is_ready(inner, state.now_ms):
                state.agenda.append((run, inner))


def note_completed(run: Run, step: int) -> None:
    """Remember that *step* has completed and can be undone, behind those before it."""
    node = run.locate(step)[0]
    if node in run.program.compensation:
        run.undo.pop(step, None)
        run.undo[step] = None


def start_container(state: ShardState, run: Run, instance: int) -> None:
    """Let the children of a container begin, and begin to count their ends."""
    program = run.program
    node, shift, _ = run.locate(instance)
    run.status[instance] = status.RUNNING
    found: Any = program.nodes[node]
    total = len(program.children[node])
    needed = -1
    if isinstance(found, Group):
        if found.join.kind != "all":
            needed = found.join.needed(total)
        if found.affinity:
            run.jobs[instance] = Job()
    run.counts[instance] = Counts(total, needed)
    if not state.leading:
        return
    if program.kind[node] != kinds.CHOICE:
        for child in program.roots[node]:
            state.agenda.append((run, child + shift))
    if total == 0:
        state.agenda.append((run, ~instance))


def cancel_below(state: ShardState, run: Run, container: int) -> None:
    """Nothing below an ended container begins any more; what is dispatched is to be stopped."""
    for inner in run.descendants(container):
        if run.detached:
            run.detached.discard(inner)
        run.counts.pop(inner, None)
        value = run.status[inner]
        if value == status.DISPATCHED:
            run.doomed.add(inner)
        elif value in (status.PENDING, status.WAITING, status.RUNNING):
            run.status[inner] = status.CANCELLED
            if run.held:
                run.held.pop(inner, None)
            run.due.pop(inner, None)
            run.waits.pop(inner, None)
            drop_key(state, run, inner)
        elif value == status.UNKNOWN and run.held:
            run.held.pop(inner, None)


def drop_gate(state: ShardState, run: Run, instance: int) -> None:
    """The end of an attempt, and its intent to give back what it has asked for, are one entry."""
    gate = run.gates.pop(instance, None)
    if gate is None:
        return
    for key, holder in (
        (gate.key, gate.holder if gate.wants != CACHE else ""),
        (gate.lock, gate.lock_holder),
        (gate.rate, gate.rate_holder),
    ):
        if holder:
            state.post(key, "release", key, holder)


def keep_result(
    state: ShardState, run: Run, step: int, output: bytes, extra: ResultExtra | None
) -> None:
    """The result of a step that looked for one and found none is offered to those that follow."""
    gate = run.gates.get(step)
    if gate is None or not gate.cache:
        return
    source = f"{run.key}#{run.wire(step)}.{run.events}"
    said = [extra.env, extra.path] if extra is not None else [{}, []]
    facts = (output, run.path(step), state.now_ms, gate.ttl_ms, *said)
    state.post(gate.cache, "cache-put", gate.cache, source, *facts)


def begun(state: ShardState, run: Run, instance: int) -> None:
    """A node begins: its place within a rate limit is used from now on."""
    gate = run.gates.get(instance)
    if gate is not None and gate.rate_holder:
        state.post(gate.rate, "started", gate.rate, gate.rate_holder)
        gate.rate_holder = ""


def drop_key(state: ShardState, run: Run, instance: int) -> None:
    """The end of a holder and its intent to release are one entry. So it is with who waits for a
    child, and the child's cancel.
    """
    if run.gates:
        drop_gate(state, run, instance)
    held = run.node_keys.pop(instance, None)
    if held is not None:
        key, holder = held
        state.post(key, "release", key, holder)
    family = run.family
    if family is not None and instance in family.awaited:
        family.awaited.discard(instance)
        child = subjects.run_key(run.program.namespace, family.children[instance])
        holder = child_holder(run, instance)
        family.stopping[holder] = instance
        state.post(child, "cancel-child", child, holder, run.cancel_reason, state.shard)


def child_holder(run: Run, instance: int) -> str:
    """Return how the child of *instance* names what waits for it."""
    return f"{run.key}#{run.wire(instance)}.{run.attempt[instance]}"


def child_trace(run: Run, of: str) -> str:
    """Return the trace context of a run that *run* begins: below the span of what begins it.

    *of*: see `step_span` and `entry_span`. Empty: *run* has no context.
    """
    given = run.labels.get(subjects.TRACE_LABEL, "") if run.labels else ""
    return child_of(child_of(given, run.key), of) if valid_traceparent(given) else ""


def child_extras(run: Run, of: str) -> tuple[str, float, str] | tuple[str, float] | tuple[()]:
    """Return what a run that *run* begins takes over: its turns (key and weight), and a trace."""
    if trace := child_trace(run, of):
        return run.fair_key, run.fair_weight, trace
    return (run.fair_key, run.fair_weight) if run.fair_key else ()
