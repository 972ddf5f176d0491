"""The fold of events from outside: how far they were read, and what they have begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from headrace.coordinator.core.incoming import Held, TriggerFacts
from headrace.coordinator.core.state import ShardState
from headrace.events import (
    BegunByEvent,
    DebounceEnded,
    EventRunDeclined,
    EventsTaken,
    HeldForQuiet,
    TriggerFailed,
)
from headrace.messages import subjects

DECLINED_KEPT_MS: Final = 600_000
"""The news that a run could not begin may arrive again for so long: it counts once."""
SYSTEM: Final = f"#{subjects.SYSTEM_SHARD}"


def definition_changed(state: ShardState, key: str, *, events: bool) -> None:
    """The newest version of a definition is another one, or there is none any more."""
    incoming = state.incoming
    incoming.matchers = None
    if events:
        incoming.triggers.setdefault(key, TriggerFacts())
    elif incoming.triggers.pop(key, None) is not None:
        for name in [name for name, held in incoming.held.items() if held.begun.definition == key]:
            _let_go(state, name)


def _taken(state: ShardState, event: EventsTaken) -> None:
    incoming = state.incoming
    incoming.stream, incoming.position = event.stream, event.position
    for begun in event.begun:
        _begin(state, begun)
    for key, problem in event.failed:
        _failed(state, key, problem)
    for held in event.held:
        _hold(state, held)


def _begin(state: ShardState, begun: BegunByEvent) -> None:
    facts = state.incoming.triggers[begun.definition]
    facts.started += 1
    facts.last_ms, facts.last_run = state.now_ms, subjects.split_key(begun.run)[1]
    more = (state.plans[begun.plan], begun.input, begun.labels, begun.plan)
    state.post(begun.run, "start-by-event", begun.definition, begun.run, *more)


def _hold(state: ShardState, event: HeldForQuiet) -> None:
    """What is held begins with the plan of its last event, whatever is registered since."""
    before = state.incoming.held.get(event.name)
    plan = event.begun.plan
    state.plan_uses[plan] = state.plan_uses.get(plan, 0) + 1
    first_ms = state.now_ms
    if before is not None:
        first_ms = before.first_ms
        _let_go(state, event.name)
    state.incoming.held[event.name] = Held(event.begun, first_ms, event.due_ms)


def _let_go(state: ShardState, name: str) -> BegunByEvent:
    held = state.incoming.held.pop(name)
    state.plan_uses[held.begun.plan] -= 1
    return held.begun


def _debounced(state: ShardState, event: DebounceEnded) -> None:
    _begin(state, _let_go(state, event.name))


def _failed(state: ShardState, key: str, problem: str) -> None:
    facts = state.incoming.triggers.get(key)
    if facts is not None:
        facts.failed += 1
        facts.problem, facts.problem_ms = problem, state.now_ms


def declined_id(key: str, run: str) -> str:
    """Return under what name it is remembered that a run could not begin."""
    return f"event-declined:{key}:{run}"


def _declined(state: ShardState, event: EventRunDeclined) -> None:
    state.post(SYSTEM, "event-declined", event.definition, event.run, event.problem)


def _trigger_failed(state: ShardState, event: TriggerFailed) -> None:
    name = declined_id(event.definition, event.run)
    state.remember(name, state.now_ms + DECLINED_KEPT_MS)
    _failed(state, event.definition, event.problem)


FOLD: Final[dict[type, Callable[[ShardState, Any], None]]] = {
    EventsTaken: _taken,
    DebounceEnded: _debounced,
    EventRunDeclined: _declined,
    TriggerFailed: _trigger_failed,
}
