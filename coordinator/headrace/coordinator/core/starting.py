"""Runs that nobody submits: their definition, a schedule or an event wants them.

They are begun by the outbox, in the shard of their id; a second time nothing happens.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.creation import create_run, keep_plan
from headrace.coordinator.core.state import EMPTY_MAP, Run
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError
from headrace.messages import SubmitRun, subjects
from headrace.plan import check_inputs

PROBLEM_MAX: Final = 1_000
KEPT_MS: Final = 3_600_000
"""A start that was sent twice is known so long after the run has left."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def begin(
    tick: Tick,
    run: str,
    plan: bytes,
    given: bytes,
    labels: dict[str, str],
    *,
    cause: str,
    actor: str,
    mark: str,
    digest: str = "",
) -> str:
    """Begin *run*, which *cause* wants; return why it cannot begin, '' if it did or has before.

    *mark*: the label that tells this run from another one of its id. *digest*: of the plan, if it
    is known; then a plan that is here already is not looked at.
    """
    state, namespace = tick.state, subjects.split_key(run)[0]
    found = state.runs.get(run)
    if found is not None:
        same = found.labels.get(mark) == labels.get(mark)
        return "" if same else f"run {run} is another one"
    if run in state.tombstones or run in tick.evicted:
        return ""
    try:
        kept = digest if digest in state.plans else keep_plan(tick, namespace, plan)
        if isinstance(kept, Refusal):
            return kept.message[:PROBLEM_MAX]
        _create(tick, run, kept, _decode(given), labels, cause=cause, actor=actor)
    except HeadraceError as error:
        return str(error)[:PROBLEM_MAX]
    return ""


def _create(
    tick: Tick,
    run: str,
    digest: str,
    values: dict[str, Any],
    labels: dict[str, str],
    *,
    cause: str,
    actor: str,
) -> None:
    """Create the run. Raises `HeadraceError`, having done nothing."""
    namespace, name = subjects.split_key(run)
    program = tick.state.program(digest, namespace)
    checked = check_inputs(program.plan, values)
    request = SubmitRun(
        run=name,
        request_id=f"start:{cause}:{run}",
        not_after_ms=tick.state.now_ms + KEPT_MS,
        actor=actor,
        plan=digest,
        input=values,
        explicit=True,
    )
    data = _encode(checked) if checked else EMPTY_MAP
    create_run(tick, Run(run, program), request, data, {**program.plan.labels, **labels})
