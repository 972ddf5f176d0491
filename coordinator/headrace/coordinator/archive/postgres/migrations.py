"""The tables, and how they change from release to release without a stop.

A migration is *pre* or *post*. A `pre` adds what a new release needs and the one before does not
mind; coordinators apply them when they start. A `post` takes away what only earlier releases
needed; people apply them, once every coordinator runs the new release. They are applied in order,
each once, and never change after a release. So a coordinator may meet a `pre` of the next release
(somebody is upgrading) and works on; with a `post` that it does not know it would not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from headrace.coordinator.archive.postgres.access import Access, Connection
from headrace.errors import Conflict, HeadraceError

Phase = Literal["pre", "post"]


class Migration(msgspec.Struct, frozen=True):
    """One step, done in one transaction."""

    number: int
    phase: Phase
    name: str
    sql: str


MIGRATIONS: Final = (
    Migration(
        1,
        "pre",
        "runs, labels, segments and plans",
        """
CREATE TABLE runs (
  namespace text COLLATE "C" NOT NULL,
  run text COLLATE "C" NOT NULL,
  workflow text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL,
  created_ms bigint NOT NULL,
  finished_ms bigint NOT NULL,
  summary bytea NOT NULL,
  PRIMARY KEY (namespace, run)
);
CREATE INDEX runs_by_state ON runs (namespace, state, created_ms, run);
CREATE INDEX runs_by_workflow ON runs (namespace, workflow, state, created_ms, run);
CREATE INDEX runs_by_finish ON runs (finished_ms, namespace, run);
CREATE TABLE labels (
  namespace text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  value text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL,
  created_ms bigint NOT NULL,
  run text COLLATE "C" NOT NULL,
  workflow text COLLATE "C" NOT NULL,
  PRIMARY KEY (namespace, name, value, state, created_ms, run)
);
CREATE TABLE segments (
  namespace text COLLATE "C" NOT NULL,
  run text COLLATE "C" NOT NULL,
  first bigint NOT NULL,
  data bytea NOT NULL,
  PRIMARY KEY (namespace, run, first)
);
CREATE TABLE plans (digest text COLLATE "C" PRIMARY KEY, data bytea NOT NULL);
""",
    ),
)

_REGISTER: Final = """
CREATE TABLE IF NOT EXISTS migrations (
  number integer PRIMARY KEY,
  phase text NOT NULL,
  name text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)
"""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('headrace.archive.' || $1, 0))"

_SESSION: Final = "headrace/"

LONGEST_S: Final = 6 * 3_600.0
"""For one migration: an index on a large table takes its time. Who else wants to migrate gives up
waiting much earlier, and tries again."""


class NewerSchema(HeadraceError):
    """The tables are of a release that this one cannot work beside."""

    code = "unavailable"
    exit_code = 3


class Standing(msgspec.Struct, frozen=True):
    """What has been applied, and what has not."""

    applied: list[tuple[int, str, str]]
    """(number, phase, name), in order; unknown ones too."""
    pending: list[Migration]
    """Known and not applied, in order."""

    @property
    def due(self) -> list[Migration]:
        """Those that a start may apply: up to the first `post`, or all of an empty schema."""
        if not self.applied:
            return self.pending
        posts = [place for place, one in enumerate(self.pending) if one.phase == "post"]
        return self.pending[: posts[0]] if posts else self.pending

    @property
    def missing(self) -> list[Migration]:
        """Those without which this release cannot work: every `pre`."""
        return [one for one in self.pending if one.phase == "pre"]


def session_name(coordinator: str, migrations: Sequence[Migration] = MIGRATIONS) -> str:
    """Return the name of a coordinator's sessions; it tells which migrations it knows."""
    return f"{_SESSION}{migrations[-1].number} {coordinator}"


async def look(access: Access, migrations: Sequence[Migration] = MIGRATIONS) -> Standing:
    """Return how the tables stand; changes nothing. Raises `Unavailable`, `NewerSchema`."""
    async with access.session() as connection:
        return await _standing(connection, access, migrations)


