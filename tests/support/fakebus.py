"""A bus and a clock in plain data: publishes are kept, subscribers are told at once.

JetStream is a dictionary of consumers, and of what was asked; tests give the receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from headrace.bus import ConsumerInfo, JetStreamMissing, StreamInfo
from headrace.bus._jetstream import Delivered, StreamState
from headrace.errors import HeadraceError


class FakeClock:
    """Both clocks stand still until told to go on."""

    def __init__(self, wall_ms: int = 1_700_000_000_000) -> None:
        self.wall_ms = wall_ms
        self.s = 1_000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.s

    def advance(self, ms: int) -> None:
        self.wall_ms += ms
        self.s += ms / 1_000


class FakeMessage(NamedTuple):
    subject: str
    data: bytes
    reply: str = ""
    status: int = 0
    headers: Mapping[str, str] = {}


def matches(pattern: str, subject: str) -> bool:
    wanted, tokens = pattern.split("."), subject.split(".")
    for at, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > at
        if at >= len(tokens) or token not in ("*", tokens[at]):
            return False
    return len(wanted) == len(tokens)


class FakeSubscription:
    def __init__(self, bus: FakeBus, subject: str, callback: Callable[[Any], object]) -> None:
        self.bus, self.subject, self.callback = bus, subject, callback

    def close(self) -> None:
        if self in self.bus.subscriptions:
            self.bus.subscriptions.remove(self)


class FakeBus:
    max_payload_bytes = 1024 * 1024
    backlog_bytes = 0
    servers = ("nats://fake",)

    def __init__(self) -> None:
        self.connected = True
        self.generation = 1
        self.deaf = False
        """The broker is frozen: what is published reaches nobody."""
        self.published: list[FakeMessage] = []
        self.subscriptions: list[FakeSubscription] = []
        self.ups: list[Callable[[], None]] = []
        self.answers: dict[str, bytes | HeadraceError] = {}
        self.requested: list[tuple[str, bytes]] = []
        self.js = FakeJetStream(self)
        self._inboxes = 0

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"_INBOX.fake-{self._inboxes}"

    def subscribe(self, subject: str, callback: Any, *, queue: str = "") -> FakeSubscription:
        found = FakeSubscription(self, subject, callback)
        self.subscriptions.append(found)
        return found

    def on_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        self.ups.append(callback)
        return lambda: self.ups.remove(callback)

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        if not self.connected:
            return False
        message = FakeMessage(subject, payload, reply, 0, dict(headers or {}))
        self.published.append(message)
        if not self.deaf:
            self.tell(message)
        return True

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        pass

    def respond(self, message: Any, payload: bytes) -> bool:
        return self.publish(message.reply, payload)

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> FakeMessage:
        self.requested.append((subject, payload))
        answer = self.answers[subject]
        if isinstance(answer, HeadraceError):
            raise answer
        return FakeMessage(subject, answer)

    def tell(self, message: FakeMessage) -> None:
        """Have a message arrive."""
        for subscription in list(self.subscriptions):
            if matches(subscription.subject, message.subject):
                subscription.callback(message)

    def reconnect(self) -> None:
        self.connected = True
        self.generation += 1
        for callback in list(self.ups):
            callback()

    def sent(self, pattern: str) -> list[FakeMessage]:
        """Return what was published on subjects of a pattern, and forget it."""
        found = [message for message in self.published if matches(pattern, message.subject)]
        self.published = [message for message in self.published if message not in found]
        return found


class FakeJetStream:
    def __init__(self, bus: FakeBus) -> None:
        self._bus = bus
        self.created = "t1"
        self.consumers: dict[str, int] = {}
        """Name -> stream sequence up to which it has delivered."""
        self.made: list[str] = []
        self.purged: list[str] = []
        self.deleted: list[str] = []
        self.trouble: HeadraceError | None = None

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    async def ensure_stream(self, config: Any, **_: Any) -> StreamInfo:
        self._check()
        return StreamInfo({}, StreamState(), self.created)

    async def create_stream(self, config: Any) -> StreamInfo:
        return await self.ensure_stream(config)

    async def stream_info(self, stream: str, **_: Any) -> StreamInfo:
        self._check()
        return StreamInfo({}, StreamState(), self.created)

    async def ensure_consumer(self, stream: str, config: Any, **_: Any) -> ConsumerInfo:
        self._check()
        self.made.append(config.durable_name)
        self.consumers.setdefault(config.durable_name, 0)
        return ConsumerInfo(config.durable_name, stream, {})

    async def consumer_info(self, stream: str, consumer: str) -> ConsumerInfo:
        self._check()
        if consumer not in self.consumers:
            raise JetStreamMissing("consumer not found", err_code=10014)
        return ConsumerInfo(consumer, stream, {}, Delivered(0, self.consumers[consumer]))

    async def delete_consumer(self, stream: str, consumer: str) -> bool:
        self._check()
        self.deleted.append(consumer)
        return self.consumers.pop(consumer, None) is not None

    async def purge(self, stream: str, *, subject: str, upto: int = 0, keep: int = 0) -> int:
        self._check()
        self.purged.append(subject)
        return 0
