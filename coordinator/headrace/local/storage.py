"""Where an embedded engine keeps things: in memory, or in one folder.

::

    <path>/journal.db    level journal: the log, and snapshots of it
    <path>/snapshot.db   level snapshot: snapshots alone
    <path>/archive.db    closed runs
    <path>/worker/       workspaces of jobs; the lock that keeps a second engine out

A folder belongs to one level: a journal opened at level snapshot would seem to have lost its runs.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from headrace.coordinator.archive import Archive
from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.core import Limits
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.shardlog import (
    Level,
    MemoryLog,
    MemorySnapshotStore,
    ShardLog,
)
from headrace.errors import Conflict, InvalidRequest, Unavailable
from headrace.telemetry import Clock
from headrace.worker.identity import DataDirLock, new_incarnation
from headrace.worker.orphans import kill_orphans, mark

LEVELS: Final[tuple[Level, ...]] = ("memory", "snapshot", "journal")
PAYLOAD_BYTES: Final = 128 * 1024 * 1024
LIMITS: Final = Limits(
    input_bytes=PAYLOAD_BYTES,
    request_bytes=PAYLOAD_BYTES + 256 * 1024,
    output_bytes=PAYLOAD_BYTES,
    journal_bytes=8 * PAYLOAD_BYTES,
)
"""What a cluster keeps in its object store is inline here, and as large as it may be there."""
CLOSED_RUNS_MAX: Final = 10_000
"""Ended runs that level memory still knows."""
SNAPSHOT_MS: Final = 2_000
"""At level snapshot; what happened since the last one is lost in a crash."""
"""Nobody is ever rebuilt from a log in memory: older entries are dropped above this."""


def _memory_log() -> MemoryLog:
    # This process is alone, and its next life begins with a snapshot, or with nothing.
    return MemoryLog(unread=True)


class Storage:
    """What an engine has open. Made by `open_storage`; whoever made it awaits `close`."""

    def __init__(self, level: Level, data_dir: Path, lock: DataDirLock | None) -> None:
        self.level: Level = level
        self.data_dir = data_dir
        """For workspaces; temporary at level memory."""
        self.incarnation = new_incarnation()
        self.log: ShardLog
        self.snapshots: Snapshots
        self.archive: Archive
        self._lock = lock
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def open(self, folder: Path | None, clock: Clock, *, own_process: bool) -> None:
        """Open log, snapshots and archive. Raises `Unavailable`, `Unreachable`."""
        if own_process:
            if folder is not None:
                await asyncio.to_thread(kill_orphans, self.data_dir, self.incarnation)
            mark(self.data_dir, self.incarnation)
        if folder is None:
            self.log, self.archive = _memory_log(), MemoryArchive(runs_max=CLOSED_RUNS_MAX)
            self.snapshots = Snapshots(MemorySnapshotStore(), clock, every_touches=0)
            return
        # Not needed, and not installed with every extra, at level memory.
        from headrace.coordinator.archive.sqlite import SqliteArchive
        from headrace.coordinator.shardlog.sqlite import SqliteLog, SqliteSnapshotStore

        journal = self.level == "journal"
        path = _database(folder, self.level)
        self.log = SqliteLog(path) if journal else _memory_log()
        store = SqliteSnapshotStore(path)
        self._closers.append(store.close)
        if journal:
            self.snapshots = Snapshots(store, clock)
        else:
            self.snapshots = Snapshots(store, clock, every_ms=SNAPSHOT_MS, survives=False)
        self.archive = await SqliteArchive.open(folder / "archive.db")
        self._closers.append(self.archive.close)

    def kill_children(self) -> int:
        """SIGKILL to all processes of this life's steps; blocks. Needs `own_process`."""
        # To a life that never was, everything in the folder is left by others.
        return kill_orphans(self.data_dir, "")

    async def close(self) -> None:
        """Close the stores and let go of the folder; the log is its owner's to close."""
        try:
            for closer in self._closers:
                await closer()
        finally:
            if self._lock is None:
                await asyncio.to_thread(shutil.rmtree, self.data_dir, ignore_errors=True)
            else:
                self._lock.release()


async def open_storage(
    level: str, path: Path | None, clock: Clock, *, own_process: bool = False
) -> Storage:
    """Open what *level* needs below the folder *path*, which is absolute.

    *own_process*: whatever this process starts belongs to steps, and what is left of it when it
    is killed is killed by the next life. Do not say so of a program with children of its own.

    Raises `InvalidRequest` for a level that does not fit the folder, `Conflict` when another
    engine uses the folder, `Unavailable` when it cannot be used.
    """
    known: Level | None = next((one for one in LEVELS if one == level), None)
    if known is None:
        raise InvalidRequest(f"no persistence level {level!r} (there are {', '.join(LEVELS)})")
    if known == "memory" and path is not None:
        levels = "snapshot or journal"
        raise InvalidRequest(
            f"persistence memory keeps nothing in {path}: say {levels}, or no path"
        )
    folder = path
    if folder is None:
        if known != "memory":
            raise InvalidRequest(f"persistence {known} needs a folder")
        data_dir = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="headrace-run-"))
        storage = Storage(known, data_dir, None)
    else:
        other: Level = "snapshot" if known == "journal" else "journal"
        if _database(folder, other).exists():
            raise InvalidRequest(f"{folder} was made with persistence {other}, not {known}")
        storage = Storage(known, folder / "worker", _locked(folder / "worker"))
    try:
        await storage.open(folder, clock, own_process=own_process)
    except BaseException:
        await storage.close()
        raise
    return storage


def _database(folder: Path, level: Level) -> Path:
    return folder / f"{level}.db"


def _locked(data_dir: Path) -> DataDirLock:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = DataDirLock(data_dir)
        lock.acquire()
    except Conflict as error:
        raise Conflict(f"another engine runs workflows in {data_dir.parent}") from error
    except OSError as error:
        raise Unavailable(f"cannot use {data_dir}: {error.strerror}") from error
    return lock
