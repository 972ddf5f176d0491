"""A new run, and the plan that it is of; whoever wants it."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.nodes import concurrency, rate_request
from headrace.coordinator.core.nodes.fields import evaluated
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.state import UNREADABLE, Run
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.variables import pinned
from headrace.errors import InvalidRequest
from headrace.events import KeyRequested, PlanStored, RunCreated
from headrace.expressions import to_string
from headrace.messages import SubmitRun, is_among, root_trace, subjects
from headrace.plan import (
    FAIRNESS_KEY_MAX,
    FAIRNESS_WEIGHT_MAX,
    FAIRNESS_WEIGHT_MIN,
    decode_plan,
    plan_digest,
    validate_plan,
)

_ordered = msgspec.msgpack.Encoder(order="deterministic").encode
"""For comparing: the order of keys says nothing."""
TITLE_LENGTH_MAX: Final = 256


def fingerprint(plan: str, given: Any) -> str:
    """Return the digest of definition and input that tells a resent submit from another.

    The order of keys does not matter.
    """
    return hashlib.blake2b(plan.encode() + _ordered(given), digest_size=12).hexdigest()


def keep_plan(tick: Tick, namespace: str, data: bytes) -> str | Refusal:
    """Store an encoded plan in the shard, if it is not there; return its digest.

    Raises `InvalidDefinition` for one that cannot be run.
    """
    if len(data) > tick.limits.plan_bytes:
        return Refusal(
            "limit-exceeded",
            f"the plan has {len(data)} bytes; the limit is {tick.limits.plan_bytes}",
        )
    try:
        plan = decode_plan(data)
    except UNREADABLE as error:
        return Refusal("invalid-definition", f"not a plan: {error}")
    validate_plan(plan)
    digest = plan_digest(plan)
    state = tick.state
    if digest not in state.plans:
        # Compiled first: what cannot be compiled never gets into the log.
        program = Program(plan, digest, namespace, state.builtin)
        tick.emit_shard(PlanStored(digest, data))
        state.programs[digest, namespace] = program
    return digest


def create_run(
    tick: Tick, run: Run, request: SubmitRun, data: bytes, labels: dict[str, str]
) -> None:
    """State that the run exists; unless it waits for a key, it has begun with that."""
    if tick.traced and subjects.TRACE_LABEL not in labels:
        labels = _with_trace(tick, run.key, labels)
    run.input, run.actor, run.labels = data, request.actor, labels
    rate, fairness = None, None
    name, limit, mode = "", 1, 0
    if tick.state.variables:
        run.variables = pinned(tick.state, run.program)
    if run.program.asks_at_entry:
        run.title = title_of(run)
        name, limit, mode = key_of(run)
        rate = run_rate(tick, run)
    if run.program.plan.fairness_key or request.fairness_key:
        fairness = fairness_of(run, request.fairness_key, request.fairness_weight)
    enter(
        tick,
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
            bool(name or rate),
            name,
            limit,
            mode,
            request.carried or None,
            title=run.title,
            fairness=fairness,
            variables=run.variables,
        ),
    )
    if rate is not None and not name:
        tick.emit(run, rate)


def _with_trace(tick: Tick, key: str, labels: dict[str, str]) -> dict[str, str]:
    """Begin a trace with a run that nobody's trace has led to, if it is one of those wanted."""
    trace = root_trace(f"{key}/{tick.state.now_ms}/{tick.chance()}")
    return {**labels, subjects.TRACE_LABEL: trace} if is_among(trace, tick.traced) else labels


def key_of(run: Run) -> tuple[str, int, int]:
    """Return (key, limit, mode) of the concurrency key that a new run waits for; '': none.

    Raises `HeadraceError` when it cannot be evaluated.
    """
    wanted = run.program.plan.concurrency
    return ("", 1, 0) if wanted is None else concurrency(run, 0, wanted)


def fairness_of(run: Run, key: str = "", weight: float = 0.0) -> tuple[str, float] | None:
    """Return (key, weight) of a new run: as the submit says, else as the plan does; None: no key.

    Raises `HeadraceError` when that cannot be.
    """
    plan = run.program.plan
    if not key and plan.fairness_key:
        key = to_string(evaluated(run, 0, plan.fairness_key))
    if not key:
        return None
    weight = weight or plan.fairness_weight
    if len(key.encode()) > FAIRNESS_KEY_MAX:
        raise InvalidRequest(f"a fairness key has at most {FAIRNESS_KEY_MAX} bytes: {key[:80]!r}")
    if not FAIRNESS_WEIGHT_MIN <= weight <= FAIRNESS_WEIGHT_MAX:
        limits = f"{FAIRNESS_WEIGHT_MIN:g} to {FAIRNESS_WEIGHT_MAX:g}"
        raise InvalidRequest(f"a fairness weight is from {limits}, not {weight:g}")
    return key, weight


def run_rate(tick: Tick, run: Run) -> KeyRequested | None:
    """Return the request for a start within the workflow's rate limit, if it has one.

    Raises `HeadraceError` when its key cannot be evaluated.
    """
    wanted = run.program.plan.rate_limit
    return None if wanted is None else rate_request(run, -1, wanted, tick.state.now_ms)


def enter(tick: Tick, run: Run, created: RunCreated) -> None:
    """Put a new run into the state, by the event that says how, and arm its timer."""
    tick.state.runs[run.key] = run
    tick.listing.fresh.append(run.key)
    tick.emit(run, created)
    if run.due:
        tick.timers.push(run.due[0], run.key, 0)


def title_of(run: Run) -> str:
    """Evaluate `run-name`; '' if there is none. Raises `HeadraceError`."""
    written = run.program.plan.run_name
    if not written:
        return ""
    title = to_string(evaluated(run, 0, written))
    return title if len(title) <= TITLE_LENGTH_MAX else title[: TITLE_LENGTH_MAX - 1] + "…"
