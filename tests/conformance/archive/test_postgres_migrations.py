"""Tables that change from release to release, while coordinators of both run."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from headrace.coordinator.archive.postgres import (
    MIGRATIONS,
    Access,
    Migration,
    NewerSchema,
    NotAllowed,
    PostgresArchive,
    bring_up,
    finish,
    look,
)
from headrace.coordinator.archive.postgres.migrations import session_name
from headrace.errors import Conflict, Unavailable
from support.postgres import own_schema

pytestmark = pytest.mark.integration

PRE = Migration(2, "pre", "a column more", "ALTER TABLE runs ADD COLUMN size bigint")
POST = Migration(3, "post", "a column less", "ALTER TABLE runs DROP COLUMN size")
LATER = Migration(4, "pre", "and one more", "ALTER TABLE runs ADD COLUMN other bigint")
BROKEN = Migration(2, "pre", "broken", "ALTER TABLE runs ADD COLUMN size bigint; SELECT nothing")
NEXT = (*MIGRATIONS, PRE, POST)


@asynccontextmanager
async def reached(settings, name="test"):
    access = Access(settings, name=name)
    try:
        yield access
    finally:
        await access.close()


def numbers(migrations):
    return [one.number for one in migrations]


def test_numbers_are_in_order_and_the_first_is_for_an_empty_schema():
    assert numbers(MIGRATIONS) == list(range(1, len(MIGRATIONS) + 1))
    assert MIGRATIONS[0].phase == "pre"


async def test_an_empty_schema_gets_everything(shared_postgres):
    async with reached(own_schema(shared_postgres)) as access:
        assert numbers((await look(access, NEXT)).pending) == [1, 2, 3]
        assert numbers(await bring_up(access, NEXT)) == [1, 2, 3]
        assert numbers(await bring_up(access, NEXT)) == []
        standing = await look(access, NEXT)
        assert ([number for number, *_ in standing.applied], standing.pending) == ([1, 2, 3], [])


async def test_an_upgrade_takes_pre_at_the_start_and_post_at_the_end(shared_postgres):
    settings = own_schema(shared_postgres)
    old = PostgresArchive(settings, coordinator="c-old")
    try:
        await old.prepare()
        async with reached(settings, session_name("c-new", NEXT)) as access:
            assert numbers(await bring_up(access, NEXT)) == [2]
            # The old release works beside it, and starts again beside it.
            assert await old.get("default", "none") is None
            again = PostgresArchive(settings, coordinator="c-again")
            await again.prepare()
            await again.close()
            with pytest.raises(Conflict, match="c-old is connected with a release that knows"):
                await finish(access, NEXT)
            assert numbers((await look(access, NEXT)).pending) == [3]
            await old.close()
            assert numbers(await finish(access, NEXT)) == [3]
            with pytest.raises(NewerSchema, match=r"newer release \(migration 3, a column less"):
                await look(access)
        late = PostgresArchive(settings, coordinator="c-late")
        with pytest.raises(NewerSchema):
            await late.prepare()
        with pytest.raises(NewerSchema):
            await late.get("default", "none")
        await late.close()
    finally:
        await old.close()


async def test_force_does_not_ask_who_is_connected(shared_postgres):
    settings = own_schema(shared_postgres)
    old = PostgresArchive(settings, coordinator="c-old")
    try:
        await old.prepare()
        async with reached(settings) as access:
            assert numbers(await finish(access, NEXT, force=True)) == [2, 3]
    finally:
        await old.close()


async def test_a_release_that_skips_one_says_what_is_missing(shared_postgres):
    async with reached(own_schema(shared_postgres)) as access:
        await bring_up(access)
        with pytest.raises(Conflict, match=r"migration 4 \(and one more\).*migrate --post"):
            await bring_up(access, (*NEXT, LATER))
        # What could be done is done, and the rest follows when it may.
        assert numbers((await look(access, NEXT)).pending) == [3]
        assert numbers(await finish(access, (*NEXT, LATER))) == [3, 4]


async def test_a_migration_that_fails_leaves_nothing(shared_postgres):
    async with reached(own_schema(shared_postgres)) as access:
        await bring_up(access)
        with pytest.raises(Unavailable, match="nothing"):
            await bring_up(access, (*MIGRATIONS, BROKEN))
        assert numbers(await bring_up(access, (*MIGRATIONS, PRE))) == [2]


async def test_many_at_once_apply_each_once(shared_postgres):
    settings = own_schema(shared_postgres)
    accesses = [Access(settings, name=f"a{number}") for number in range(6)]
    try:
        found = await asyncio.gather(*(bring_up(access, NEXT) for access in accesses))
    finally:
        for access in accesses:
            await access.close()
    assert sorted(len(one) for one in found) == [0, 0, 0, 0, 0, 3]


async def test_tables_may_be_somebody_elses_to_make(shared_postgres):
    server = shared_postgres
    settings = own_schema(server)
    server.psql("CREATE ROLE writer LOGIN PASSWORD 'x'")
    url = server.url().replace("headrace@", "writer@")
    theirs = own_schema(server, url=url, password="x", schema=settings.schema, migrate=False)
    archive = PostgresArchive(theirs, coordinator="c0")
    eager = own_schema(server, url=url, password="x", schema=settings.schema)
    try:
        with pytest.raises(Unavailable, match=r"migration 1.*flowctl cluster migrate"):
            await archive.prepare()
        refused = PostgresArchive(eager, coordinator="c1")
        with pytest.raises(NotAllowed, match="permission denied"):
            await refused.prepare()
        await refused.close()
        async with reached(settings) as access:
            await bring_up(access)
        server.psql(
            f"GRANT USAGE ON SCHEMA {settings.schema} TO writer;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA"
            f" {settings.schema} TO writer"
        )
        await archive.put_plan("p", b"plan")
        assert await archive.plan("p") == b"plan"
        assert await archive.expire(before_ms=10**15, limit=5) == 0
    finally:
        await archive.close()
