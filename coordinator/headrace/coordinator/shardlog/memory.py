"""A shard's log in memory. Logs that share a `MemoryLogStore` are several owners of one shard."""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Sequence

from headrace.coordinator.shardlog.levels import FEATURE_LEVEL
from headrace.coordinator.shardlog.log import Fenced, Fold, LogFull, LogStatus


class MemoryLogStore:
    """What lasts: entries, the epoch and its owner.

    *bytes_max*: the log is full then (0: no limit). *bytes_kept*: older entries are dropped above
    this (0: none), for a log that nobody will ever be rebuilt from: only followers read it.
    *last*: positions and epochs begin behind this one.
    """

    def __init__(self, *, bytes_max: int = 0, bytes_kept: int = 0, last: int = 0) -> None:
        self.positions: list[int] = []
        self.payloads: list[bytes] = []
        self.bytes = 0
        self.bytes_max = bytes_max
        self.bytes_kept = bytes_kept
        self.last = last
        """The last position used, by an entry or by an epoch."""
        self.epoch = 0
        self.owner = ""
        self._waiters: set[asyncio.Future[None]] = set()

    def behind(self, position: int) -> list[tuple[int, bytes]]:
        """Return the entries behind *position*."""
        at = bisect.bisect_right(self.positions, position)
        return list(zip(self.positions[at:], self.payloads[at:], strict=True))

    def store(self, payload: bytes) -> int:
        """Append and return the position."""
        self.last += 1
        self.positions.append(self.last)
        self.payloads.append(payload)
        self.bytes += len(payload)
        if self.bytes_kept and self.bytes > 2 * self.bytes_kept:
            self._drop_oldest()
        self.wake()
        return self.last

    def _drop_oldest(self) -> None:
        """Drop half at a time, so that each entry is moved once on average."""
        at = 0
        while self.bytes > self.bytes_kept:
            self.bytes -= len(self.payloads[at])
            at += 1
        del self.positions[:at], self.payloads[:at]

    def wake(self) -> None:
        """Tell the followers to look."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def next_change(self) -> asyncio.Future[None]:
        """Return what is done at the next `wake`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        return waiter


class MemoryLog:
    """`ShardLog` at level ``memory``."""

    def __init__(
        self, shard: int = 0, store: MemoryLogStore | None = None, *, unread: bool = False
    ) -> None:
        """*unread*: of a process that is alone; positions are counted, and nothing is kept."""
        self._shard = shard
        self.unread = unread
        self._store = store or MemoryLogStore()
        self._epoch = 0
        self._closed = False

    @property
    def shard(self) -> int:
        """Number of the shard."""
        return self._shard

    @property
    def epoch(self) -> int:
        """Fencing number of our ownership; 0 before `take`."""
        return self._epoch

    @property
    def feature_level(self) -> int:
        """Ours: nobody of another release reads along."""
        return FEATURE_LEVEL

    async def take(self, owner: str, fold: Fold, *, after: int = 0) -> int:
        """See `ShardLog.take`."""
        store = self._store
        store.last += 1
        store.epoch = self._epoch = store.last
        store.owner = owner
        for position, payload in store.behind(after):
            fold(position, payload)
        return self._epoch

    async def append(self, payload: bytes) -> int:
        """See `ShardLog.append`."""
        return self.append_now(payload)

    async def confirm(self) -> None:
        """See `ShardLog.confirm`."""
        store = self._store
        if store.epoch != self._epoch:
            raise Fenced(self._shard, epoch=store.epoch, owner=store.owner)

    def append_now(self, payload: bytes) -> int:
        """Store *payload*; raises `Fenced` and `LogFull` as `append` does."""
        store = self._store
        assert self._epoch, "append needs an ownership: take the log"
        if store.epoch != self._epoch:
            raise Fenced(self._shard, epoch=store.epoch, owner=store.owner)
        if self.unread:
            store.last += 1
            return store.last
        if store.bytes_max and store.bytes + len(payload) > store.bytes_max:
            raise LogFull(f"shard {self._shard}: {store.bytes} of {store.bytes_max} bytes used")
        return store.store(payload)

    async def follow(self, *, after: int) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """See `ShardLog.follow`."""
        while not self._closed:
            change = self._store.next_change()
            entries = list(self._store.behind(after))
            if entries:
                after = entries[-1][0]
                yield entries
            await change

    async def purge(self, *, upto: int) -> None:
        """See `ShardLog.purge`."""
        store = self._store
        at = bisect.bisect_right(store.positions, upto)
        store.bytes -= sum(map(len, store.payloads[:at]))
        del store.positions[:at], store.payloads[:at]

    async def status(self) -> LogStatus:
        """See `ShardLog.status`."""
        store = self._store
        return LogStatus(
            level="memory",
            first=store.positions[0] if store.positions else 0,
            last=store.positions[-1] if store.positions else 0,
            entries=len(store.positions),
            bytes=store.bytes,
            bytes_max=store.bytes_max,
            synced=False,
        )

    async def close(self) -> None:
        """See `ShardLog.close`."""
        self._closed = True
        self._epoch = 0
        self._store.wake()
