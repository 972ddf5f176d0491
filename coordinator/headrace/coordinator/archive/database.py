"""A SQLite file (or memory) behind aiosqlite, one hop to its thread for each whole transaction."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

import aiosqlite

from headrace.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 5.0
CACHE_KIB = 32 * 1024
"""Pages that a connection keeps; with SQLite's 2 MB, writes to a large index read it each time."""


class Database:
    """One connection and its thread. Errors of the store are `Unavailable`."""

    def __init__(self, connection: aiosqlite.Connection, name: str, lock: int = -1) -> None:
        self._connection = connection
        self._name = name
        self._lock = lock

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open or create *path*. Raises `Unavailable`."""
        try:
            connection = await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
        except sqlite3.Error as error:
            raise Unavailable(f"archive {path}: {error}") from error
        database = cls(connection, str(path))
        try:
            await database.read(lambda db: db.execute(f"PRAGMA cache_size = -{CACHE_KIB}").close())
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    async def open_new(cls, path: Path | None) -> Database:
        """Open an empty database at *path* in place of what is there, or in memory.

        Raises `Unavailable`, also when another process uses the file.
        """
        if path is None:
            return await cls.open(Path(":memory:"))
        lock = lock_file(path)
        try:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            database = await cls.open(path)
        except OSError as error:
            os.close(lock)
            raise Unavailable(f"archive {path}: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise
        database._lock = lock
        return database

    async def read(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs
    ) -> T:
        """Return what *work* returns, called in the connection's thread."""
        return await self._call(work, *args, **kw)

    async def write(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs
    ) -> T:
        """Return what *work* returns, called in the connection's thread in one transaction.

        Whole or not at all, also when the caller is cancelled meanwhile.
        """

        def transaction(db: sqlite3.Connection, /, *args: P.args, **kw: P.kwargs) -> T:
            db.execute("BEGIN IMMEDIATE")
            try:
                result = work(db, *args, **kw)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result

        return await self._call(transaction, *args, **kw)

    async def close(self) -> None:
        """Finish what is queued and close; twice is fine."""
        try:
            await self._connection.close()
        except sqlite3.Error as error:
            raise Unavailable(f"archive {self._name}: {error}") from error
        finally:
            lock, self._lock = self._lock, -1
            if lock >= 0:
                os.close(lock)

    async def _call(
        self, work: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kw: P.kwargs
    ) -> T:
        connection = self._connection
        try:
            # The public methods cost a hop for each statement; the one below takes any function.
            raw = connection._conn
            return cast(T, await connection._execute(work, raw, *args, **kw))  # type: ignore[no-untyped-call]
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
            raise  # ours to mend, not the store's state
        except sqlite3.Error as error:
            raise Unavailable(f"archive {self._name}: {error}") from error
        except ValueError as error:
            # What aiosqlite says of a closed connection.
            raise Unavailable(f"archive {self._name}: closed") from error


def lock_file(path: Path) -> int:
    """Return an open file that holds the lock beside *path*, until it is closed or we die."""
    name = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"archive {path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(file, 20, 0).decode(errors="replace").strip()
        os.close(file)
        raise Unavailable(
            f"archive {path} is open in another process (pid {holder or 'unknown'}): a SQLite "
            "archive is for one coordinator, several need the JetStream or PostgreSQL archive"
        ) from error
    except OSError as error:
        os.close(file)
        raise Unavailable(f"archive {path}: {error.strerror}") from error
    return file
