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
) -> str:
    """Begin *run*, which *cause* wants; return why it cannot begin, '' if it did or has before.

    *mark*: the label that tells this run from another one of its id.
    """
    state = tick.state
    found = state.runs.get(run)
    if found is not None:
        same = found.labels.get(mark) == labels.get(mark)
        return "" if same else f"run {run} is another one"
    if run in state.tombstones or tick.is_evicted(run):
        return ""
    try:
        problem = _create(tick, run, plan, _decode(given), labels, cause=cause, actor=actor)
    except HeadraceError as error:
        problem = str(error)
    return problem[:PROBLEM_MAX]


def _create(
    tick: Tick,
    run: str,
    plan: bytes,
    values: dict[str, Any],
    labels: dict[str, str],
    *,
    cause: str,
    actor: str,
) -> str:
    """Create the run; return why not, else ''. Raises `HeadraceError`, having done nothing."""
    namespace, name = subjects.split_key(run)
    digest = keep_plan(tick, namespace, plan)
    if isinstance(digest, Refusal):
        return digest.message
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
    return ""
