"""Clients' requests: submit, signal, cancel, pause, resume; queries go to `views`.

Every mutation has an id and a not-after time: what is in the log already is answered again, what
comes too late is refused, so that sending again is always safe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.coordinator.core import status, views
from headrace.coordinator.core.advance import concurrency, deliver_signals
from headrace.coordinator.core.commands import Order, Refusal, Reply
from headrace.coordinator.core.contexts import Contexts, functions
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.state import EMPTY_MAP, UNREADABLE, Run
from headrace.errors import HeadraceError
from headrace.events import (
    CancelRequested,
    PlanStored,
    RequestSeen,
    RunCreated,
    RunEnded,
    RunPaused,
    RunResumed,
    SignalReceived,
    StepCancelled,
)
from headrace.expressions import truthy
from headrace.messages import (
    CancelRun,
    CancelStep,
    ClientRequest,
    GetExplanation,
    GetHistory,
    GetPlan,
    GetRun,
    HasRuns,
    ListRuns,
    PauseRun,
    ResumeRun,
    SignalRun,
    StorePlan,
    SubmitRun,
    subjects,
)
from headrace.plan import check_inputs, decode_plan, plan_digest, validate_plan

if TYPE_CHECKING:
    from headrace.coordinator.core.machine import Machine

_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder().decode

NOT_AFTER_MS_MAX = 3_600_000

_Mutation = SubmitRun | SignalRun | CancelRun | PauseRun | ResumeRun


def handle(machine: Machine, namespace: str, request: ClientRequest) -> Reply:
    """Apply or answer one request; expected refusals are values."""
    handler = _HANDLERS.get(type(request))
    if handler is None:
        return Refusal("invalid-request", f"no shard answers {type(request).__name__}")
    try:
        return handler(machine, namespace, request)
    except HeadraceError as error:
        return Refusal.of(error)


def _too_late(machine: Machine, request: _Mutation) -> Refusal | None:
    if request.not_after_ms < machine.state.now_ms:
        return Refusal("too-late", "the request came after its not-after time; nothing was done")
    if request.not_after_ms > machine.state.now_ms + NOT_AFTER_MS_MAX:
        # The id is remembered until then, so what is remembered stays bounded.
        return Refusal("invalid-request", f"not-after is over {NOT_AFTER_MS_MAX} ms away")
    return None


def _store_plan(machine: Machine, namespace: str, request: StorePlan) -> Reply:
    data = request.plan
    if len(data) > machine.limits.plan_bytes:
        return Refusal(
            "limit-exceeded",
            f"the plan has {len(data)} bytes; the limit is {machine.limits.plan_bytes}",
        )
    try:
        plan = decode_plan(data)
    except UNREADABLE as error:
        return Refusal("invalid-definition", f"not a plan: {error}")
    validate_plan(plan)
    digest = plan_digest(plan)
    state = machine.state
    if digest not in state.plans:
        # Compiled first: what cannot be compiled never gets into the log.
        program = Program(plan, digest, namespace, state.builtin)
        machine.emit_shard(PlanStored(digest, data))
        state.programs[digest, namespace] = program
    return digest


def fingerprint(plan: str, given: Any) -> str:
    """Return the digest of definition and input that tells a resent submit from another."""
    return hashlib.blake2b(plan.encode() + _encode(given), digest_size=12).hexdigest()


def _submit(machine: Machine, namespace: str, request: SubmitRun) -> Reply:
    state = machine.state
    if not subjects.valid_name(request.run):
        return Refusal("invalid-request", f"not a run id: {request.run!r:.200}")
    key = subjects.run_key(namespace, request.run)
    if machine.is_evicted(key):
        return Refusal("busy", f"run {request.run} is on its way to the archive", 50)
    existing = state.runs.get(key)
    tombstone = state.tombstones.get(key)
    if existing is not None or tombstone is not None:
        return _resubmit(machine, existing, key, request)
    late = _too_late(machine, request)
    if late is not None:
        return late
    if len(state.runs) >= machine.limits.runs:
        return Refusal("busy", f"the shard holds {len(state.runs)} live runs", 1_000)
    try:
        program = state.program(request.plan, namespace)
    except KeyError:
        return Refusal("unknown-plan", f"plan {request.plan} is not stored in this shard")
    plan = program.plan
    given = check_inputs(plan, request.input) if plan.inputs or request.input else {}
    data = _encode(given) if given else EMPTY_MAP
    labels = {**plan.labels, **request.labels} if plan.labels else request.labels
    unfit = _unfit(machine, request, program.size, data, labels)
    if unfit is not None:
        return unfit
    return _create(machine, Run(key, program), request, data, labels)


def _unfit(
    machine: Machine, request: SubmitRun, nodes: int, data: bytes, labels: Mapping[str, str]
) -> Refusal | None:
    """Return which limit a submit passes, if any."""
    limits = machine.limits
    if not all(_is_map(value) for value in request.carried.values()):
        return Refusal("invalid-request", "carried results are maps in msgpack")
    if nodes > limits.nodes:
        return _over("workflow", nodes, limits.nodes, "nodes")
    if len(data) > limits.input_bytes:
        return _over("input", len(data), limits.input_bytes)
    size = len(data) + sum(map(len, request.carried.values()))
    if size > limits.request_bytes:
        return _over("input with the carried results", size, limits.request_bytes)
    return _unfit_labels(machine, labels) if labels else None


def _create(
    machine: Machine, run: Run, request: SubmitRun, data: bytes, labels: dict[str, str]
) -> Reply:
    """State that the run exists; unless it waits for a key, it has begun with that."""
    limit, mode, name = 1, 0, ""
    wanted = run.program.plan.concurrency
    if wanted is not None:
        run.input = data
        name, limit, mode = concurrency(run, 0, wanted)
    machine.state.runs[run.key] = run
    machine.emit(
        run,
        RunCreated(
            run.workflow,
            request.plan,
            msgspec.Raw(data),
            request.request_id,
            request.not_after_ms,
            fingerprint(request.plan, request.input) if request.explicit else "",
            labels or None,
            request.priority,
            request.explicit,
            request.rerun_of,
            request.actor,
            bool(name),
            name,
            limit,
            mode,
            request.carried or None,
        ),
    )
    if run.due:
        machine.timers.push(run.due[0], run.key, 0)
    return views.Later(run)


def _over(what: str, found: int, limit: int, unit: str = "bytes") -> Refusal:
    return Refusal("limit-exceeded", f"the {what} has {found} {unit}; the limit is {limit}")


def _unfit_labels(machine: Machine, labels: Mapping[str, str]) -> Refusal | None:
    limits = machine.limits
    if len(labels) > limits.labels:
        return _over("run", len(labels), limits.labels, "labels")
    for name, value in labels.items():
        if not name or not name.isprintable():
            return Refusal("invalid-request", f"not a name of a label: {name!r:.200}")
        for text, what in ((name, "name"), (value, "value")):
            length = len(text.encode())
            if length > limits.label_bytes:
                shown = f"{what} of label {name!r:.80}"
                return _over(shown, length, limits.label_bytes)
    return None


def _resubmit(machine: Machine, run: Run | None, key: str, request: SubmitRun) -> Reply:
    """The id is taken: by this very submit, sent again, or by another one."""
    if run is not None and run.request_id == request.request_id:
        return views.Later(run)
    known = run.fingerprint if run is not None else machine.state.tombstones[key].fingerprint
    if known:
        same = known == fingerprint(request.plan, request.input)
    else:
        same = run is None or _is_same(run, request)
    if not same:
        return Refusal(
            "conflict",
            f"run {request.run} exists with another definition or input; choose another id",
        )
    if run is not None:
        return views.Later(run)
    return Refusal("archived", f"run {request.run} has ended and is in the archive")


def _is_same(run: Run, request: SubmitRun) -> bool:
    """Tell whether a submit asks for the very run that has its id (one that the client made)."""
    plan = run.program.plan
    given = check_inputs(plan, request.input) if plan.inputs or request.input else {}
    data = _encode(given) if given else EMPTY_MAP
    return run.program.digest == request.plan and run.input == data


def _is_map(data: bytes) -> bool:
    try:
        return isinstance(_decode(data), dict)
    except UNREADABLE:
        return False


def _live(machine: Machine, namespace: str, name: str) -> Run | Refusal:
    run = machine.state.runs.get(subjects.run_key(namespace, name))
    if run is None:
        return Refusal("not-found", f"no open run {name} in namespace {namespace}")
    return run


def _mutate(
    machine: Machine,
    namespace: str,
    request: SignalRun | CancelRun | PauseRun | ResumeRun,
    apply: Callable[[Run], Refusal | None],
    *,
    verb: str,
) -> Reply:
    """Run *apply* once for a request id on a run that has not ended."""
    found = _live(machine, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    if request.request_id in machine.state.requests:
        return views.Later(found)
    if found.quarantined and not isinstance(request, CancelRun):
        return Refusal("conflict", f"run {request.run} is blocked: {found.quarantined}")
    late = _too_late(machine, request)
    if late is not None:
        return late
    if status.is_final(found.state):
        return Refusal(
            "conflict",
            f"run {request.run} is {status.NAMES[found.state]}; it cannot be {verb} any more",
        )
    refused = apply(found)
    return refused if refused is not None else views.Later(found)


def _signal(machine: Machine, namespace: str, request: SignalRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if len(run.signals) >= machine.limits.signals:
            return Refusal("limit-exceeded", f"{len(run.signals)} signals wait to be taken")
        payload = _encode(request.payload)
        if len(payload) > machine.limits.input_bytes:
            return Refusal(
                "limit-exceeded",
                f"the payload has {len(payload)} bytes; the limit is {machine.limits.input_bytes}",
            )
        machine.emit(
            run,
            SignalReceived(
                request.name,
                msgspec.Raw(payload),
                request.request_id,
                request.not_after_ms,
                request.actor,
            ),
        )
        deliver_signals(machine, run)
        return None

    return _mutate(machine, namespace, request, apply, verb="signalled")


def _cancel(machine: Machine, namespace: str, request: CancelRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if run.cancelling and run.doomed.issuperset(run.tokens):
            _seen(machine, request)
            return None
        reason = request.reason or "cancelled by request"
        if request.actor:
            reason = f"{reason} ({request.actor})"
        cancel_run(machine, run, reason, request)
        return None

    return _mutate(machine, namespace, request, apply, verb="cancelled")


def _seen(machine: Machine, request: _Mutation) -> None:
    machine.emit_shard(RequestSeen(request.request_id, request.not_after_ms))


def cancel_run(machine: Machine, run: Run, reason: str, request: CancelRun | None = None) -> None:
    """Cancel a run: stop what is dispatched, cancel what waits, let `always()` steps run.

    Asked a second time, it stops running `always()` steps too.
    """
    if run.quarantined:
        _end_quarantined(machine, run, reason)
        return
    spared: list[int] = []
    if not run.cancelling and run.tokens:
        # The condition is asked as if the run were cancelled already: `cancelled()` is true.
        spared = [step for step in sorted(run.tokens) if _wants_to_run(run, step, cancelling=True)]
    machine.emit(
        run,
        CancelRequested(
            reason,
            request.request_id if request else "",
            request.not_after_ms if request else 0,
            request.actor if request else "",
            spared=spared or None,
        ),
    )
    if run.state == status.PENDING:
        # It waits for its key and has not begun: nothing is to be stopped.
        machine.emit(run, RunEnded(status.CANCELLED, reason))
        machine.ended.append(run)
        return
    cancel_waiting(machine, run)


def _end_quarantined(machine: Machine, run: Run, reason: str) -> None:
    """The one thing that can be done about a blocked run. What it has running is stopped."""
    for step in sorted(run.tokens):
        cancel = CancelStep(run.key, step, run.attempt[step], reason)
        machine.orders.append(Order(run.program.namespace, "", cancel))
    machine.emit(run, RunEnded(status.CANCELLED, f"{reason}; it was blocked: {run.quarantined}"))
    machine.ended.append(run)


def fail_run(machine: Machine, run: Run, reason: str) -> None:
    """End a running run as FAILED, as its own timeout does."""
    if run.state != status.RUNNING or run.cancelling or run.quarantined:
        return
    machine.emit(run, CancelRequested(reason, failed=True))
    cancel_waiting(machine, run)


def cancel_waiting(machine: Machine, run: Run) -> None:
    """Cancel what waits or is ready; what is dispatched gets an order to stop."""
    machine.stop_doomed(run)
    for instance in range(len(run.status)):
        value = run.status[instance]
        waits = value == status.WAITING or (
            value == status.PENDING
            and not run.waiting[instance]
            and run.is_open(run.parent(instance))
            and instance != 0
        )
        if waits and not _wants_to_run(run, instance):
            machine.emit(run, StepCancelled(instance, run.attempt[instance], "", run.cancel_reason))


def _wants_to_run(run: Run, instance: int, *, cancelling: bool = False) -> bool:
    """Tell whether a node's condition asks for it to run in a cancelled run."""
    node, _, _ = run.locate(instance)
    condition = run.program.condition[node]
    if run.program.implied[node] or condition is None:
        return False
    available = functions(run, instance, cancelling=cancelling)
    try:
        return truthy(condition.evaluate(Contexts(run, instance), available))
    except HeadraceError:
        return False


