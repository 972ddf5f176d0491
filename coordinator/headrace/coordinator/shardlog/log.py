"""What a shard's log promises. The implementations are `memory`, `sqlite` and `jetstream`.

A log is a sequence of opaque entries with rising positions (from 1, gaps allowed) and one writer
at a time. Fencing, not election, makes the writer unique: see design decision records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from headrace.errors import HeadraceError

Level: TypeAlias = Literal["memory", "snapshot", "journal"]
Fold: TypeAlias = Callable[[int, bytes], None]
"""Called with (position, payload) for each entry, in order."""


class Fenced(HeadraceError):
    """Another owner has taken the shard; whatever was not acknowledged is not ours to decide."""

    code = "fenced"

    def __init__(self, shard: int, *, epoch: int, owner: str) -> None:
        self.shard, self.epoch, self.owner = shard, epoch, owner
        super().__init__(f"shard {shard}: epoch {epoch} belongs to {owner}")


class LogFull(HeadraceError):
    """A definite refusal for want of space: the entry is not stored, and the epoch still holds."""

    code = "log-full"
    exit_code = 5


class LogLost(HeadraceError):
    """The log ends before what is known to have been in it: acknowledged entries are gone."""

    code = "log-lost"
    exit_code = 5


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Facts for `flowctl cluster status` and for admission control."""

    level: Level
    first: int
    """Position of the oldest entry kept; 0 for an empty log."""
    last: int
    entries: int
    bytes: int
    bytes_max: int
    """0: no limit known."""
    synced: bool
    """Entries are on disk before they are acknowledged."""


class ShardLog(Protocol):
    """One shard's log, from the point of view of one process."""

    unread: bool
    """Nobody will ever read an entry, so that none need be made: `append_now` takes empty ones."""

    @property
    def shard(self) -> int:
        """Number of the shard."""
        ...

    @property
    def epoch(self) -> int:
        """Fencing number of our ownership; 0 before `take`."""
        ...

    @property
    def feature_level(self) -> int:
        """What every later owner can read, by our ownership; 0 before `take`."""
        ...

    async def take(self, owner: str, fold: Fold, *, after: int = 0) -> int:
        """Become the owner; fold every entry behind position *after*; return the new epoch.

        *owner* names process and incarnation: the same process twice is two owners. Entries that
        are there when `take` returns are all folded; none of a former owner can appear later.
        Raises `Unreachable` when the store does not answer in time.
        """
        ...

    async def append(self, payload: bytes) -> int:
        """Store *payload* durably as the log's level promises; return its position.

        One at a time, after `take`. Payloads must differ from each other (they carry a batch id):
        an unknown outcome is resolved inside by taking a new epoch and looking for the payload.
        Raises `Fenced` (somebody else owns the shard: throw speculative state away), `LogFull`
        (definitely not stored) or `Unreachable` (not resolved in time; the log must be taken
        again before the next append).
        """
        ...

    async def confirm(self) -> None:
        """Return if the shard is still ours, so that what we folded and appended is all there is.

        Raises `Fenced`, or `Unreachable` when nobody says so in time. An append says it too.
        """
        ...

    def append_now(self, payload: bytes) -> int:
        """Store *payload* without waiting, where the log can; else return 0 and store nothing."""
        ...

    def follow(self, *, after: int) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """Yield entries behind *after* as they come, without owning the shard, until closed.

        Those that were read together come together, at least one.
        """
        ...

    async def purge(self, *, upto: int) -> None:
        """Drop entries up to and including position *upto*; the epoch record stays."""
        ...

    async def status(self) -> LogStatus:
        """Return the log's figures."""
        ...

    async def close(self) -> None:
        """Give up ownership quietly and free what is held."""
        ...


class SnapshotStore(Protocol):
    """Where encoded states are kept; which of them count is told by the log, not by the store."""

    async def put(self, shard: int, position: int, data: bytes) -> str:
        """Store *data* and return its name."""
        ...

    async def get(self, shard: int, name: str) -> bytes:
        """Return what was stored under *name*; raises `NotFound`."""
        ...

    async def names(self, shard: int) -> list[str]:
        """Return the names held for *shard*, oldest position first."""
        ...

    async def delete(self, shard: int, name: str) -> None:
        """Drop *name*; absent is fine."""
        ...
