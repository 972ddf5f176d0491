"""What a client needs of the network. `NatsTransport` (module `_nats`) is the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from headrace.errors import Unavailable

Unsubscribe = Callable[[], Awaitable[None]]


class Transport(Protocol):
    """A connection to the broker. One owner closes it; everything else may be used by many."""

    @property
    def address(self) -> str:
        """The servers as the user named them but for logins, for messages."""
        ...

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """Return the one answer to *data*.

        Raises `Unreachable` when nobody listens, the connection is down or nothing came in time:
        whether the request was taken is unknown then. Raises `LimitExceeded` when the broker
        would not carry a message of this size.
        """
        ...

    async def publish(self, subject: str, data: bytes) -> None:
        """Send without an answer. Raises `Unreachable` while the connection is down."""
        ...

    async def subscribe(self, subject: str, callback: Callable[[bytes], None]) -> Unsubscribe:
        """Call *callback* with each message from now on, until the result is called and awaited."""
        ...

    async def put_object(self, bucket: str, name: str, data: bytes) -> None:
        """Keep *data* under *name*, which must stand for these very bytes; again is fine.

        Raises `Unreachable`, or `Unavailable` where there is no object store.
        """
        raise Unavailable("there is no object store here")

    async def get_object(self, bucket: str, name: str) -> bytes:
        """Return the bytes. Raises `NotFound`, `Unreachable`, or `Unavailable` as above."""
        raise Unavailable("there is no object store here")

    async def store(
        self, subject: str, data: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bool]:
        """Store a message in the stream that takes *subject*.

        Return its number there, and whether the stream has had it before (by `Nats-Msg-Id`).
        Raises `Unreachable` (whether it is stored is unknown), `LimitExceeded`, or `Unavailable`
        when the stream is full or there is none.
        """
        raise Unavailable("there is no stream here")

    def stored(
        self, stream: str, subject: str, *, after: int = 0
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (stream sequence, data) of what *stream* holds now on *subject*, in order.

        Begins behind the sequence *after*, and ends with the last message that was there when
        the call began. Yields nothing if there is no such stream; raises `Unreachable`.
        """
        ...

    async def close(self) -> None:
        """Close the connection; idempotent."""
        ...