def _pause(machine: Machine, namespace: str, request: PauseRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if run.paused:
            _seen(machine, request)
        else:
            machine.emit(
                run,
                RunPaused(request.request_id, request.not_after_ms, request.reason, request.actor),
            )
        return None

    return _mutate(machine, namespace, request, apply, verb="paused")


def _resume(machine: Machine, namespace: str, request: ResumeRun) -> Reply:
    def apply(run: Run) -> Refusal | None:
        if not run.paused:
            _seen(machine, request)
        else:
            machine.emit(run, RunResumed(request.request_id, request.not_after_ms, request.actor))
            machine.rebuild(run)
        return None

    return _mutate(machine, namespace, request, apply, verb="resumed")


def _get(machine: Machine, namespace: str, request: GetRun) -> Reply:
    found = _live(machine, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return views.Later(found, steps=request.steps)


def _history(machine: Machine, namespace: str, request: GetHistory) -> Reply:
    found = _live(machine, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return views.HistoryParts(found)


def _explain(machine: Machine, namespace: str, request: GetExplanation) -> Reply:
    found = _live(machine, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return views.Waits(found)


def _plan(machine: Machine, namespace: str, request: GetPlan) -> Reply:
    found = _live(machine, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return machine.state.plans[found.program.digest]


def _has(machine: Machine, namespace: str, request: HasRuns) -> Reply:
    runs = machine.state.runs
    return [name for name in request.runs if subjects.run_key(namespace, name) in runs]


def _list(machine: Machine, namespace: str, request: ListRuns) -> Reply:
    return views.list_runs(machine.state, namespace, request)


_HANDLERS: dict[type, Callable[[Machine, str, Any], Reply]] = {
    StorePlan: _store_plan,
    SubmitRun: _submit,
    SignalRun: _signal,
    CancelRun: _cancel,
    PauseRun: _pause,
    ResumeRun: _resume,
    GetRun: _get,
    GetHistory: _history,
    GetExplanation: _explain,
    GetPlan: _plan,
    ListRuns: _list,
    HasRuns: _has,
}
