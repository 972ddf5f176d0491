"""What waits for a shard's owner, within a budget of bytes; and replies that wait for the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.coordinator.core import Refusal
from headrace.messages import ClientReply, ClientRequest, ListRuns, ReplyBatch

Respond = Callable[[bytes], object]
_encode = msgspec.msgpack.Encoder().encode
_NONE = msgspec.Raw(b"\xc0")


def reply_of(value: Any) -> ClientReply:
    """Return a result, or a refusal, as it goes over the wire."""
    if isinstance(value, Refusal):
        return ClientReply(_NONE, value.code, value.message, value.retry_after_ms)
    return ClientReply(msgspec.Raw(_encode(value)))


def short_pages(requests: list[ClientRequest], runs_max: int) -> list[ClientRequest]:
    """Return *requests* with listings of at most *runs_max* runs: the cursor tells of the rest."""
    if all(type(request) is not ListRuns for request in requests):
        return requests
    return [
        msgspec.structs.replace(request, limit=runs_max)
        if isinstance(request, ListRuns) and request.limit > runs_max
        else request
        for request in requests
    ]


class Wake:
    """An `asyncio.Event` for one waiter, at a third of the cost: each tick waits once."""

    __slots__ = ("_waiter", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """There is something to do."""
        self.is_set = True
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def clear(self) -> None:
        """All that was there is being done."""
        self.is_set = False

    def wait(self) -> asyncio.Future[None]:
        """Return what is done once there is something to do; to be awaited at once."""
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        if self.is_set:
            waiter.set_result(None)
        return waiter


class PendingBatch:
    """A client's batch of requests; answered as one, when the last reply is there."""

    __slots__ = ("_left", "_replies", "_respond", "namespace", "requests", "size")
    wants_views = True
    """False: only refusals are of interest (see the embedded engine)."""

    def __init__(
        self, namespace: str, requests: list[ClientRequest], respond: Respond, size: int
    ) -> None:
        self.namespace, self.size = namespace, size
        self.requests: list[ClientRequest | None] = list(requests)
        """None: answered already, before the owner saw it."""
        self._respond = respond
        self._replies: list[ClientReply | None] = [None] * len(requests)
        self._left = len(requests)

    def answer(self, index: int, reply: ClientReply) -> None:
        """Set the reply of one request; a second answer to the same one is ignored."""
        if self._replies[index] is not None:
            return
        self._replies[index] = reply
        self._left -= 1
        if not self._left:
            self._respond(_encode(ReplyBatch(1, [r for r in self._replies if r is not None])))

    def refuse(self, refusal: Refusal) -> None:
        """Answer everything that is still open with *refusal*."""
        for index, reply in enumerate(self._replies):
            if reply is None:
                self.answer(index, reply_of(refusal))
