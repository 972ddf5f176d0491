"""One long pull on one durable consumer, by hand.

nats-py's `fetch` makes an inbox, a subscription and a request for each batch; here one inbox lasts,
requests overlap (a new one when half of the last is used up), and a callback takes each message:
4 to 9 µs a message against 12 to 28. Protocol: NATS ADR-13 (pull subscribe internals).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from headrace.bus._wire import Message
from headrace.errors import Unreachable

if TYPE_CHECKING:
    from headrace.bus._bus import Bus, Subscription

log = logging.getLogger(__name__)

_ACK = b"+ACK"
_TERM = b"+TERM"
_SECOND = 1_000_000_000

RETRY_S = 0.25
RETRY_MAX_S = 2.0


class Pull:
    """Asks for messages as long as it is open and calls *on_message* for each, from the read loop.

    At most `demand` messages are asked for at a time. Requests are made again after a reconnect, a
    change of leader, missing heartbeats, and a consumer that is gone (it may be made again).
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        consumer: str,
        on_message: Callable[[Message], None],
        *,
        demand: int = 256,
        expires_s: float = 30.0,
        heartbeat_s: float = 5.0,
    ) -> None:
        assert 0 < heartbeat_s <= expires_s / 2
        self.stream, self.consumer = stream, consumer
        self.trouble = ""
        """Why the last request failed; empty while all is well."""
        self.last_success_s = 0.0
        """`time.monotonic()` of the last sign that our request stands; 0 before the first."""
        self._bus, self._on_message = bus, on_message
        self._demand = demand
        self._expires_s, self._heartbeat_s = expires_s, heartbeat_s
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._outstanding = 0
        self._generation = -1
        self._last_seen_s = 0.0
        self._retry_s = RETRY_S
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._used_up: asyncio.Event | None = None
        """While `leave` waits: set when nothing is asked for any more."""
        self._forget: Callable[[], None] = lambda: None

    # -- for the user --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to pull; without a connection, as soon as there is one."""
        assert self._subscription is None
        assert not self._closed
        self._forget = self._bus.on_up(self._restart)
        self._restart()

    @property
    def demand(self) -> int:
        """How many messages may be on their way to us. More is asked for at once; less takes
        effect as requests run out, or at once when set to 0: what is on its way is lost then, and
        comes again only after the broker's ack-wait (see `pause`)."""
        return self._demand

    @demand.setter
    def demand(self, value: int) -> None:
        self._demand = value
        if self._closed or self._subscription is None:
            return
        if value == 0:
            # Without the inbox the broker drops what was asked for.
            self._drop_inbox()
            self._open_inbox()
        else:
            self._refill()

    def pause(self) -> None:
        """Ask for no more, until `demand` is set; what was asked for may still arrive."""
        self._demand = 0

    async def leave(self) -> None:
        """Ask for nothing more, and `close` when nothing is on its way; until then it still comes.

        What the broker has sent counts as delivered: after a mere `close` it is lost until the
        ack-wait is over. One server forgets what was asked for as soon as it reads that the inbox
        is gone. A server that leads the consumer for another one, for another account too, cannot
        see that inbox, and goes on sending until the request is used up or expires: that is waited
        for, some *expires_s* at most.
        """
        if self._closed:
            return
        self._demand, self._used_up = 0, asyncio.Event()
        try:
            if self._bus.clustered and self._outstanding > 0:
                async with asyncio.timeout(self._expires_s + self._heartbeat_s):
                    await self._used_up.wait()
            if self._subscription is not None:
                self._subscription.leave()
                await self._bus.flush()
        except (TimeoutError, Unreachable) as error:
            log.info("lane left unheard", extra={"consumer": self.consumer, "error": str(error)})
        finally:
            self.close()

    def healthy(self, *, within_s: float = 0.0) -> bool:
        """A pull has succeeded within *within_s* (default: three heartbeats).

        While nothing is asked for, nothing can: then it is enough to be connected.
        """
        if not self._demand and not self._outstanding:
            return self.last_success_s > 0 and self._bus.connected and not self.trouble
        limit_s = within_s or 3 * self._heartbeat_s
        return self.last_success_s > 0 and monotonic() - self.last_success_s <= limit_s

    def ack(self, message: Message) -> bool:
        """Tell the broker that *message* is done; False when disconnected (it comes again)."""
        return self._bus.respond(message, _ACK)

    def term(self, message: Message) -> bool:
        """Drop *message*: never deliver it again."""
        return self._bus.respond(message, _TERM)

    def close(self) -> None:
        """Stop; messages not acknowledged are delivered again to somebody. Twice is fine."""
        self._closed = True
        self._forget()
        if self._timer is not None:
            self._timer.cancel()
        self._drop_inbox()

    # -- inside --------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Forget what was asked for and ask anew, on a fresh inbox."""
        self._drop_inbox()
        self._open_inbox()
        self._generation = self._bus.generation
        self._last_seen_s = monotonic()
        self._refill()
        self._arm(self._heartbeat_s)

    def _open_inbox(self) -> None:
        self._inbox = self._bus.new_inbox()
        self._subscription = self._bus.subscribe(self._inbox, self._receive)

    def _note_end(self) -> None:
        if self._used_up is not None and self._outstanding <= 0:
            self._used_up.set()

    def _drop_inbox(self) -> None:
        self._outstanding = 0
        self._note_end()
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _refill(self) -> None:
        if self._outstanding > self._demand // 2:
            return
        batch = self._demand - self._outstanding
        if batch <= 0 or not self._bus.connected:
            return
        body = {
            "batch": batch,
            "expires": int(self._expires_s * _SECOND),
            "idle_heartbeat": int(self._heartbeat_s * _SECOND),
        }
        if self._bus.publish(self._subject, msgspec.json.encode(body), reply=self._inbox):
            self._outstanding += batch

    def _receive(self, message: Message) -> None:
        if self._closed:
            return
        now_s = self._last_seen_s = monotonic()
        status = message.status
        if status == 0:
            self.last_success_s = now_s
            self._outstanding -= 1
            self._refill()
            self._on_message(message)
            self._note_end()
            return
        if status in (100, 404, 408):
            self.last_success_s = now_s
            self.trouble = ""
            self._retry_s = RETRY_S
            if status != 100:
                self._ended(message)
            return
        self._failed(f"{status} {message.status_text}".strip())

    def _ended(self, message: Message) -> None:
        """A request is over: what it left unused is no longer outstanding."""
        left = message.headers.get("Nats-Pending-Messages", "")
        self._outstanding = max(self._outstanding - int(left), 0) if left.isdigit() else 0
        self._refill()
        self._note_end()

    def _failed(self, trouble: str) -> None:
        """No consumer (503, 409 deleted), leadership change, …: ask again after a pause."""
        if trouble != self.trouble:
            log.info(
                "pull refused",
                extra={"stream": self.stream, "consumer": self.consumer, "trouble": trouble},
            )
        self.trouble = trouble
        self._drop_inbox()
        self._arm(self._retry_s)
        self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)

    def _arm(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._check)

    def _check(self) -> None:
        """Ask again if our request cannot stand any more; else look again later."""
        if self._closed:
            return
        bus = self._bus
        if not bus.connected:
            self._arm(min(self._heartbeat_s, RETRY_S))
        elif (
            self._subscription is None
            or self._generation != bus.generation
            or (self._demand and monotonic() - self._last_seen_s > 2.5 * self._heartbeat_s)
        ):
            self._restart()
        else:
            if self._outstanding == 0:
                self._refill()
            self._arm(min(self._heartbeat_s, 1.0))
