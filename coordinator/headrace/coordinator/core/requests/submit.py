"""Submits: a new run, or the one that has the id already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from headrace.coordinator.core import shard_events, views
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.creation import create_run, fingerprint
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.requests.mutation import Handler, over, too_late
from headrace.coordinator.core.state import EMPTY_MAP, UNREADABLE, Run
from headrace.coordinator.core.tick import Tick
from headrace.messages import SubmitRun, subjects
from headrace.plan import check_inputs

_encode = msgspec.msgpack.Encoder().encode
"""An input keeps the order that it was written in: a matrix from it expands in that order."""
_ordered = msgspec.msgpack.Encoder(order="deterministic").encode
"""For comparing: the order of keys says nothing."""
_decode = msgspec.msgpack.Decoder().decode


def _submit(tick: Tick, namespace: str, request: SubmitRun) -> Reply:
    state = tick.state
    if not subjects.valid_name(request.run):
        return Refusal("invalid-request", f"not a run id: {request.run!r:.200}")
    key = subjects.run_key(namespace, request.run)
    if key in tick.evicted:
        return Refusal("busy", f"run {request.run} is on its way to the archive", 50)
    existing = state.runs.get(key)
    ended = shard_events.tombstone(state, key) if key in state.tombstones else None
    if existing is not None:
        return _resubmit(existing, existing.fingerprint, request)
    if ended is not None:
        return _resubmit(None, ended.fingerprint, request)
    late = too_late(tick, request)
    if late is not None:
        return late
    fit = fitting(tick, namespace, request)
    if isinstance(fit, Refusal):
        return fit
    run = Run(key, fit.program)
    create_run(tick, run, request, fit.input, fit.labels)
    return views.Later(run)


class Fitting(NamedTuple):
    """What a new run begins with."""

    program: Program
    input: bytes
    labels: dict[str, str]


def fitting(
    tick: Tick, namespace: str, request: SubmitRun, data: bytes | None = None
) -> Fitting | Refusal:
    """Return what a run with a new id begins with, or why it cannot.

    *data*: its input, encoded, in the place of the request's; the plan takes any. Raises
    `InvalidDefinition` for an input that is not what the plan asks for.
    """
    state = tick.state
    if len(state.runs) >= tick.limits.runs:
        return Refusal("busy", f"the shard holds {len(state.runs)} live runs", 1_000)
    try:
        program = state.program(request.plan, namespace)
    except KeyError:
        return Refusal("unknown-plan", f"plan {request.plan} is not stored in this shard")
    plan = program.plan
    if data is None:
        given = check_inputs(plan, request.input) if plan.inputs or request.input else {}
        data = _encode(given) if given else EMPTY_MAP
    labels = {**plan.labels, **request.labels} if plan.labels else request.labels
    unfit = _unfit(tick, request, program.size, data, labels)
    return Fitting(program, data, labels) if unfit is None else unfit


def _unfit(
    tick: Tick, request: SubmitRun, nodes: int, data: bytes, labels: Mapping[str, str]
) -> Refusal | None:
    """Return which limit a submit passes, if any."""
    limits = tick.limits
    carried = request.carried
    if carried and not all(map(_is_map, carried.values())):
        return Refusal("invalid-request", "carried results are maps in msgpack")
    if nodes > limits.nodes:
        return over("workflow", nodes, limits.nodes, "nodes")
    size = len(data)
    if size > limits.input_bytes:
        return over("input", size, limits.input_bytes)
    if carried:
        size += sum(map(len, carried.values()))
    if size > limits.request_bytes:
        return over("input with the carried results", size, limits.request_bytes)
    return _unfit_labels(tick, labels) if labels else None


def _unfit_labels(tick: Tick, labels: Mapping[str, str]) -> Refusal | None:
    limits = tick.limits
    if len(labels) > limits.labels:
        return over("run", len(labels), limits.labels, "labels")
    for name, value in labels.items():
        if not name or not name.isprintable():
            return Refusal("invalid-request", f"not a name of a label: {name!r:.200}")
        for text, what in ((name, "name"), (value, "value")):
            length = len(text.encode())
            if length > limits.label_bytes:
                shown = f"{what} of label {name!r:.80}"
                return over(shown, length, limits.label_bytes)
    return None


def _resubmit(run: Run | None, known: str, request: SubmitRun) -> Reply:
    """The id is taken: by this very submit, sent again, or by another one."""
    if run is not None and run.request_id == request.request_id:
        return views.Later(run)
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
    program = run.programs()[0]
    if program.digest != request.plan:
        return False
    plan = program.plan
    given = check_inputs(plan, request.input) if plan.inputs or request.input else {}
    return _ordered(_decode(run.input)) == _ordered(given)


def _is_map(data: bytes) -> bool:
    try:
        return isinstance(_decode(data), dict)
    except UNREADABLE:
        return False


HANDLERS: Final[dict[type, Handler]] = {SubmitRun: _submit}