async def bring_up(
    access: Access, migrations: Sequence[Migration] = MIGRATIONS
) -> Sequence[Migration]:
    """Apply what is `due`, all or nothing; return it. Coordinators wait for each other here.

    Raises `NewerSchema`, `Conflict` when a `post` stands before a `pre` that is needed,
    `NotAllowed` without the right to change tables, `Unavailable`.
    """
    async with access.session() as connection:
        standing = await _standing(connection, access, migrations)
    if standing.due:
        async with access.transaction() as connection:
            await connection.execute(_LOCK, access.settings.schema)
            standing = await _standing(connection, access, migrations)
            await _apply(connection, access.settings.schema, standing.due)
    behind = [one for one in standing.missing if one not in standing.due]
    if behind:
        raise Conflict(
            f"{access.shown}: migration {behind[0].number} ({behind[0].name}) comes behind a post "
            "migration that has not been applied: when no coordinator of an earlier release runs "
            "any more, `flowctl cluster migrate --post`, then start again"
        )
    return standing.due


async def finish(
    access: Access, migrations: Sequence[Migration] = MIGRATIONS, *, force: bool = False
) -> Sequence[Migration]:
    """Apply all that is pending, `post` too; return it.

    Raises as `bring_up`, and `Conflict` while a session of a release is open that does not know
    the last of them (unless *force*).
    """
    async with access.transaction() as connection:
        await connection.execute(_LOCK, access.settings.schema)
        standing = await _standing(connection, access, migrations)
        posts = [one.number for one in standing.pending if one.phase == "post"]
        if posts and standing.applied and not force:
            await _refuse_older(connection, access, posts[-1])
        await _apply(connection, access.settings.schema, standing.pending)
    return standing.pending


async def _standing(
    connection: Connection, access: Access, migrations: Sequence[Migration]
) -> Standing:
    applied: list[tuple[int, str, str]] = []
    # From the catalog's tables: `to_regclass` may answer from a cache that is older than the lock.
    if await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = $1 AND tablename = 'migrations')",
        access.settings.schema,
    ):
        applied = [
            tuple(row)
            for row in await connection.fetch(
                "SELECT number, phase, name FROM migrations ORDER BY number"
            )
        ]
    known = {one.number for one in migrations}
    for number, phase, name in applied:
        if number not in known and phase == "post":
            raise NewerSchema(
                f"{access.shown}: its tables are of a newer release (migration {number}, {name}; "
                f"this release knows {migrations[-1].number}): start that release or a later one"
            )
    done = {number for number, _, _ in applied}
    return Standing(applied, [one for one in migrations if one.number not in done])


async def _apply(connection: Connection, schema: str, migrations: Sequence[Migration]) -> None:
    if not migrations:
        return
    # Asked first: `IF NOT EXISTS` needs the right to make schemas also where nothing is to make.
    if not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema
    ):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    await connection.execute(_REGISTER)
    await connection.execute("SET LOCAL statement_timeout = 0")
    for one in migrations:
        await connection.execute(one.sql, timeout=LONGEST_S)
        await connection.execute(
            "INSERT INTO migrations (number, phase, name) VALUES ($1, $2, $3)",
            one.number,
            one.phase,
            one.name,
        )


async def _refuse_older(connection: Connection, access: Access, number: int) -> None:
    """Raise `Conflict` if a coordinator is connected that does not know migration *number*."""
    names = await connection.fetch(
        "SELECT DISTINCT application_name FROM pg_stat_activity"
        " WHERE datname = current_database() AND starts_with(application_name, $1)",
        _SESSION,
    )
    for (name,) in names:
        known, _, coordinator = name.removeprefix(_SESSION).partition(" ")
        if known.isdigit() and int(known) < number:
            raise Conflict(
                f"{access.shown}: {coordinator} is connected with a release that knows migrations "
                f"up to {known}, and migration {number} is for when all know it: upgrade it first"
            )
