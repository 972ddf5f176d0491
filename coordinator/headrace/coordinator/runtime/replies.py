"""Sends answers; one that is too large for a message is kept, and fetched in parts.

A run of a thousand steps may have outputs of many megabytes, and the broker takes one at a time.
What is kept is bounded in bytes and in time: an asker that comes too late asks its question anew.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from typing import Final, NamedTuple

import msgspec

from headrace.bus import Bus, Message, Subscription
from headrace.errors import Busy, HeadraceError, LimitExceeded
from headrace.messages import ClientReply, Parts, ReplyBatch, decode, encode, subjects
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

KEPT_BYTES_MAX: Final = 128 * 1024 * 1024
KEPT_MS_MAX: Final = 30_000
MARGIN_BYTES: Final = 4 * 1024
"""Of a message: subject, headers."""


_NONE: Final = msgspec.Raw(b"\xc0")


class _Kept(NamedTuple):
    data: bytes
    until_ms: int


class Replies:
    """One coordinator's way to answer. Use: `start`, `respond`, `close`."""

    def __init__(self, bus: Bus, clock: Clock, coordinator: str) -> None:
        self._bus, self._clock, self._coordinator = bus, clock, coordinator
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self.sent = self.failed = 0
        """Answers that left, and such as did not."""
        self._subscription: Subscription | None = None

    @property
    def kept_bytes(self) -> int:
        """Bytes of answers that are fetched in parts."""
        return self._bytes

    def start(self) -> None:
        """Begin to hand out parts."""
        subject = subjects.parts(self._coordinator, "*")
        self._subscription = self._bus.subscribe(subject, self._on_ask)

    def close(self) -> None:
        """Forget everything."""
        if self._subscription is not None:
            self._subscription.close()
        self._kept.clear()
        self._bytes = 0

    def respond(self, message: Message, data: bytes) -> None:
        """Answer *message*; never raises: who gets no answer asks again."""
        part_bytes = self._bus.max_payload_bytes - MARGIN_BYTES
        try:
            if len(data) > part_bytes > 0:
                data = encode(self._keep(data, part_bytes))
            if self._bus.respond(message, data):
                self.sent += 1
            elif message.reply:
                self.failed += 1
        except (Busy, LimitExceeded) as error:
            self.failed += 1
            log.warning("answer not sent", extra={"subject": message.subject, "error": str(error)})

    def _keep(self, data: bytes, part_bytes: int) -> ReplyBatch:
        if len(data) > KEPT_BYTES_MAX:
            text = f"the answer has {len(data)} bytes; the limit is {KEPT_BYTES_MAX}"
            count = len(decode(ReplyBatch, data).replies)
            refused = ClientReply(_NONE, LimitExceeded.code, text)
            return ReplyBatch(1, [refused] * count)
        now_ms = self._clock.now_ms()
        while self._kept and (
            self._bytes + len(data) > KEPT_BYTES_MAX
            or next(iter(self._kept.values())).until_ms < now_ms
        ):
            self._bytes -= len(self._kept.popitem(last=False)[1].data)
        token = secrets.token_hex(8)
        self._kept[token] = _Kept(data, now_ms + KEPT_MS_MAX)
        self._bytes += len(data)
        subject = subjects.parts(self._coordinator, token)
        return ReplyBatch(1, [], Parts(subject, part_bytes, len(data)))

    def _on_ask(self, message: Message) -> None:
        try:
            first = decode(int, message.data)
        except HeadraceError as error:
            log.warning("part not understood", extra={"error": str(error)})
            return
        kept = self._kept.get(message.subject.rpartition(".")[2])
        part_bytes = max(self._bus.max_payload_bytes - MARGIN_BYTES, 1)
        part = kept.data[max(first, 0) :][:part_bytes] if kept is not None else b""
        self.respond(message, part)
