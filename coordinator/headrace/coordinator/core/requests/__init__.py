"""Clients' requests. A family of them is one module with its `HANDLERS`, and a line in the table.

Every mutation has an id and a not-after time: what is in the log already is answered again, what
comes too late is refused, so that sending again is always safe.
"""

from typing import Final

from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.creation import fingerprint
from headrace.coordinator.core.requests import (
    cached,
    control,
    definitions,
    function,
    locks,
    namespaces,
    patch,
    plans,
    queries,
    schedules,
    submit,
    triggers,
    variables,
)
from headrace.coordinator.core.requests.mutation import Handler
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError
from headrace.messages import ClientRequest

__all__ = ["fingerprint", "handle"]

_HANDLERS: Final[dict[type, Handler]] = {
    **plans.HANDLERS,
    **definitions.HANDLERS,
    **submit.HANDLERS,
    **control.HANDLERS,
    **patch.HANDLERS,
    **queries.HANDLERS,
    **schedules.HANDLERS,
    **triggers.HANDLERS,
    **namespaces.HANDLERS,
    **variables.HANDLERS,
    **locks.HANDLERS,
    **cached.HANDLERS,
    **function.HANDLERS,
}


def handle(tick: Tick, namespace: str, request: ClientRequest) -> Reply:
    """Apply or answer one request; expected refusals are values."""
    handler = _HANDLERS.get(type(request))
    if handler is None:
        return Refusal("invalid-request", f"no shard answers {type(request).__name__}")
    try:
        return handler(tick, namespace, request)
    except HeadraceError as error:
        return Refusal.of(error)
