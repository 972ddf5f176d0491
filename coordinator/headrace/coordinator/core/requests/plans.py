"""Plans: stored before the runs that name them, and given back."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.requests.mutation import Handler, live_run
from headrace.coordinator.core.state import UNREADABLE
from headrace.coordinator.core.tick import Tick
from headrace.events import PlanStored
from headrace.messages import GetPlan, StorePlan
from headrace.plan import decode_plan, plan_digest, validate_plan


def _store_plan(tick: Tick, namespace: str, request: StorePlan) -> Reply:
    data = request.plan
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


def _plan(tick: Tick, namespace: str, request: GetPlan) -> Reply:
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return tick.state.plans[found.program.digest]


HANDLERS: Final[dict[type, Handler]] = {StorePlan: _store_plan, GetPlan: _plan}
