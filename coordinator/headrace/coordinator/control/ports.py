"""What the control plane needs of its surroundings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias


class IncomingMessage(Protocol):
    """A message from the broker."""

    @property
    def subject(self) -> str:
        """Where it was published."""
        ...

    @property
    def data(self) -> bytes:
        """Its payload."""
        ...


class Subscribed(Protocol):
    """A subscription that lasts over reconnects."""

    def close(self) -> None:
        """Unsubscribe; twice is fine."""
        ...


class ControlBus(Protocol):
    """The part of `headrace.bus.Bus` that is used here."""

    @property
    def connected(self) -> bool:
        """The connection is up; polled at each tick."""
        ...

    def publish(self, subject: str, payload: bytes, /) -> bool:
        """Send; False, having sent nothing, while disconnected."""
        ...

    def subscribe(self, subject: str, callback: Callable[[IncomingMessage], None], /) -> Subscribed:
        """Call *callback* for each message, from the read loop."""
        ...


class DialledBus(ControlBus, Protocol):
    """A connection that whoever asked for it closes."""

    async def close(self) -> None:
        """Disconnect."""
        ...


Redial: TypeAlias = Callable[[], Awaitable[DialledBus]]
"""Makes a fresh connection, or raises `headrace.errors.Unreachable`."""


class Clock(Protocol):
    """`headrace.telemetry.Clock`."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some moment; never goes back."""
        ...
