"""One request, sent until it is answered: round trips, retries, and what the cluster looks like.

Every transport error is an unknown outcome, and every request may be sent twice (mutations carry
a request id that the owner remembers): so a client just sends again until its time is over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from headrace.bus import NoResponders
from headrace.client._group import ask_group
from headrace.client._routes import Routes
from headrace.client._transport import Transport
from headrace.errors import Busy, HeadraceError, LimitExceeded, Unavailable, Unreachable, from_wire
from headrace.messages import (
    ClientBatch,
    ClientReply,
    ClientRequest,
    GetInfo,
    Parts,
    ReplyBatch,
    ServerInfo,
    decode,
    encode,
    subjects,
)

T = TypeVar("T")

PROTOCOL = 1
ATTEMPT_S = 2.0
"""Time that one try gets, beyond what the request asks the server to wait."""
PAUSE_S_MIN, PAUSE_S_MAX = 0.02, 1.0
RETRY_AFTER_S_MAX = 5.0
"""However long a server asks us to wait."""
REPLY_BYTES_MAX = 256 * 1024 * 1024
INFO_AGE_S_MIN = 1.0
"""The slot table is asked for again at most this often while something does not answer."""

TOO_LATE = "too-late"
AGAIN = frozenset((Busy.code, Unreachable.code, "not-owner"))
"""Codes that mean: the same request, again."""


class Pauses:
    """How long to wait before each further try of one request."""

    def __init__(self) -> None:
        self._pause_s = PAUSE_S_MIN

    def after(self, trouble: HeadraceError | None) -> float:
        """Return the seconds to wait: twice those of the last time, at least what a busy server
        asked for; not the same for all who were told the same."""
        pause_s = self._pause_s * random.uniform(0.7, 1.0)
        self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)
        if not isinstance(trouble, Busy):
            return pause_s
        asked_s = min(trouble.retry_after_ms / 1_000, RETRY_AFTER_S_MAX)
        return max(pause_s, asked_s * random.uniform(1.0, 1.5))


class Calls:
    """Round trips of one client in one namespace."""

    def __init__(self, transport: Transport, namespace: str, *, timeout_s: float) -> None:
        self.transport = transport
        self.namespace = namespace
        self.timeout_s = timeout_s
        """Time that a query gets, all tries together."""
        self._routes: Routes | None = None
        self._info: ServerInfo | None = None
        self._info_at = 0.0

    @property
    def routes(self) -> Routes:
        """The slot table; `learn` must have succeeded once."""
        assert self._routes is not None, "learn() comes first"
        return self._routes

    def shard(self, key: str, level: str) -> int:
        """Return the shard for a run key by the newest slot table."""
        return self.routes.shard(key, level)

    @property
    def release(self) -> str:
        """Release of the coordinator that was asked last; empty: not said."""
        return self._info.release if self._info else ""

    @property
    def payload_max(self) -> int:
        """Largest input that the cluster takes, in bytes; 0: not said."""
        return self._info.payload_max if self._info else 0

    @property
    def payload_inline(self) -> int:
        """Largest value that stays in a message; 0: all do, there is no object store."""
        return self._info.payload_inline if self._info else 0

    @property
    def level_shards(self) -> list[tuple[str, list[int]]]:
        """The shards of the weaker durability levels."""
        return list(self._info.level_shards.items()) if self._info else []

    async def learn(self, *, within_s: float | None = None) -> None:
        """Ask the cluster for its slot table, until *within_s* (or `timeout_s`) is over."""
        raw = await self.ask(lambda: subjects.INFO, GetInfo(), within_s=within_s)
        info = decode(ServerInfo, raw)
        self._routes = Routes(info)
        self._info, self._info_at = info, _now()

    async def exchange(
        self, subject: str, requests: Sequence[ClientRequest], *, timeout_s: float
    ) -> list[ClientReply]:
        """Send once; return one reply for each request. Raises `Unreachable`."""
        batch = ClientBatch(PROTOCOL, self.namespace, list(requests))
        data = encode(batch)
        if subjects.everybody(subject):
            answer = await ask_group(self.transport, subject, data, timeout_s=timeout_s)
        else:
            answer = await self.transport.request(subject, data, timeout_s=timeout_s)
        answered = decode(ReplyBatch, answer)
        if answered.parts is not None:
            whole = await self._collect(answered.parts, timeout_s=timeout_s)
            answered = decode(ReplyBatch, whole)
        replies = answered.replies
        if len(replies) != len(requests):
            raise HeadraceError(f"{len(requests)} requests got {len(replies)} replies")
        return replies

    async def _collect(self, parts: Parts, *, timeout_s: float) -> bytes:
        """Fetch a reply that was too large for one message."""
        if parts.size > REPLY_BYTES_MAX:
            raise LimitExceeded(f"a reply of {parts.size} bytes; the limit is {REPLY_BYTES_MAX}")
        data = bytearray()
        while len(data) < parts.size:
            wanted = encode(len(data))
            part = await self.transport.request(parts.subject, wanted, timeout_s=timeout_s)
            if not part:
                raise Unreachable("the reply is not kept any more")
            data += part
        return bytes(data)

    async def reply(
        self,
        subject: Callable[[], str],
        request: ClientRequest,
        *,
        within_s: float | None = None,
        wait_s: float = 0.0,
    ) -> ClientReply:
        """Return the final answer to one request, which may be a refusal.

        *subject* is called for each try, since owners move. *wait_s* is how long the request
        asks the server to wait: within *within_s*, or beyond the `timeout_s` that count without.
        Raises `Unreachable` or `Busy` when the time is over.
        """
        total_s, beyond_s = (self.timeout_s, wait_s) if within_s is None else (within_s, 0.0)
        until = _now() + total_s
        pauses = Pauses()
        while True:
            trouble: HeadraceError
            try:
                left_s = until - _now() + beyond_s
                timeout_s = max(min(ATTEMPT_S + wait_s, left_s), PAUSE_S_MIN)
                (reply,) = await self.exchange(subject(), [request], timeout_s=timeout_s)
            except Unreachable as error:
                trouble = error
            else:
                if reply.code not in AGAIN:
                    return reply
                trouble = refusal(reply)
            pause_s = pauses.after(trouble)
            if _now() + pause_s >= until:
                raise self.given_up(trouble, total_s) from trouble
            await asyncio.sleep(pause_s)
            await self.relearn()

    async def ask(
        self,
        subject: Callable[[], str],
        request: ClientRequest,
        *,
        within_s: float | None = None,
        wait_s: float = 0.0,
    ) -> msgspec.Raw:
        """Like `reply`, but a refusal is raised as the error that it stands for."""
        reply = await self.reply(subject, request, within_s=within_s, wait_s=wait_s)
        if reply.code:
            raise refusal(reply)
        return reply.result

    async def of_namespace(
        self, kind: type[T], request: ClientRequest, *, within_s: float | None = None
    ) -> T:
        """Ask for what belongs to the namespace as a whole: its system shard answers."""
        subject = subjects.command(self.namespace, subjects.SYSTEM_SHARD)
        return result_of(kind, await self.ask(lambda: subject, request, within_s=within_s))

    async def relearn(self) -> None:
        """Look at the slot table again if it may be old; silent if nobody answers."""
        if self._routes is None or _now() - self._info_at < INFO_AGE_S_MIN:
            return
        self._info_at = _now()
        try:
            (reply,) = await self.exchange(subjects.INFO, [GetInfo()], timeout_s=0.5)
        except Unreachable:
            return
        if not reply.code:
            self._info = decode(ServerInfo, reply.result)
            self._routes = Routes(self._info)

    def given_up(self, trouble: HeadraceError, total_s: float) -> HeadraceError:
        """Return what a caller is told whose tries, for *total_s*, all ended like *trouble*."""
        if isinstance(trouble, Busy):
            return trouble
        why = str(trouble)
        if isinstance(trouble, NoResponders):
            # The broker does not say which: who may not ask is heard by nobody.
            why += f": no coordinator serves it, or the login is not for namespace {self.namespace}"
        return Unreachable(
            f"no answer from {self.transport.address} within {total_s:.3g} s ({why})"
        )


def refusal(reply: ClientReply) -> HeadraceError:
    """Return the error that a reply with a code stands for."""
    if reply.code == TOO_LATE:
        return Unavailable(
            f"{reply.message} (do the clocks of this machine and of the cluster agree?)"
        )
    return from_wire(reply.code, reply.message, retry_after_ms=reply.retry_after_ms)


def result_of(kind: type[T], raw: msgspec.Raw) -> T:
    """Return what a reply carries."""
    return decode(kind, raw)


def _now() -> float:
    return asyncio.get_running_loop().time()
