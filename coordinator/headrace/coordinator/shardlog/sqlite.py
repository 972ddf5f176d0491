"""A shard's log in a SQLite file: the embedded engine's, and several shards may share one file.

WAL mode; ``synchronous=FULL`` at level ``journal``, so that a commit is on disk before it is
acknowledged. An append is one statement, so one transaction and one hop to aiosqlite's thread; the
statement inserts only while the epoch row is ours, which fences other processes on the same file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from headrace.coordinator.shardlog.levels import FEATURE_LEVEL
from headrace.coordinator.shardlog.log import Fenced, Fold, Level, LogFull, LogStatus
from headrace.coordinator.shardlog.snapshots import snapshot_name
from headrace.errors import NotFound, Unreachable

BUSY_TIMEOUT_MS = 5_000
"""How long a statement waits for another process's transaction."""
READ_COUNT = 500
FOLLOW_PAUSE_S = 0.1
"""How often a follower looks for entries of another process; our own wake it at once."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ownership (
    shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS entry (
    position INTEGER PRIMARY KEY AUTOINCREMENT, shard INTEGER NOT NULL, payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS entry_by_shard ON entry (shard, position);
CREATE TABLE IF NOT EXISTS snapshot (
    shard INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (shard, name)
);
"""

_TAKE = """
INSERT INTO ownership (shard, epoch, owner) VALUES (?, 1, ?)
ON CONFLICT (shard) DO UPDATE SET epoch = epoch + 1, owner = excluded.owner
RETURNING epoch
"""
_APPEND = """
INSERT INTO entry (shard, payload)
SELECT shard, ? FROM ownership WHERE shard = ? AND epoch = ?
RETURNING position
"""
_READ = (
    "SELECT position, payload FROM entry WHERE shard = ? AND position > ? ORDER BY position LIMIT ?"
)
_OWNER = "SELECT epoch, owner FROM ownership WHERE shard = ?"
_STATUS = """
SELECT coalesce(min(position), 0), coalesce(max(position), 0), count(*),
       coalesce(sum(length(payload)), 0)
FROM entry WHERE shard = ?
"""

_FULL = {"SQLITE_FULL"}


