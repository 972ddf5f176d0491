"""The projection of closed runs that lists and filters read: tables, and statements on them.

Synchronous functions on one `sqlite3` connection in autocommit mode; transactions and threads are
the caller's business. `sqlite` keeps its truth in these tables, `jetstream` a copy that it can
make again.

Every filter is an index: a page is read from the end of a range of (state, created_ms, run) under
a label, a workflow or the namespace, one range for each wanted state, merged. With several
filters the narrowest range drives, the others are checked on its entries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from headrace.coordinator.archive.paging import (
    Place,
    check,
    decode_cursor,
    encode_cursor,
    page_size,
    view,
    wanted_states,
)
from headrace.coordinator.archive.store import RunSummary
from headrace.messages import ListRuns, RunPage

SCHEMA: Final = """
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  namespace TEXT NOT NULL,
  run TEXT NOT NULL,
  workflow TEXT NOT NULL,
  state TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  finished_ms INTEGER NOT NULL,
  origin INTEGER NOT NULL,  -- where the record came from: a stream's sequence, or 0
  summary BLOB NOT NULL,    -- msgpack of RunSummary
  UNIQUE (namespace, run)
);
CREATE INDEX runs_by_state ON runs (namespace, state, created_ms, run);
CREATE INDEX runs_by_workflow ON runs (namespace, workflow, state, created_ms, run);
CREATE INDEX runs_by_finish ON runs (finished_ms, namespace, run);
CREATE TABLE labels (
  namespace TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  state TEXT NOT NULL,
  created_ms INTEGER NOT NULL,
  run TEXT NOT NULL,
  workflow TEXT NOT NULL,
  PRIMARY KEY (namespace, name, value, state, created_ms, run)
) WITHOUT ROWID;
"""

SEGMENTS_WITHIN: Final = """
namespace = ?1 AND run = ?2 AND first <= ?4 AND first >= coalesce(
  (SELECT max(first) FROM segments WHERE namespace = ?1 AND run = ?2 AND first <= ?3 + 1), 0)
"""
"""Which rows of a table `segments` `Archive.history` wants: of namespace, run, after, upto."""

_PROBE: Final = 10_000
"""Entries counted at most to find out which of several filters is the narrowest."""

_KEYS_A_STATEMENT: Final = 400
"""Pairs in one IN list; SQLite takes at least 999 parameters."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RunSummary).decode

Key = tuple[str, str]
"""(namespace, run id)"""


def known(db: sqlite3.Connection, keys: Sequence[Key]) -> set[Key]:
    """Return those of *keys* that are there already."""
    found: set[Key] = set()
    for start in range(0, len(keys), _KEYS_A_STATEMENT):
        part = keys[start : start + _KEYS_A_STATEMENT]
        marks = ",".join(["(?,?)"] * len(part))
        found.update(
            db.execute(
                # Not `IN (VALUES …)`, for which SQLite would scan; the keys drive (CROSS JOIN).
                f"WITH keys (namespace, run) AS (VALUES {marks}) SELECT k.namespace, k.run"
                " FROM keys AS k CROSS JOIN runs AS r"
                " ON r.namespace = k.namespace AND r.run = k.run",
                [value for key in part for value in key],
            )
        )
    return found


def kept(db: sqlite3.Connection, after: Key, limit: int) -> list[Key]:
    """Return the first *limit* keys behind *after* of runs, or of which there are segments."""
    # Each half by its index, and no more of it than can be wanted.
    half = "SELECT * FROM (SELECT DISTINCT namespace, run FROM {} WHERE (namespace, run) > (?, ?)"
    half += " ORDER BY namespace, run LIMIT ?)"
    sql = f"{half.format('runs')} UNION {half.format('segments')} ORDER BY 1, 2 LIMIT ?"
    return db.execute(sql, (*after, limit, *after, limit, limit)).fetchall()


def add(db: sqlite3.Connection, summaries: Sequence[RunSummary], *, origin: int = 0) -> set[Key]:
    """Add runs that are not there yet (the first record of a run stands); return their keys."""
    seen = known(db, [(one.namespace, one.run) for one in summaries])
    fresh: dict[Key, RunSummary] = {}
    for one in summaries:
        key = (one.namespace, one.run)
        if key not in seen:
            fresh.setdefault(key, one)
    db.executemany(
        "INSERT INTO runs (namespace, run, workflow, state, created_ms, finished_ms, origin,"
        " summary) VALUES (?,?,?,?,?,?,?,?)",
        [
            (
                one.namespace,
                one.run,
                one.workflow,
                one.state,
                one.created_ms,
                one.finished_ms,
                origin,
                _encode(one),
            )
            for one in fresh.values()
        ],
    )
    db.executemany(
        "INSERT INTO labels (namespace, name, value, state, created_ms, run, workflow)"
        " VALUES (?,?,?,?,?,?,?)",
        [row for one in fresh.values() for row in _labels(one)],
    )
    return set(fresh)


def get(db: sqlite3.Connection, namespace: str, run: str) -> RunSummary | None:
    """Return one run."""
    row = db.execute(
        "SELECT summary FROM runs WHERE namespace = ? AND run = ?", (namespace, run)
    ).fetchone()
    return None if row is None else _decode(row[0])


def finished(db: sqlite3.Connection, *, before_ms: int, limit: int) -> list[Key]:
    """Return at most *limit* of the runs that finished before *before_ms*, oldest first."""
    return db.execute(
        "SELECT namespace, run FROM runs WHERE finished_ms < ?"
        " ORDER BY finished_ms, namespace, run LIMIT ?",
        (before_ms, limit),
    ).fetchall()


