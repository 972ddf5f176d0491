"""Plans: stored before the runs that name them, and given back."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.creation import keep_plan
from headrace.coordinator.core.requests.mutation import Handler, live_run
from headrace.coordinator.core.tick import Tick
from headrace.messages import GetPlan, StorePlan


def _store_plan(tick: Tick, namespace: str, request: StorePlan) -> Reply:
    return keep_plan(tick, namespace, request.plan)


def _plan(tick: Tick, namespace: str, request: GetPlan) -> Reply:
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    return tick.state.plans[found.program.digest]


HANDLERS: Final[dict[type, Handler]] = {StorePlan: _store_plan, GetPlan: _plan}
