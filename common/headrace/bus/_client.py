"""The one place that touches nats-py's insides (2.16).

nats-py keeps: TCP and TLS, authentication, the pool of servers, pings, reconnecting, replaying
subscriptions. Replaced here, each because the original was seen to hurt:

- parsing and dispatch (`_parser`): a callback is called from the read loop, no queue, no task;
- sending: one join and one write a loop iteration; nothing is buffered for a later connection
  (nats-py flushes what a dead connection left behind, so stale appends come back to life);
- a broken connection is aborted, not closed: closing first waits to flush to a peer that may be
  frozen, and the disconnect callback waits with it;
- the socket of a connection attempt that got no answer is closed before the next attempt;
- an attempt to reconnect has an end, and may fail in any way: nats-py knows three kinds of errors,
  and stopped for ever, without a word, at others and at a wait that the transport had cancelled;
- an error line of the broker (expired credentials, slow consumer, …) reconnects instead of closing
  for ever without a word;
- a late PONG for a ping that was given up no longer kills the read loop;
- `flush` is a barrier: what was published before is sent before its PING.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeAlias, cast

from nats.aio.client import Client, Srv
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import ConnectionClosedError, Error, FlushTimeoutError
from nats.protocol import command
from nats.protocol import parser as protocol

from headrace.bus._parser import Parser
from headrace.bus._wire import CRLF, Message

log = logging.getLogger(__name__)

ANSWERS_MAX = 4
"""So many answers a server gives until a connection stands: INFO, TLS, verbose +OK, PONG."""

OnMessage: TypeAlias = Callable[[Message], None]


class DirectSubscription(NatsSubscription):
    """A subscription whose callback is called from the read loop."""

    def __init__(
        self, client: Client, sid: int, subject: str, queue: str, on_message: OnMessage
    ) -> None:
        super().__init__(client, sid, subject, queue=queue)
        self.on_message = on_message


class WireClient(Client):
    """nats-py's client with our own way in and out."""

    def __init__(self, on_down: Callable[[str], None]) -> None:
        super().__init__()
        self._on_down = on_down
        self._reader = Parser(self)
        self._ps = cast("protocol.Parser", self._reader)
        self._write_soon = False
        self._written_bytes = 0
        self.sent_messages = self.sent_bytes = self.received_messages = 0
        self._flushes: set[asyncio.Future[bool]] = set()

    @property
    def received_bytes(self) -> int:
        """Bytes read off all connections so far."""
        return self._reader.read_bytes

    @property
    def num_subscriptions(self) -> int:
        """Subscriptions that there are."""
        return len(self._subs)

    # -- in ------------------------------------------------------------------------------------

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, raw: bytes) -> None:
        """Call the subscription's callback; its errors are logged, never let into the read loop."""
        self.received_messages += 1
        subscription = cast("DirectSubscription | None", self._subs.get(sid))
        if subscription is None:
            return
        try:
            subscription.on_message(Message(subject.decode(), reply.decode(), data, raw))
        except Exception:
            log.exception("message callback failed", extra={"subject": subscription.subject})

    async def _process_pong(self) -> None:
        self._pings_outstanding = 0
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)

    async def _process_err(self, err_msg: str) -> None:
        if protocol.PERMISSIONS_ERR in err_msg.lower():
            log.error("broker refused a subject", extra={"error": err_msg})
            return
        await self._process_op_err(Error(f"nats: {err_msg}"))

    # -- out -----------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Bytes sent now go to a live connection."""
        return self._status == Client.CONNECTED

    def send(self, *parts: bytes) -> None:
        """Send at the end of this loop iteration; dropped when the connection breaks before."""
        self._pending.extend(parts)
        self._pending_data_size += sum(map(len, parts))
        if not self._write_soon:
            self._write_soon = True
            asyncio.get_running_loop().call_soon(self._write)

    def send_message(self, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        """Send one PUB or HPUB; the subject is taken as valid."""
        self.sent_messages += 1
        if headers:
            total = len(headers) + len(data)
            line = f"HPUB {subject} {reply} {len(headers)} {total}\r\n"
            self.send(line.encode(), headers, data, CRLF)
        else:
            self.send(f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, CRLF)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the broker has not taken off our hands, about."""
        return self._pending_data_size + self._written_bytes

    def measure_backlog(self) -> int:
        """Return `backlog_bytes` after asking the transport anew."""
        writer = getattr(self._transport, "_io_writer", None)
        self._written_bytes = writer.transport.get_write_buffer_size() if writer else 0
        return self.backlog_bytes

    def _write(self) -> None:
        self._write_soon = False
        if not self._pending or self._transport is None or not self.up:
            return
        data = b"".join(self._pending)
        self._pending = []
        self._pending_data_size = 0
        self._transport.write(data)
        self.sent_bytes += len(data)
        self.measure_backlog()

    async def flush(self, timeout: float = 2) -> None:
        """Return when the broker has taken everything sent before; nats-py reconnects with it."""
        self._write()
        assert self._transport is not None
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pongs.append(future)
        self._flushes.add(future)
        self._transport.write(protocol.PING)
        try:
            answered = await asyncio.wait_for(future, timeout)
        except TimeoutError:
            if self._reconnection_task is asyncio.current_task():
                # A new connection that does not answer: nats-py would leave its reader running.
                self._abort()
                if self._reading_task is not None:
                    self._reading_task.cancel()
            raise FlushTimeoutError from None
        finally:
            self._flushes.discard(future)
        if not answered:
            raise ConnectionClosedError

    # -- subscriptions -------------------------------------------------------------------------

    def add(self, subject: str, queue: str, on_message: OnMessage) -> DirectSubscription:
        """Subscribe; while disconnected it is only noted, and sent with the next connection."""
        self._sid += 1
        subscription = DirectSubscription(self, self._sid, subject, queue, on_message)
        self._subs[self._sid] = subscription
        if self.up:
            self.send(command.sub_cmd(subject, queue, self._sid))
        return subscription

    def remove(self, subscription: DirectSubscription) -> None:
        """Unsubscribe; twice is fine."""
        if self._subs.pop(subscription._id, None) is not None and self.up:
            self.send(command.unsub_cmd(subscription._id, 0))

    def leave(self, subscription: DirectSubscription) -> None:
        """Tell the broker to send nothing more; what it sends before it reads that still comes."""
        if subscription._id in self._subs and self.up:
            self.send(command.unsub_cmd(subscription._id, 0))

    # -- a broken connection -------------------------------------------------------------------

    async def _process_op_err(self, e: Exception) -> None:
        if not (self.is_closed or self.is_reconnecting):
            self._drop(str(e) or type(e).__name__)
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        task = asyncio.current_task()
        while not self.up:
            # What is aborted need not be waited for; half a TLS connection never says it is closed.
            self._abort()
            self._transport = None
            try:
                await super()._attempt_reconnect()
            except Exception as error:
                await self._error_cb(error)
            if (
                self.is_closed
                or self._reconnection_task is not task
                or (task and task.cancelling())
            ):
                return
            if not self.up:
                self._status = Client.RECONNECTING
                await asyncio.sleep(self.options["reconnect_time_wait"])

    async def _process_connect_init(self) -> None:
        async with asyncio.timeout(ANSWERS_MAX * self.options["connect_timeout"]):
            await super()._process_connect_init()

    async def _connect_to_server(self, s: Srv) -> None:
        self._abort()  # nats-py forgets the socket of a try that got no answer
        await super()._connect_to_server(s)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._write()
        if self.up:
            self._on_down("closed")
        await super()._close(status, do_cbs)

    def _drop(self, reason: str) -> None:
        self._pending = []
        self._pending_data_size = 0
        self._written_bytes = 0
        for future in self._flushes:
            if not future.done():
                future.set_result(False)
        self._abort()
        self._on_down(reason)

    def _abort(self) -> None:
        writer: Any = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
