"""The archive in one SQLite file, for the embedded engine and a single coordinator.

WAL with `synchronous=FULL`: what `put` acknowledged is on disk. One connection writes, one reads,
so a long listing holds nobody up. The file is guarded by a lock of the operating system for as
long as it is open: a second process is refused.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headrace.coordinator.archive import index
from headrace.coordinator.archive.database import Database, lock_file
from headrace.coordinator.archive.store import LAST_EVENT, ArchivedRun, RunSummary, Segment
from headrace.errors import Unavailable
from headrace.messages import ListRuns, RunPage

VERSION: Final = 1
"""Of the file's layout, in `user_version`; 0 is a new file."""

_HISTORIES: Final = """
CREATE TABLE segments (
  namespace TEXT NOT NULL,
  run TEXT NOT NULL,
  first INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (namespace, run, first)
);
CREATE TABLE plans (digest TEXT PRIMARY KEY, data BLOB NOT NULL);
"""

_VACUUM_PAGES: Final = 2_000
"""Freed pages given back to the file system after one `expire`: 8 MB."""


class SqliteArchive:
    """See `Archive`."""

    def __init__(self, writer: Database, reader: Database, lock: int) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = lock

    @classmethod
    async def open(cls, path: Path) -> SqliteArchive:
        """Open or create the archive at *path*.

        Raises `Unavailable`: another process has it open, it was written by a newer release, or
        the file cannot be used.
        """
        return await cls._open(path, lock_file(path))

    @classmethod
    async def open_beside(cls, path: Path) -> SqliteArchive:
        """Open the archive at *path* beside the coordinator that has it: for a backup or a restore.

        SQLite keeps the two apart; the lock stays with the coordinator.
        Raises `Unavailable`.
        """
        return await cls._open(path, -1)

    @classmethod
    async def _open(cls, path: Path, lock: int) -> SqliteArchive:
        opened: list[Database] = []
        try:
            opened.append(await Database.open(path))
            await opened[0].read(_prepare, path)
            opened.append(await Database.open(path))
            await opened[1].read(_only_read)
        except BaseException:
            for database in opened:
                await database.close()
            if lock >= 0:
                os.close(lock)
            raise
        return cls(opened[0], opened[1], lock)

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        """Store *runs* in one transaction; see `Archive.put`."""
        if runs:
            await self._writer.write(_put, runs)

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        """See `Archive.put_segment`."""
        await self._writer.write(_put_segments, [(namespace, run, segment.first, segment.data)])

    async def put_plan(self, digest: str, data: bytes) -> None:
        """See `Archive.put_plan`."""
        await self._writer.write(_put_plan, digest, data)

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        """See `Archive.get`."""
        return await self._reader.read(index.get, namespace, run)

    async def known(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """See `Archive.known`."""
        return await self._reader.read(index.known, keys)

    async def keys(self, *, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """See `Archive.keys`."""
        return await self._reader.read(index.kept, after, limit)

    async def history(
        self, namespace: str, run: str, *, after: int = 0, upto: int = LAST_EVENT
    ) -> list[Segment]:
        """See `Archive.history`."""
        return await self._reader.read(_history, namespace, run, after, upto)

    async def plan(self, digest: str) -> bytes | None:
        """See `Archive.plan`."""
        return await self._reader.read(_plan, digest)

    async def list(self, namespace: str, query: ListRuns) -> RunPage:
        """See `Archive.list`."""
        return await self._reader.read(index.page, namespace, query)

    async def expire(self, *, before_ms: int, limit: int) -> int:
        """See `Archive.expire`; gives freed space back to the file system, too."""
        count = await self._writer.write(_expire, before_ms, limit)
        if count:
            await self._writer.read(_shrink)
        return count

    async def close(self) -> None:
        """Close the file and let go of its lock; twice is fine."""
        await self._reader.close()
        await self._writer.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set the connection up, and a new file too."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only heard while the file is empty
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise Unavailable(
            f"archive {path} has layout {version}; this release knows layouts up to {VERSION}"
        )
    if version == 0:
        # One script, one transaction: a crash leaves an empty file or a complete one.
        db.executescript(
            f"BEGIN IMMEDIATE; {index.SCHEMA} {_HISTORIES} PRAGMA user_version = {VERSION}; COMMIT;"
        )


def _only_read(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA query_only = 1")


def _put(db: sqlite3.Connection, runs: Sequence[ArchivedRun]) -> None:
    index.add(db, [one.summary for one in runs])
    _put_segments(
        db,
        [
            (one.summary.namespace, one.summary.run, segment.first, segment.data)
            for one in runs
            for segment in one.segments
        ],
    )


def _put_segments(db: sqlite3.Connection, rows: Sequence[tuple[str, str, int, bytes]]) -> None:
    db.executemany(
        "INSERT OR IGNORE INTO segments (namespace, run, first, data) VALUES (?,?,?,?)", rows
    )


def _put_plan(db: sqlite3.Connection, digest: str, data: bytes) -> None:
    db.execute("INSERT OR IGNORE INTO plans (digest, data) VALUES (?,?)", (digest, data))


def _plan(db: sqlite3.Connection, digest: str) -> bytes | None:
    row = db.execute("SELECT data FROM plans WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else bytes(row[0])


def _history(
    db: sqlite3.Connection, namespace: str, run: str, after: int, upto: int
) -> list[Segment]:
    rows = db.execute(
        f"SELECT first, data FROM segments WHERE {index.SEGMENTS_WITHIN} ORDER BY first",
        (namespace, run, after, upto),
    )
    return [Segment(first, bytes(data)) for first, data in rows]


def _expire(db: sqlite3.Connection, before_ms: int, limit: int) -> int:
    keys = index.finished(db, before_ms=before_ms, limit=limit)
    for key in keys:
        index.remove(db, *key)
    db.executemany("DELETE FROM segments WHERE namespace = ? AND run = ?", keys)
    return len(keys)


def _shrink(db: sqlite3.Connection) -> None:
    # A script, because `execute` makes one step of the statement, and each step frees one page.
    db.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
