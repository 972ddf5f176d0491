"""A connection to the broker: publish, request, subscribe."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from nats.errors import Error as NatsError

from headrace.bus._client import DirectSubscription, OnMessage, WireClient
from headrace.bus._errors import Disconnected, NoResponders, TimedOut
from headrace.bus._facts import ServerFacts, server_facts
from headrace.bus._wire import Message, check_subject, encode_headers
from headrace.config import shown_address
from headrace.errors import Busy, LimitExceeded

if TYPE_CHECKING:
    from headrace.bus._jetstream import JetStream
    from headrace.telemetry import BusMetrics

log = logging.getLogger(__name__)

BACKLOG_BYTES_MAX = 64 * 1024 * 1024
"""Above this the broker is not keeping up, and publishing is refused."""

API_TIMEOUT_S = 5.0

_NO_HEADERS: Mapping[str, str] = {}


class Subscription:
    """A subscription that lasts, over reconnects too, until `close`."""

    def __init__(self, client: WireClient, inner: DirectSubscription) -> None:
        self._client, self._inner = client, inner

    @property
    def subject(self) -> str:
        """The subject as subscribed."""
        return self._inner.subject

    def leave(self) -> None:
        """Begin to unsubscribe: what the broker has sent until it reads this still comes.

        After a later `Bus.flush` all of it has come; then `close`.
        """
        self._client.leave(self._inner)

    def close(self) -> None:
        """Unsubscribe; messages already read may still be on their way. Twice is fine."""
        self._client.remove(self._inner)


class Bus:
    """One connection. Everything here belongs to one event loop and is not thread-safe.

    Callbacks are called synchronously from the read loop: they must be short and must not block.
    What a callback raises is logged and goes no further.
    """

    def __init__(
        self, servers: Sequence[str], name: str, *, api_timeout_s: float = API_TIMEOUT_S
    ) -> None:
        self.servers = tuple(shown_address(server) for server in servers)
        """Addresses of the broker, without logins: they stand in messages, logs and answers."""
        self.name = name
        self.api_timeout_s = api_timeout_s
        """Longest wait for an answer of the broker's own API."""
        self.generation = 0
        """Connections made so far; changes with each reconnect."""
        self._client = WireClient(self._lost)
        self._ready = False
        self._closed = False
        self._waiting: set[asyncio.Future[Any]] = set()
        self._requests: dict[str, asyncio.Future[Message]] = {}
        self._inbox = f"_INBOX.{os.urandom(11).hex()}"
        self._token = 0
        self._on_up: list[Callable[[], None]] = []
        self._on_down: list[Callable[[str], None]] = []
        self._metrics: BusMetrics | None = None

    # -- the connection ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """The connection is up and its subscriptions are in place; cheap enough to poll."""
        return self._ready and self._client.up

    @property
    def clustered(self) -> bool:
        """The server that we are connected to, or last were, has others beside it."""
        return bool(self._client._server_info.get("cluster"))

    @property
    def max_payload_bytes(self) -> int:
        """The largest payload (with headers) that the broker takes."""
        return self._client.max_payload

    @property
    def backlog_bytes(self) -> int:
        """Bytes published and not yet taken by the broker, about."""
        return self._client.backlog_bytes

    def count_in(self, metrics: BusMetrics) -> None:
        """Count in *metrics* from now on: the connection, requests, the broker's errors."""
        self._metrics = metrics
        client = self._client
        metrics.connected.follow(lambda: float(self.connected))
        metrics.sent_messages.follow(lambda: client.sent_messages)
        metrics.sent_bytes.follow(lambda: client.sent_bytes)
        metrics.received_messages.follow(lambda: client.received_messages)
        metrics.received_bytes.follow(lambda: client.received_bytes)
        metrics.subscriptions.follow(lambda: client.num_subscriptions)
        metrics.backlog_bytes.follow(lambda: client.backlog_bytes)
        metrics.requests_open.follow(lambda: len(self._requests))

    def on_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* after each later reconnect; the answer, when called, ends that."""
        self._on_up.append(callback)
        return partial(_remove, self._on_up, callback)

    def on_down(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call *callback* with the reason at each loss; the answer, when called, ends that."""
        self._on_down.append(callback)
        return partial(_remove, self._on_down, callback)

    async def close(self) -> None:
        """Send what is pending and disconnect; waiting requests fail. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._fail_waiting("closed")
        self._ready = False
        try:
            async with asyncio.timeout(2):
                await self._client.close()
        except TimeoutError:
            self._client._abort()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def server_facts(self, *, monitor: str = "") -> ServerFacts:
        """Return what can be known about the server; *monitor* is its ``http://host:port``."""
        return await server_facts(self._client._server_info, monitor)

    # -- messages ------------------------------------------------------------------------------

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> bool:
        """Send a message; return False, having sent nothing, while disconnected.

        True means that it is on its way on a live connection, not that anybody has it. Raises
        `LimitExceeded` over the broker's payload limit, `Busy` when the broker does not keep up.
        """
        if not self.connected:
            return False
        check_subject(subject)
        self._send(subject, reply, payload, headers)
        return True

    def respond(self, message: Message, payload: bytes) -> bool:
        """Answer *message*; False when disconnected or when nobody waits for an answer."""
        if not message.reply or not self.connected:
            return False
        self._send(message.reply, "", payload, _NO_HEADERS)
        return True

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> Message:
        """Send and return the first answer.

        Raises at once `Disconnected` (no connection, or it broke while waiting) and
        `NoResponders`; `TimedOut` after *timeout_s*; all three are `Unreachable`.
        """
        if not self.connected:
            raise Disconnected(f"{subject}: not connected to {self._address()}")
        check_subject(subject)
        loop = asyncio.get_running_loop()
        self._token += 1
        token = f"{self._token:x}"
        future: asyncio.Future[Message] = loop.create_future()
        self._send(subject, f"{self._inbox}.{token}", payload, headers)
        self._requests[token] = future
        self.fail_on_loss(future)
        sent_s = loop.time()
        timer = loop.call_later(timeout_s, _time_out, future, subject, timeout_s)
        outcome = "error"
        try:
            message = await future
            outcome = "ok"
            if message.status == 503 and not message.data:
                outcome = "no_responders"
                raise NoResponders(f"nobody answers on {subject}")
        except TimedOut:
            outcome = "timeout"
            raise
        except Disconnected:
            outcome = "disconnected"
            raise
        finally:
            timer.cancel()
            self._requests.pop(token, None)
            if self._metrics is not None:
                self._metrics.requests.inc(outcome)
                if outcome == "ok":
                    self._metrics.request_seconds.observe(loop.time() - sent_s)
        return message

    def subscribe(self, subject: str, callback: OnMessage, *, queue: str = "") -> Subscription:
        """Call *callback* for each message on *subject*, from the read loop, over reconnects.

        The broker knows of it when a later `flush` has returned.
        """
        check_subject(subject)
        return Subscription(self._client, self._client.add(subject, queue, callback))

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        """Return when the broker has processed everything sent before. Raises `Unreachable`."""
        if not self.connected:
            raise Disconnected(f"not connected to {self._address()}")
        generation = self.generation
        try:
            await self._client.flush(timeout_s)
        except NatsError as error:
            raise TimedOut(f"no answer from {self._address()} in {timeout_s} s") from error
        if generation != self.generation:
            raise Disconnected("the connection broke")

    def fail_on_loss(self, future: asyncio.Future[Any]) -> None:
        """Give *future* the error `Disconnected` if the connection breaks before it is done."""
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        self._token += 1
        return f"{self._inbox}-{self._token:x}"

    @cached_property
    def js(self) -> JetStream:
        """Streams, consumers and stored messages."""
        from headrace.bus._jetstream import JetStream

        return JetStream(self)

    def _send(self, subject: str, reply: str, payload: bytes, headers: Mapping[str, str]) -> None:
        client = self._client
        encoded = encode_headers(headers) if headers else b""
        if len(payload) + len(encoded) > client._max_payload:
            raise LimitExceeded(
                f"{subject}: {len(payload)} bytes, the broker takes {client._max_payload}"
            )
        if (
            client.backlog_bytes > BACKLOG_BYTES_MAX
            and client.measure_backlog() > BACKLOG_BYTES_MAX
        ):
            raise Busy(f"the broker does not keep up: {client.backlog_bytes} bytes wait")
        client.send_message(subject, reply, encoded, payload)

    # -- what the client tells -----------------------------------------------------------------

    def _answered(self, message: Message) -> None:
        future = self._requests.get(message.subject[len(self._inbox) + 1 :])
        if future is not None and not future.done():
            future.set_result(message)

    def _lost(self, reason: str) -> None:
        if not self._ready:
            return
        self._ready = False
        if self._metrics is not None:
            self._metrics.disconnects.inc()
        if not self._closed:
            log.warning("broker connection lost", extra={"bus": self.name, "reason": reason})
        self._fail_waiting(reason)
        for callback in tuple(self._on_down):
            _guarded(callback, reason)

    def _fail_waiting(self, reason: str) -> None:
        for future in tuple(self._waiting):
            if not future.done():
                future.set_exception(Disconnected(f"connection to the broker broke: {reason}"))
                # Who has given up waiting wants no traceback in the log: the loss stands there.
                future.exception()

    def _started(self) -> None:
        """Begin: the first connection stands."""
        self._client.add(f"{self._inbox}.*", "", self._answered)
        self.generation = 1
        self._ready = True

    async def _reconnected(self) -> None:
        self.generation += 1
        self._ready = True
        if self._metrics is not None:
            self._metrics.reconnects.inc()
        log.info("broker connection restored", extra={"bus": self.name, "server": self._address()})
        for callback in tuple(self._on_up):
            _guarded(callback)

    async def _trouble(self, error: Exception) -> None:
        if self._metrics is not None:
            self._metrics.errors.inc()
        log.debug("broker client error", extra={"bus": self.name, "error": str(error)})

    def _address(self) -> str:
        return ", ".join(self.servers)


def _time_out(future: asyncio.Future[Message], subject: str, timeout_s: float) -> None:
    if not future.done():
        future.set_exception(TimedOut(f"no answer on {subject} in {timeout_s:.3g} s"))


def _remove(callbacks: list[Any], callback: object) -> None:
    if callback in callbacks:
        callbacks.remove(callback)


def _guarded(callback: Callable[..., None], *args: object) -> None:
    try:
        callback(*args)
    except Exception:
        log.exception("connection callback failed")