def remove(db: sqlite3.Connection, namespace: str, run: str) -> int | None:
    """Remove one run; return where its record came from, or None if it was not there."""
    rows = db.execute(
        "DELETE FROM runs WHERE namespace = ? AND run = ? RETURNING origin, summary",
        (namespace, run),
    ).fetchall()
    if not rows:
        return None
    ((origin, summary),) = rows
    db.executemany(
        "DELETE FROM labels WHERE namespace = ? AND name = ? AND value = ? AND state = ?"
        " AND created_ms = ? AND run = ?",
        [label[:6] for label in _labels(_decode(summary))],
    )
    return int(origin)


def page(db: sqlite3.Connection, namespace: str, query: ListRuns) -> RunPage:
    """Return the page of *query*. Raises `InvalidRequest` for a bad cursor or filter."""
    check(query)
    after = decode_cursor(query.cursor)
    states = wanted_states(query)
    if not states:
        return RunPage(runs=[])
    size = page_size(query)
    ranges = _ranges(namespace, query)
    driver = ranges[0] if len(ranges) == 1 else _narrowest(db, ranges, states, query, after)
    parts: list[str] = []
    arguments: list[Any] = []
    for state in states:
        sql, values = _entries(driver, namespace, state, query, after)
        parts.append(f"SELECT * FROM ({sql} ORDER BY p.created_ms DESC, p.run DESC LIMIT ?)")
        arguments += [*values, size + 1]
    rows = db.execute(
        "SELECT r.summary FROM (SELECT created_ms, run FROM ("
        + " UNION ALL ".join(parts)
        + ") ORDER BY created_ms DESC, run DESC LIMIT ?) AS p"
        " JOIN runs AS r ON r.namespace = ? AND r.run = p.run"
        " ORDER BY p.created_ms DESC, p.run DESC",
        [*arguments, size + 1, namespace],
    ).fetchall()
    found = [_decode(summary) for (summary,) in rows[:size]]
    cursor = ""
    if len(rows) > size:
        cursor = encode_cursor(Place(found[-1].created_ms, found[-1].run))
    return RunPage(runs=[view(one) for one in found], cursor=cursor)


class _Range(msgspec.Struct, frozen=True):
    """A run of index entries, ordered by (created_ms, run) under each state."""

    source: str
    where: str
    values: tuple[str, ...]
    label: str = ""


def _ranges(namespace: str, query: ListRuns) -> list[_Range]:
    """Return the ranges that could drive *query*: each holds all that it wants."""
    ranges = [
        _Range(
            "labels AS p",
            "p.namespace = ? AND p.name = ? AND p.value = ?",
            (namespace, name, value),
            label=name,
        )
        for name, value in sorted(query.labels.items())
    ]
    if query.workflow:
        ranges.append(
            _Range(
                "runs AS p INDEXED BY runs_by_workflow",
                "p.namespace = ? AND p.workflow = ?",
                (namespace, query.workflow),
            )
        )
    return ranges or [_Range("runs AS p INDEXED BY runs_by_state", "p.namespace = ?", (namespace,))]


def _narrowest(
    db: sqlite3.Connection,
    ranges: list[_Range],
    states: Sequence[str],
    query: ListRuns,
    after: Place | None,
) -> _Range:
    """Return the range with the fewest entries behind the cursor, as far as `_PROBE` tells."""

    def entries(one: _Range) -> int:
        count = 0
        for state in states:
            sql, values = _span(one, state, query, after)
            (found,) = db.execute(
                f"SELECT count(*) FROM (SELECT 1 {sql} LIMIT ?)", [*values, _PROBE]
            ).fetchone()
            count += found
        return count

    return min(ranges, key=entries)


def _span(
    driver: _Range, state: str, query: ListRuns, after: Place | None
) -> tuple[str, list[Any]]:
    """Return the FROM and WHERE of one state's entries of *driver*, and their parameters."""
    sql = f"FROM {driver.source} WHERE {driver.where} AND p.state = ?"
    values: list[Any] = [*driver.values, state]
    if query.since_ms:
        sql += " AND p.created_ms >= ?"
        values.append(query.since_ms)
    if after is not None:
        sql += " AND (p.created_ms, p.run) < (?, ?)"
        values += [after.created_ms, after.run]
    return sql, values


def _entries(
    driver: _Range, namespace: str, state: str, query: ListRuns, after: Place | None
) -> tuple[str, list[Any]]:
    """Return the SELECT of one state's entries that match all of *query*."""
    sql, values = _span(driver, state, query, after)
    sql = "SELECT p.created_ms, p.run " + sql
    if query.workflow and driver.label:
        sql += " AND p.workflow = ?"
        values.append(query.workflow)
    for name, value in query.labels.items():
        if name != driver.label:
            sql += (
                " AND EXISTS (SELECT 1 FROM labels AS l WHERE l.namespace = ? AND l.name = ?"
                " AND l.value = ? AND l.state = ? AND l.created_ms = p.created_ms"
                " AND l.run = p.run)"
            )
            values += [namespace, name, value, state]
    return sql, values


def _labels(one: RunSummary) -> list[tuple[Any, ...]]:
    return [
        (one.namespace, name, value, one.state, one.created_ms, one.run, one.workflow)
        for name, value in one.labels.items()
    ]
