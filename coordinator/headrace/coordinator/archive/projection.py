"""The index stream as tables: what the records say, and which stored bytes still matter.

Synchronous functions on one connection, inside the caller's transaction. The same records in the
same order give the same tables, on every coordinator and after every rebuild.

Bookkeeping of space: `records` counts for each index message what it said and what of that still
holds; `messages` counts the live segments in each data message. What reaches zero can be deleted
from the streams. An *Expired* record must outlive the records that it voids, else a rebuild would
bring their runs back: it goes when no record before it holds anything void.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from headrace.coordinator.archive import index
from headrace.coordinator.archive.records import Archived, Blob, Expired, Record

SCHEMA: Final = (
    index.SCHEMA
    + """
CREATE TABLE segments (
  namespace TEXT NOT NULL,
  run TEXT NOT NULL,
  first INTEGER NOT NULL,
  sequence INTEGER NOT NULL,
  part INTEGER NOT NULL,
  object TEXT NOT NULL,
  origin INTEGER NOT NULL,
  PRIMARY KEY (namespace, run, first)
) WITHOUT ROWID;
CREATE TABLE records (
  origin INTEGER PRIMARY KEY,
  live INTEGER NOT NULL,
  void INTEGER NOT NULL
);
CREATE INDEX records_dead ON records (origin) WHERE live = 0;
CREATE INDEX records_void ON records (origin) WHERE void > 0;
CREATE TABLE messages (sequence INTEGER PRIMARY KEY, live INTEGER NOT NULL);
CREATE INDEX messages_dead ON messages (sequence) WHERE live = 0;
CREATE INDEX messages_live ON messages (sequence) WHERE live > 0;
CREATE TABLE dead_objects (name TEXT PRIMARY KEY);
CREATE TABLE expiries (origin INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL);
CREATE TABLE progress (origin INTEGER PRIMARY KEY);  -- one row at most: the newest record folded
"""
)

_TABLES: Final = (
    "runs",
    "labels",
    "segments",
    "records",
    "messages",
    "dead_objects",
    "expiries",
    "progress",
)


class Entry(msgspec.Struct, frozen=True):
    """A record with its sequence in the index stream and the broker's time."""

    sequence: int
    time_ms: int
    record: Record


class Sweep(msgspec.Struct, frozen=True):
    """What can be deleted from the streams, in this order."""

    objects: list[str]
    messages: list[int]
    records: list[int]
    expiries: list[int]

    def __bool__(self) -> bool:
        return bool(self.objects or self.messages or self.records or self.expiries)


