"""Pages of closed runs, read from the ends of index ranges.

A page is merged from one range of (created_ms, run) for each wanted state, under a label, a
workflow or the namespace. With several filters the narrowest range drives, and the others are
checked on its entries.
"""

from __future__ import annotations

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
from headrace.coordinator.archive.postgres.access import Connection
from headrace.coordinator.archive.postgres.rows import decode_summary, indexed
from headrace.messages import ListRuns, RunPage

PROBE: Final = 2_000
"""Entries of a range counted at most to find out which of several filters is the narrowest."""


class Range(msgspec.Struct, frozen=True):
    """Index entries that hold all that a query wants, ordered by (created_ms, run) in a state."""

    table: str
    wanted: dict[str, str]
    """By column."""
    label: str = ""


class Statement:
    """SQL and its parameters."""

    def __init__(self) -> None:
        self.sql = ""
        self.values: list[Any] = []

    def parameter(self, value: Any) -> str:
        """Add a parameter; return how the SQL names it."""
        self.values.append(value)
        return f"${len(self.values)}"


async def page(connection: Connection, namespace: str, query: ListRuns) -> RunPage:
    """Return the page of *query*. Raises `InvalidRequest` for a bad cursor or filter."""
    check(query)
    after, size = decode_cursor(query.cursor), page_size(query)
    if not wanted_states(query):
        return RunPage(runs=[])
    candidates = ranges(namespace, query)
    driver = candidates[0]
    if len(candidates) > 1:
        probe = counting(candidates, query, after)
        (counts,) = await connection.fetch(probe.sql, *probe.values)
        driver = min(zip(counts, candidates, strict=True), key=lambda pair: int(pair[0]))[1]
    statement = selecting(driver, namespace, query, after)
    rows = await connection.fetch(statement.sql, *statement.values)
    found = [decode_summary(row[0]) for row in rows[:size]]
    cursor = ""
    if len(rows) > size:
        cursor = encode_cursor(Place(found[-1].created_ms, found[-1].run))
    return RunPage(runs=[view(one) for one in found], cursor=cursor)


def ranges(namespace: str, query: ListRuns) -> Sequence[Range]:
    """Return the ranges that could drive *query*, one at least."""
    found = [
        Range(
            "labels",
            {"namespace": namespace, "name": indexed(name), "value": indexed(value)},
            label=name,
        )
        for name, value in sorted(query.labels.items())
    ]
    if query.workflow:
        found.append(Range("runs", {"namespace": namespace, "workflow": indexed(query.workflow)}))
    return found or [Range("runs", {"namespace": namespace})]


def counting(candidates: Sequence[Range], query: ListRuns, after: Place | None) -> Statement:
    """Return the statement that counts the entries of each range behind the cursor."""
    statement = Statement()
    counts = []
    for one in candidates:
        parts = [
            f"(SELECT count(*) FROM (SELECT 1 {_span(statement, one, state, query, after)}"
            f" LIMIT {PROBE}) AS entries)"
            for state in wanted_states(query)
        ]
        counts.append(" + ".join(parts))
    statement.sql = f"SELECT {', '.join(counts)}"
    return statement


def selecting(driver: Range, namespace: str, query: ListRuns, after: Place | None) -> Statement:
    """Return the statement that reads the page from *driver*, and one run more."""
    statement = Statement()
    limit = page_size(query) + 1
    newest = "ORDER BY created_ms DESC, run DESC"
    parts = []
    for state in wanted_states(query):
        sql = f"SELECT p.created_ms, p.run {_span(statement, driver, state, query, after)}"
        sql += _others(statement, driver, namespace, state, query)
        parts.append(f"({sql} ORDER BY p.created_ms DESC, p.run DESC LIMIT {limit})")
    statement.sql = (
        f"SELECT r.summary FROM (SELECT * FROM ({' UNION ALL '.join(parts)}) AS parts"
        f" {newest} LIMIT {limit}) AS p"
        f" JOIN runs AS r ON r.namespace = {statement.parameter(namespace)} AND r.run = p.run"
        " ORDER BY p.created_ms DESC, p.run DESC"
    )
    return statement


def _span(
    statement: Statement, driver: Range, state: str, query: ListRuns, after: Place | None
) -> str:
    """Return the FROM and WHERE of one state's entries of *driver*."""
    wanted = driver.wanted | {"state": state}
    tests = [f"p.{column} = {statement.parameter(value)}" for column, value in wanted.items()]
    if query.since_ms:
        tests.append(f"p.created_ms >= {statement.parameter(query.since_ms)}")
    if after is not None:
        created_ms, run = statement.parameter(after.created_ms), statement.parameter(after.run)
        tests.append(f"(p.created_ms, p.run) < ({created_ms}, {run})")
    return f"FROM {driver.table} AS p WHERE {' AND '.join(tests)}"


def _others(
    statement: Statement, driver: Range, namespace: str, state: str, query: ListRuns
) -> str:
    """Return what else an entry of *driver* must be, as the rest of a WHERE."""
    sql = ""
    if query.workflow and driver.label:
        sql += f" AND p.workflow = {statement.parameter(indexed(query.workflow))}"
    for name, value in query.labels.items():
        if name == driver.label:
            continue
        label = {
            "namespace": namespace,
            "name": indexed(name),
            "value": indexed(value),
            "state": state,
        }
        tests = [f"l.{column} = {statement.parameter(text)}" for column, text in label.items()]
        # Counted, not `EXISTS`: that might be made a join over all entries of the other label.
        sql += (
            f" AND (SELECT count(*) FROM labels AS l WHERE {' AND '.join(tests)}"
            " AND l.created_ms = p.created_ms AND l.run = p.run) > 0"
        )
    return sql
