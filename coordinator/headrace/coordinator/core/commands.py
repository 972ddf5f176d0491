"""What the machine is told beside clients' requests and workers' results, and what it answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core.state import OutMessage, Run
from headrace.errors import HeadraceError
from headrace.messages import CancelStep, Task, TurnWake


class Refusal(NamedTuple):
    """An expected "no": a value, not an exception."""

    code: str
    message: str
    retry_after_ms: int = 0

    @classmethod
    def of(cls, error: HeadraceError) -> Refusal:
        """Return *error* as a value."""
        return cls(error.code, str(error), getattr(error, "retry_after_ms", 0))


class Order(NamedTuple):
    """A step that must stop. `lane` is where it was dispatched."""

    namespace: str
    lane: str
    cancel: CancelStep


class Loss(NamedTuple):
    """A dispatched attempt whose holder is lost. `worker`: ``<id>.<incarnation>``, or empty."""

    run: str
    step: int
    attempt: int
    worker: str
    reason: str


class Outgoing(NamedTuple):
    """An outbox message for another shard."""

    message: str
    shard: int
    content: OutMessage


class TickEffects(msgspec.Struct, frozen=True):
    """What may happen once the tick's batch is in the log."""

    tasks: dict[str, list[Task]]
    """By ready lane."""
    orders: list[Order]
    outgoing: list[Outgoing]
    ended: list[Run]
    changed: int
    """How many runs have new events."""
    long: list[Run]
    """Those of them whose history, as far as it is in the state, is long (`LONG_BYTES`)."""
    wakes: list[tuple[str, TurnWake]]
    """(namespace, order) to workers whose turn has news."""


Reply = Any
"""A result that encodes to the wire, or a `Refusal`."""