def create(db: sqlite3.Connection) -> None:
    """Make the tables in an empty database that nobody needs after a crash."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    db.executescript(SCHEMA)


def reset(db: sqlite3.Connection) -> None:
    """Forget everything."""
    for table in _TABLES:
        db.execute(f"DELETE FROM {table}")


def apply(db: sqlite3.Connection, entries: Sequence[Entry], *, upto: int) -> None:
    """Fold records, which must come in the order of the stream, and note that all up to *upto* is
    folded. Records that are folded already are skipped: twice would count them as void."""
    (done,) = db.execute("SELECT coalesce(max(origin), 0) FROM progress").fetchone()
    for entry in entries:
        if entry.sequence <= done:
            continue
        match entry.record:
            case Archived() as record:
                _archived(db, entry.sequence, record)
            case Expired() as record:
                _expired(db, entry, record)
    db.execute("DELETE FROM progress")
    db.execute("INSERT INTO progress (origin) VALUES (?)", (max(done, upto),))


def _archived(db: sqlite3.Connection, origin: int, record: Archived) -> None:
    live = len(index.add(db, record.runs, origin=origin))
    rows = [(b.namespace, b.run, b.first, b.sequence, b.part, b.object) for b in record.blobs]
    added = db.executemany(
        "INSERT OR IGNORE INTO segments (namespace, run, first, sequence, part, object, origin)"
        " VALUES (?,?,?,?,?,?,?)",
        [(*row, origin) for row in rows],
    ).rowcount
    live += max(added, 0)
    ours = rows if added == len(rows) else [row for row in rows if _holds(db, row, origin)]
    counts = Counter({sequence: 0 for *_, sequence, _, _ in rows if sequence})
    counts.update(sequence for *_, sequence, _, _ in ours if sequence)
    for sequence, count in counts.items():
        _count_message(db, sequence, count)
    if len(ours) < len(rows):
        kept = {name for *_, name in ours}
        _void_objects(db, [name for *_, name in rows if name and name not in kept])
    total = len(record.runs) + len(record.blobs)
    db.execute(
        "INSERT OR REPLACE INTO records (origin, live, void) VALUES (?,?,?)",
        (origin, live, total - live),
    )


def _holds(db: sqlite3.Connection, row: tuple[str, str, int, int, int, str], origin: int) -> bool:
    """Tell whether the segment that counts is the one that record *origin* named."""
    found = db.execute(
        "SELECT sequence, part, object, origin FROM segments"
        " WHERE namespace = ? AND run = ? AND first = ?",
        row[:3],
    ).fetchone()
    return bool(found == (*row[3:], origin))


def _expired(db: sqlite3.Connection, entry: Entry, record: Expired) -> None:
    voided: Counter[int] = Counter()
    for namespace, run in record.keys:
        origin = index.remove(db, namespace, run)
        if origin is not None:
            voided[origin] += 1
        gone = db.execute(
            "DELETE FROM segments WHERE namespace = ? AND run = ?"
            " RETURNING sequence, object, origin",
            (namespace, run),
        ).fetchall()
        for sequence, name, where in gone:
            voided[where] += 1
            if sequence:
                _count_message(db, sequence, -1)
            else:
                _void_objects(db, [name])
    db.executemany(
        "UPDATE records SET live = live - ?, void = void + ? WHERE origin = ?",
        [(count, count, origin) for origin, count in voided.items()],
    )
    db.execute(
        "INSERT OR REPLACE INTO expiries (origin, time_ms) VALUES (?,?)",
        (entry.sequence, entry.time_ms),
    )


def _count_message(db: sqlite3.Connection, sequence: int, change: int) -> None:
    db.execute(
        "INSERT INTO messages (sequence, live) VALUES (?, ?)"
        " ON CONFLICT (sequence) DO UPDATE SET live = live + excluded.live",
        (sequence, change),
    )


def _void_objects(db: sqlite3.Connection, names: Sequence[str]) -> None:
    """Mark objects for deletion. Names are never used twice, so nothing that counts is in them."""
    db.executemany(
        "INSERT OR IGNORE INTO dead_objects (name) VALUES (?)", [(name,) for name in names]
    )


def blobs(db: sqlite3.Connection, namespace: str, run: str, after: int, upto: int) -> list[Blob]:
    """Return where a run's segments are, in the order of its events: see `Archive.history`."""
    rows = db.execute(
        "SELECT namespace, run, first, sequence, part, object FROM segments"
        f" WHERE {index.SEGMENTS_WITHIN} ORDER BY first",
        (namespace, run, after, upto),
    )
    return [Blob(*row) for row in rows]


def sweep(db: sqlite3.Connection, *, expiries_before_ms: int, limit: int) -> Sweep:
    """Return what can be deleted, at most *limit* of each kind.

    *Expired* records are kept until *expiries_before_ms* (the broker's clock), so that every
    coordinator that follows the stream has read them.
    """

    def column(sql: str, *values: int) -> list[int]:
        return [row[0] for row in db.execute(sql + " LIMIT ?", (*values, limit))]

    names = db.execute("SELECT name FROM dead_objects LIMIT ?", (limit,))
    return Sweep(
        objects=[str(name) for (name,) in names],
        messages=column("SELECT sequence FROM messages WHERE live = 0 ORDER BY sequence"),
        records=column("SELECT origin FROM records WHERE live = 0 ORDER BY origin"),
        expiries=column(
            "SELECT origin FROM expiries WHERE time_ms < ? AND origin <"
            " coalesce((SELECT min(origin) FROM records WHERE void > 0), 1 << 62)"
            " ORDER BY origin",
            expiries_before_ms,
        ),
    )


def swept(db: sqlite3.Connection, done: Sweep) -> None:
    """Forget what has been deleted from the streams."""
    for sql, values in (
        ("DELETE FROM dead_objects WHERE name = ?", done.objects),
        ("DELETE FROM messages WHERE sequence = ? AND live = 0", done.messages),
        ("DELETE FROM records WHERE origin = ? AND live = 0", done.records),
        ("DELETE FROM expiries WHERE origin = ?", done.expiries),
    ):
        db.executemany(sql, [(value,) for value in values])


def oldest_message(db: sqlite3.Connection) -> int:
    """Return the lowest sequence of a data message that still matters; 0: there is none."""
    (found,) = db.execute("SELECT min(sequence) FROM messages WHERE live > 0").fetchone()
    return int(found or 0)
