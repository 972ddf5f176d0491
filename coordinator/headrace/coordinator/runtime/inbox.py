"""What waits for a shard's owner, within a budget of bytes; and replies that wait for the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core import Machine, OutMessage, Refusal
from headrace.messages import (
    Claim,
    ClientReply,
    ClientRequest,
    ListRuns,
    ReplyBatch,
    ResultBatch,
    ResultReply,
    TurnReply,
    TurnReport,
    encode,
)

Respond = Callable[[bytes], object]
_encode = msgspec.msgpack.Encoder().encode
LATER = encode(ResultReply([], 1_000))
TURN_LATER = encode(TurnReply(retry_after_ms=1_000))
TICK_ITEMS_MAX = 2_000
"""Inbox items of one tick, so that an append stays short."""
TICK_BYTES_MAX = 4 * 1024 * 1024
"""And their bytes, about."""
_NONE = msgspec.Raw(b"\xc0")


def fills_a_tick(count: int, size: int) -> bool:
    """Tell whether so many items, of so many bytes, are enough for one tick."""
    return count >= TICK_ITEMS_MAX or size >= TICK_BYTES_MAX


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

    __slots__ = ("_waiter", "held", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self.held = False
        """Somebody else is about to look: who waits is not woken by `set`."""
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """There is something to do."""
        self.is_set = True
        if not self.held:
            self.nudge()

    def nudge(self) -> None:
        """Let who waits look around, though there may be nothing to do."""
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

    async def within(self, left_s: float) -> None:
        """Return when there is something to do; after *left_s* at the latest there is."""
        if left_s <= 0:
            return
        handle = asyncio.get_running_loop().call_later(left_s, self.set)
        try:
            await self.wait()
        finally:
            handle.cancel()


class PendingBatch:
    """A client's batch of requests; answered as one, when the last reply is there."""

    __slots__ = ("_left", "_replies", "_respond", "namespace", "new_runs", "requests", "size")
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
        self.new_runs = 0
        """Submits that were not turned away."""

    @property
    def is_answered(self) -> bool:
        """Whether every request has its reply, and the batch was answered."""
        return not self._left

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


class Work(msgspec.Struct, frozen=True):
    """Something of the owner's own, for a coming tick."""

    apply: Callable[[Machine], None]
    makes_room: bool = False
    """It is done although the log is full."""


class Results(msgspec.Struct, frozen=True):
    """A worker's results. `respond` is None if nobody waits for an answer."""

    batch: ResultBatch
    respond: Respond | None


class ClaimAsked(NamedTuple):
    """A worker asks whether it may begin an at-most-once attempt."""

    claim: Claim
    respond: Respond


class TurnTold(NamedTuple):
    """A worker reports what a workflow function did."""

    report: TurnReport
    respond: Respond


class Delivery(NamedTuple):
    """Another shard's outbox message."""

    message: str
    content: OutMessage
    respond: Respond


Item = PendingBatch | Results | ClaimAsked | TurnTold | Delivery | Work


class Inbox:
    """One owner's. What comes from outside counts against a budget of bytes; own work does not."""

    def __init__(self, bytes_max: int, now_s: Callable[[], float]) -> None:
        self.bytes = 0
        """Of what waits."""
        self.new_runs = 0
        """In what waits; whoever puts it there adds them."""
        self.wake = Wake()
        self._bytes_max, self.now_s = bytes_max, now_s
        self.is_timed = True
        """Whether anybody asks for `standing_s`."""
        self._since_s = 0.0
        self._items: list[Item] = []
        self._sizes: list[int] = []
        """Of the items, in bytes."""

    def offer(self, item: Item, size: int) -> bool:
        """Take *item* unless the inbox is full; tell which."""
        if self.bytes + size > self._bytes_max:
            return False
        self.bytes += size
        if self.is_timed and not self._items:
            self._since_s = self.now_s()
        self._items.append(item)
        self._sizes.append(size)
        wake = self.wake
        wake.is_set = True
        if not wake.held:
            wake.nudge()
        return True

    @property
    def standing_s(self) -> float:
        """For so long it has not been empty."""
        return self.now_s() - self._since_s if self._items else 0.0

    def add(self, work: Work) -> None:
        """Take work of our own."""
        if self.is_timed and not self._items:
            self._since_s = self.now_s()
        self._items.append(work)
        self._sizes.append(0)
        self.wake.set()

    def take(self) -> Sequence[Item]:
        """Take what one tick does; the rest is for the next one, which follows at once."""
        items, sizes = self._items, self._sizes
        if len(items) <= TICK_ITEMS_MAX and self.bytes <= TICK_BYTES_MAX:
            self._items, self._sizes = [], []
            self.bytes = self.new_runs = 0
            return items
        size = count = 0
        for item_size in sizes[:TICK_ITEMS_MAX]:
            size += item_size
            if count and size > TICK_BYTES_MAX:
                break
            count += 1
        self._items, self._sizes = items[count:], sizes[count:]
        if self._items:
            self.wake.set()
        return self._out(items[:count], sizes[:count])

    def take_all_but(self, kept: Callable[[Item], bool]) -> Sequence[Item]:
        """Take everything, but for what is to wait on."""
        entries = list(zip(self._items, self._sizes, strict=True))
        self._items = [item for item, _ in entries if kept(item)]
        self._sizes = [size for item, size in entries if kept(item)]
        taken = [(item, size) for item, size in entries if not kept(item)]
        return self._out([item for item, _ in taken], [size for _, size in taken])

    def _out(self, items: list[Item], sizes: list[int]) -> Sequence[Item]:
        self.bytes -= sum(sizes)
        if self.new_runs:
            self.new_runs -= sum(i.new_runs for i in items if isinstance(i, PendingBatch))
        return items

    def close(self, refusal: Refusal) -> None:
        """Refuse what waits."""
        refuse(self._items, refusal)
        self._items, self._sizes = [], []
        self.bytes = self.new_runs = 0


def refuse(items: Iterable[Item], refusal: Refusal) -> None:
    """Refuse clients' requests. Workers and shards without an answer send again by themselves."""
    for item in items:
        if isinstance(item, PendingBatch):
            item.refuse(refusal)


def turn_away(items: Iterable[Item], refusal: Refusal) -> None:
    """There is no room for these: say so to those who wait for an answer."""
    for item in items:
        if isinstance(item, PendingBatch):
            item.refuse(refusal)
        elif isinstance(item, Results):
            if item.respond is not None:
                item.respond(LATER)
        elif isinstance(item, TurnTold):
            item.respond(TURN_LATER)


def waits_for_room(item: Item) -> bool:
    """Tell whether *item* is to wait until there is room in the log."""
    return isinstance(item, Work) and not item.makes_room
