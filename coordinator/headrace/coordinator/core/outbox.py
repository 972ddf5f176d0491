"""The outbox: intents for other shards, logged with what caused them.

An intent has a deterministic id; the target logs what it did and drops doubles; the source
clears the intent when it is told "logged". A new owner sends again whatever is left.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Final

from headrace.coordinator.core import arrivals, caching, children, keys, schedules
from headrace.coordinator.core.commands import Outgoing
from headrace.coordinator.core.intents import clear, is_held_back
from headrace.coordinator.core.state import OutMessage
from headrace.coordinator.core.tick import Tick
from headrace.events import NamespaceChanged, VariablesChanged


def target(tick: Tick, content: OutMessage) -> int:
    """Return the shard that an intent is for."""
    key = content.shard_key
    return int(key[1:]) if key.startswith("#") else tick.home(key)


def drain_local(tick: Tick) -> bool:
    """Deliver intents for this very shard at once, hand out the others; tell whether any was."""
    state = tick.state
    if not state.outbox_news and tick.posted:
        return False
    state.outbox_news = False
    local = False
    for message, content in list(state.outbox.items()):
        if message not in state.outbox or is_held_back(tick, content):
            continue
        shard = target(tick, content)
        if shard == state.shard:
            if deliver(tick, message, content):
                clear(tick, [message])
                local = True
            else:
                tick.posted.add(message)
        elif message not in tick.posted:
            tick.posted.add(message)
            tick.outgoing.append(Outgoing(message, shard, content))
    return local


def deliver(tick: Tick, message: str, content: OutMessage) -> bool:
    """Apply an intent in its target shard. Idempotent: what is done already changes nothing.

    False: there is no room for it now, or a newer release has sent it than this one; it is to be
    sent again, until somebody who knows it owns the shard. What a newer release has added to the
    arguments of a kind that is known can be done without.
    """
    apply = _APPLY.get(content.kind)
    if apply is None:
        return False
    return apply(tick, *content.args[: _ARGUMENTS[content.kind]]) is not False


def _namespace(tick: Tick, name: str, _holder: str, weight: float, number: int) -> None:
    """The system shard has changed the settings of a namespace."""
    known = tick.state.namespaces.get(name)
    if known is None or known[1] < number:
        tick.emit_shard(NamespaceChanged(name, weight, number))


def _variables(
    tick: Tick, namespace: str, _holder: str, values: dict[str, str], number: int
) -> None:
    """The system shard has changed the variables of a namespace."""
    known = tick.state.variables.get(namespace)
    if known is None or known[0] < number:
        tick.emit_shard(VariablesChanged(namespace, values, number))


_APPLY: Final[dict[str, Callable[..., object]]] = {
    "acquire": keys.acquire,
    "release": keys.release,
    "started": keys.started,
    "granted": keys.granted,
    "expired": keys.lost,
    "cache-get": caching.asked,
    "cache-put": caching.offered,
    "cached": caching.answered,
    "audit": keys.audited,
    "preempt": partial(keys.preempted, reason="preempt"),
    "replaced": partial(keys.preempted, reason="replaced"),
    "start-child": children.start,
    "cancel-child": children.cancel,
    "child-ended": children.ended,
    "start": schedules.start,
    "stop": schedules.stop,
    "run-ended": schedules.run_ended,
    "schedules": schedules.apply_definition,
    "start-by-event": arrivals.start,
    "event-declined": arrivals.declined,
    "namespace": _namespace,
    "variables": _variables,
}
"""By kind; False: there is no room."""


def _arguments(apply: Callable[..., object]) -> int:
    """Return how many arguments behind the tick *apply* takes by position."""
    kinds = [parameter.kind for parameter in inspect.signature(apply).parameters.values()]
    return kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD) - 1


_ARGUMENTS: Final = {kind: _arguments(apply) for kind, apply in _APPLY.items()}