class _Database:
    """One connection in autocommit mode, opened when first used."""

    def __init__(self, path: Path | str, level: Level, bytes_max: int = 0) -> None:
        self._path, self._level, self._bytes_max = str(path), level, bytes_max
        self._connection: aiosqlite.Connection | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> aiosqlite.Connection:
        """Return the connection; raises `Unreachable` when the file cannot be used."""
        async with self._opening:
            if self._connection is None:
                self._connection = await self._connect()
        return self._connection

    async def run(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        """Run one statement, in a transaction of its own, and return all its rows.

        Raises `LogFull` for a full disk (nothing was changed), else `Unreachable`.
        """
        connection = self._connection or await self.open()
        try:
            return list(await connection.execute_fetchall(sql, values))
        except sqlite3.Error as error:
            raise _translated(self._path, error) from error

    async def close(self) -> None:
        """Close the connection; not open is fine."""
        async with self._opening:
            if self._connection is not None:
                connection, self._connection = self._connection, None
                await connection.close()

    async def _connect(self) -> aiosqlite.Connection:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + BUSY_TIMEOUT_MS / 1000
        while True:
            connection: aiosqlite.Connection | None = None
            try:
                connection = await aiosqlite.connect(self._path, isolation_level=None)
                await self._set_up(connection)
            except BaseException as error:
                if connection is not None:
                    await connection.close()
                if not isinstance(error, sqlite3.Error):
                    raise
                # The change to WAL does not wait for others as busy_timeout promises.
                if error.sqlite_errorname != "SQLITE_BUSY" or loop.time() > deadline_s:
                    raise _translated(self._path, error) from error
                await asyncio.sleep(0.01)
            else:
                return connection

    async def _set_up(self, connection: aiosqlite.Connection) -> None:
        durable = "FULL" if self._level == "journal" else "NORMAL"
        await connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        await connection.execute("PRAGMA journal_mode = WAL")
        await connection.execute(f"PRAGMA synchronous = {durable}")
        await connection.executescript(_SCHEMA)
        if self._bytes_max:
            ((page_bytes,),) = await connection.execute_fetchall("PRAGMA page_size")
            pages = max(self._bytes_max // page_bytes, 1)
            await connection.execute(f"PRAGMA max_page_count = {pages}")


class SqliteLog:
    """`ShardLog` in the SQLite file *path*; *bytes_max* limits the file (0: the disk does)."""

    unread = False

    def __init__(
        self, path: Path | str, shard: int = 0, *, level: Level = "journal", bytes_max: int = 0
    ) -> None:
        self._database = _Database(path, level, bytes_max)
        self._shard, self._bytes_max = shard, bytes_max
        self._level: Level = level
        self._epoch = 0
        self._owned = False
        self._closed = False
        self._stored = asyncio.Event()

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
        self._owned = False
        ((epoch,),) = await self._database.run(_TAKE, self._shard, owner)
        while rows := await self._database.run(_READ, self._shard, after, READ_COUNT):
            for position, payload in rows:
                fold(position, payload)
                after = position
        self._epoch = epoch
        self._owned = True
        return self._epoch

    async def append(self, payload: bytes) -> int:
        """See `ShardLog.append`. A failed or cancelled write is in doubt until the next `take`."""
        assert self._owned, "append needs an ownership: take the log (again)"
        self._owned = False
        try:
            rows = await self._database.run(_APPEND, payload, self._shard, self._epoch)
        except LogFull:
            self._owned = True
            raise
        if not rows:
            ((epoch, owner),) = await self._database.run(_OWNER, self._shard)
            raise Fenced(self._shard, epoch=epoch, owner=owner)
        self._owned = True
        self._stored.set()
        return int(rows[0][0])

    async def confirm(self) -> None:
        """See `ShardLog.confirm`."""
        ((epoch, owner),) = await self._database.run(_OWNER, self._shard)
        if epoch != self._epoch:
            raise Fenced(self._shard, epoch=epoch, owner=owner)

    def append_now(self, payload: bytes) -> int:
        """Never: storing waits for the disk."""
        return 0

    async def follow(self, *, after: int) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """See `ShardLog.follow`."""
        while not self._closed:
            self._stored.clear()
            rows = await self._database.run(_READ, self._shard, after, READ_COUNT)
            if rows:
                after = rows[-1][0]
                yield [(position, payload) for position, payload in rows]
            else:
                try:
                    await asyncio.wait_for(self._stored.wait(), FOLLOW_PAUSE_S)
                except TimeoutError:
                    continue

    async def purge(self, *, upto: int) -> None:
        """See `ShardLog.purge`. Freed pages are used again; the file does not shrink."""
        await self._database.run(
            "DELETE FROM entry WHERE shard = ? AND position <= ?", self._shard, upto
        )

    async def status(self) -> LogStatus:
        """See `ShardLog.status`; `bytes` counts payloads."""
        ((first, last, entries, size),) = await self._database.run(_STATUS, self._shard)
        return LogStatus(
            level=self._level,
            first=first,
            last=last,
            entries=entries,
            bytes=size,
            bytes_max=self._bytes_max,
            synced=self._level == "journal",
        )

    async def close(self) -> None:
        """See `ShardLog.close`."""
        self._owned = False
        self._closed = True
        self._stored.set()
        await self._database.close()


class SqliteSnapshotStore:
    """`SnapshotStore` in the SQLite file *path*, which may be the log's."""

    def __init__(self, path: Path | str) -> None:
        self._database = _Database(path, "journal")

    async def put(self, shard: int, position: int, data: bytes) -> str:
        """See `SnapshotStore.put`."""
        name = snapshot_name(position, data)
        await self._database.run(
            "INSERT OR REPLACE INTO snapshot (shard, name, data) VALUES (?, ?, ?)",
            shard,
            name,
            data,
        )
        return name

    async def get(self, shard: int, name: str) -> bytes:
        """See `SnapshotStore.get`."""
        rows = await self._database.run(
            "SELECT data FROM snapshot WHERE shard = ? AND name = ?", shard, name
        )
        if not rows:
            raise NotFound(f"shard {shard}: no snapshot {name}")
        return bytes(rows[0][0])

    async def names(self, shard: int) -> list[str]:
        """See `SnapshotStore.names`."""
        rows = await self._database.run(
            "SELECT name FROM snapshot WHERE shard = ? ORDER BY name", shard
        )
        return [str(name) for (name,) in rows]

    async def delete(self, shard: int, name: str) -> None:
        """See `SnapshotStore.delete`."""
        await self._database.run("DELETE FROM snapshot WHERE shard = ? AND name = ?", shard, name)

    async def close(self) -> None:
        """Close the file; not open is fine."""
        await self._database.close()


def _translated(path: str, error: sqlite3.Error) -> LogFull | Unreachable:
    if getattr(error, "sqlite_errorname", "") in _FULL:
        return LogFull(f"{path}: {error}")
    return Unreachable(f"{path}: {error}")
