"""The archive's promises, as transactions.

Every write is `ON CONFLICT DO NOTHING` by the run's key, so several coordinators, or one that has
lost an answer, may write the same. Rows are written in the order of their keys: two writers then
wait for each other, and never in a circle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from headrace.config import Postgres
from headrace.coordinator.archive.postgres import listing, migrations
from headrace.coordinator.archive.postgres.access import Access, Connection
from headrace.coordinator.archive.postgres.rows import (
    decode_summary,
    label_columns,
    run_columns,
)
from headrace.coordinator.archive.store import LAST_EVENT, ArchivedRun, RunSummary, Segment
from headrace.errors import HeadraceError, Unavailable
from headrace.messages import ListRuns, RunPage

log = logging.getLogger(__name__)

_WITHIN: Final = """
namespace = $1 AND run = $2 AND first <= $4 AND first >= coalesce((SELECT max(first)
  FROM segments WHERE namespace = $1 AND run = $2 AND first <= $3::bigint + 1), 0)
"""
"""Which segments `history` wants: of namespace, run, after, upto."""
STATEMENT_BYTES: Final = 4 * 1024 * 1024
"""Histories in one statement, about; a transaction has as many as it needs."""

Key = tuple[str, str]
"""(namespace, run id)"""


class PostgresArchive:
    """See `Archive`. Usable while the database is away: each call raises `Unavailable` then."""

    def __init__(self, settings: Postgres, *, coordinator: str) -> None:
        self._access = Access(settings, name=migrations.session_name(coordinator))
        self._migrate = settings.migrate
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._failed_s, self._failure = 0.0, ""
        """When preparing failed last, and why."""

    async def prepare(self) -> None:
        """Have the tables as this release needs them; calls do it themselves where it is missing.

        Raises `NewerSchema`, `NotAllowed`, `InvalidConfig`, `Conflict`: none of them ends by
        waiting; and `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        async with self._preparing:
            if self._prepared:
                return
            if self._failed_s > asked_s:
                # While we waited for our turn. One after the other, many would wait for long.
                raise Unavailable(self._failure)
            try:
                await self._prepare()
            except HeadraceError as error:
                self._failed_s, self._failure = loop.time(), str(error)
                raise
            self._prepared = True

    async def _prepare(self) -> None:
        if self._migrate:
            for one in await migrations.bring_up(self._access):
                log.info("archive migrated", extra={"migration": one.number, "what": one.name})
        elif missing := (await migrations.look(self._access)).missing:
            raise Unavailable(
                f"{self._access.shown}: migration {missing[0].number} ({missing[0].name}) is "
                "missing and postgres.migrate is false: `flowctl cluster migrate`"
            )

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        """Store *runs* in one transaction; see `Archive.put`."""
        if not runs:
            return
        await self.prepare()
        fresh: dict[Key, RunSummary] = {}
        for one in runs:
            fresh.setdefault((one.summary.namespace, one.summary.run), one.summary)
        rows = sorted(
            (one.summary.namespace, one.summary.run, segment.first, segment.data)
            for one in runs
            for segment in one.segments
        )
        async with self._access.transaction() as connection:
            added = await connection.fetch(
                "INSERT INTO runs (namespace, run, workflow, state, created_ms, finished_ms,"
                " summary) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],"
                " $5::bigint[], $6::bigint[], $7::bytea[])"
                " ON CONFLICT DO NOTHING RETURNING namespace, run",
                *run_columns(fresh[key] for key in sorted(fresh)),
            )
            labels = label_columns(fresh[namespace, run] for namespace, run in added)
            if labels[0]:
                await connection.execute(
                    "INSERT INTO labels (namespace, name, value, state, created_ms, run, workflow)"
                    " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[],"
                    " $5::bigint[], $6::text[], $7::text[]) ON CONFLICT DO NOTHING",
                    *labels,
                )
            await _put_segments(connection, rows)

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        """See `Archive.put_segment`."""
        await self.prepare()
        async with self._access.transaction() as connection:
            await _put_segments(connection, [(namespace, run, segment.first, segment.data)])

    async def put_plan(self, digest: str, data: bytes) -> None:
        """See `Archive.put_plan`."""
        await self.prepare()
        async with self._access.transaction() as connection:
            await connection.execute(
                "INSERT INTO plans (digest, data) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                digest,
                data,
            )

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        """See `Archive.get`."""
        await self.prepare()
        async with self._access.session() as connection:
            summary = await connection.fetchval(
                "SELECT summary FROM runs WHERE namespace = $1 AND run = $2", namespace, run
            )
        return None if summary is None else decode_summary(summary)

    async def known(self, keys: Sequence[Key]) -> set[Key]:
        """See `Archive.known`."""
        await self.prepare()
        if not keys:
            return set()
        async with self._access.session() as connection:
            rows = await connection.fetch(
                "SELECT r.namespace, r.run"
                " FROM unnest($1::text[], $2::text[]) AS k (namespace, run)"
                " JOIN runs AS r ON r.namespace = k.namespace AND r.run = k.run",
                [namespace for namespace, _ in keys],
                [run for _, run in keys],
            )
        return {(namespace, run) for namespace, run in rows}

    async def keys(self, *, after: Key, limit: int) -> Sequence[Key]:
        """See `Archive.keys`."""
        await self.prepare()
        # Each half by its index, and no more of it than can be wanted.
        half = "(SELECT DISTINCT namespace, run FROM {} WHERE (namespace, run) > ($1, $2)"
        half += " ORDER BY namespace, run LIMIT $3)"
        async with self._access.session() as connection:
            rows = await connection.fetch(
                f"{half.format('runs')} UNION {half.format('segments')} ORDER BY 1, 2 LIMIT $3",
                *after,
                limit,
            )
        return [(namespace, run) for namespace, run in rows]

    async def history(
        self, namespace: str, run: str, *, after: int = 0, upto: int = LAST_EVENT
    ) -> list[Segment]:
        """See `Archive.history`."""
        await self.prepare()
        async with self._access.session() as connection:
            rows = await connection.fetch(
                f"SELECT first, data FROM segments WHERE {_WITHIN} ORDER BY first",
                *(namespace, run, after, upto),
            )
        return [Segment(first, data) for first, data in rows]

    async def plan(self, digest: str) -> bytes | None:
        """See `Archive.plan`."""
        await self.prepare()
        async with self._access.session() as connection:
            data: bytes | None = await connection.fetchval(
                "SELECT data FROM plans WHERE digest = $1", digest
            )
        return data

    async def list(self, namespace: str, query: ListRuns) -> RunPage:
        """See `Archive.list`."""
        await self.prepare()
        async with self._access.session() as connection:
            return await listing.page(connection, namespace, query)

    async def expire(self, *, before_ms: int, limit: int) -> int:
        """See `Archive.expire`."""
        await self.prepare()
        async with self._access.transaction() as connection:
            rows = await connection.fetch(
                "DELETE FROM runs USING (SELECT namespace, run FROM runs WHERE finished_ms < $1"
                " ORDER BY finished_ms, namespace, run LIMIT $2 FOR UPDATE SKIP LOCKED) AS old"
                " WHERE runs.namespace = old.namespace AND runs.run = old.run"
                " RETURNING runs.summary",
                before_ms,
                limit,
            )
            gone = [decode_summary(row[0]) for row in rows]
            await connection.execute(
                "DELETE FROM labels USING unnest($1::text[], $2::text[], $3::text[], $4::text[],"
                " $5::bigint[], $6::text[]) AS old (namespace, name, value, state, created_ms, run)"
                " WHERE labels.namespace = old.namespace AND labels.name = old.name"
                " AND labels.value = old.value AND labels.state = old.state"
                " AND labels.created_ms = old.created_ms AND labels.run = old.run",
                *label_columns(gone)[:6],
            )
            await connection.execute(
                "DELETE FROM segments USING unnest($1::text[], $2::text[]) AS old (namespace, run)"
                " WHERE segments.namespace = old.namespace AND segments.run = old.run",
                [one.namespace for one in gone],
                [one.run for one in gone],
            )
        return len(gone)

    async def close(self) -> None:
        """End the sessions; twice is fine."""
        await self._access.close()


async def _put_segments(
    connection: Connection, rows: Iterable[tuple[str, str, int, bytes]]
) -> None:
    for part in _parts(rows):
        await connection.execute(
            "INSERT INTO segments (namespace, run, first, data)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[])"
            " ON CONFLICT DO NOTHING",
            *[list(column) for column in zip(*part, strict=True)],
        )


def _parts(
    rows: Iterable[tuple[str, str, int, bytes]],
) -> Iterator[Sequence[tuple[str, str, int, bytes]]]:
    """Yield *rows* in pieces of about `STATEMENT_BYTES`."""
    part, size = list[tuple[str, str, int, bytes]](), 0
    for row in rows:
        part.append(row)
        size += len(row[3])
        if size >= STATEMENT_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
