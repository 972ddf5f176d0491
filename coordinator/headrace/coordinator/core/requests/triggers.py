"""Events from outside: what waits for them, and what they have begun; in the system shard."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.commands import Reply
from headrace.coordinator.core.requests.mutation import Handler, elsewhere
from headrace.coordinator.core.tick import Tick
from headrace.messages import ListTriggers, TriggerView
from headrace.plan import decode_plan


def _list(tick: Tick, namespace: str, request: ListTriggers) -> Reply:
    state = tick.state
    refused = elsewhere(state, "events from outside are read")
    if refused is not None:
        return refused
    prefix = f"{namespace}/"
    found: list[TriggerView] = []
    for key, facts in sorted(state.incoming.triggers.items()):
        if not key.startswith(prefix):
            continue
        versions = state.definitions[key]
        version = next(reversed(versions))
        plan = decode_plan(state.plans[versions[version].digest])
        found.append(
            TriggerView(
                definition=key.removeprefix(prefix),
                version=version,
                namespace=namespace,
                subjects=[trigger.subject for trigger in plan.events],
                filters=[trigger.filter for trigger in plan.events],
                started=facts.started,
                failed=facts.failed,
                last_ms=facts.last_ms,
                last_run=facts.last_run,
                problem=facts.problem,
                problem_ms=facts.problem_ms,
                held=sum(held.begun.definition == key for held in state.incoming.held.values()),
            )
        )
    return found


HANDLERS: Final[dict[type, Handler]] = {ListTriggers: _list}
