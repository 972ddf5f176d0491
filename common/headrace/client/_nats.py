"""The real transport: `headrace.bus`. Imported only when a connection is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Self

from headrace.bus import (
    Bus,
    JetStreamBusy,
    Message,
    NoResponders,
    SharedObjects,
    StorageFull,
    connect,
    credentials,
    stored_lines,
)
from headrace.client._transport import Unsubscribe
from headrace.config import Broker
from headrace.errors import Unavailable, Unreachable
from headrace.messages import subjects

OBJECT_TIMEOUT_S = 30.0


class NatsTransport:
    """A `Transport` over one bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @classmethod
    async def connect(
        cls, servers: Sequence[str], *, timeout_s: float, access: Mapping[str, str]
    ) -> Self:
        """Connect; raises `Unreachable`, naming *servers*, within *timeout_s*.

        *access* as for `Client.connect`.
        """
        login = credentials(Broker(**access)) if access else None  # type: ignore[arg-type]
        bus = await connect(servers, name="headrace-client", wait_s=timeout_s, credentials=login)
        return cls(bus)

    @property
    def address(self) -> str:
        """The servers."""
        return ", ".join(self._bus.servers)

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """See `Transport`."""
        return (await self._bus.request(subject, data, timeout_s=timeout_s)).data

    async def publish(self, subject: str, data: bytes) -> None:
        """See `Transport`."""
        if not self._bus.publish(subject, data):
            raise Unreachable(f"not connected to {self.address}")

    async def subscribe(self, subject: str, callback: Callable[[bytes], None]) -> Unsubscribe:
        """See `Transport`."""

        def on_message(message: Message) -> None:
            callback(message.data)

        subscription = self._bus.subscribe(subject, on_message)

        async def unsubscribe() -> None:
            subscription.close()

        return unsubscribe

    async def put_object(self, bucket: str, name: str, data: bytes) -> None:
        """See `Transport`."""
        objects = SharedObjects(self._bus, bucket, timeout_s=OBJECT_TIMEOUT_S)
        if not await objects.touch(name, size=len(data)):
            # Never written over: somebody may be reading it. But as young as a new one: no sweep
            # takes it before the request that names it is there.
            await objects.put(name, data)

    async def get_object(self, bucket: str, name: str) -> bytes:
        """See `Transport`."""
        return await SharedObjects(self._bus, bucket, timeout_s=OBJECT_TIMEOUT_S).get(name)

    async def store(
        self, subject: str, data: bytes, *, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bool]:
        """See `Transport`."""
        try:
            ack = await self._bus.js.publish(subject, data, timeout_s=timeout_s, headers=headers)
        except NoResponders as error:
            raise Unreachable(f"no stream takes {subject} yet: is a coordinator there?") from error
        except JetStreamBusy as error:
            raise Unreachable(str(error)) from error
        except StorageFull as error:
            raise Unavailable(f"the stream takes no more: {error}") from error
        return ack.seq, ack.duplicate

    async def stored(
        self, stream: str, subject: str, *, after: int = 0
    ) -> AsyncIterator[tuple[int, bytes]]:
        """See `Transport`."""
        assert stream == subjects.LOGS_STREAM, stream
        async for found in stored_lines(self._bus, subject, after=after):
            yield found

    async def close(self) -> None:
        """See `Transport`."""
        await self._bus.close()
