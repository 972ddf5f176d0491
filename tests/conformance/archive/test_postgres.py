"""What only the PostgreSQL archive promises: several coordinators, a server that goes away."""

import asyncio
import logging
from contextlib import asynccontextmanager

import msgspec
import pytest
import trustme

from headrace.config import Postgres
from headrace.coordinator.archive import Segment
from headrace.coordinator.archive.postgres import Access, NotAllowed, PostgresArchive, listing
from headrace.errors import InvalidConfig, Unavailable
from headrace.messages import ListRuns
from support.archives import NS, WITHIN_S, closed, persistently
from support.postgres import PASSWORD, own_schema

pytestmark = pytest.mark.integration

LATER = 10**15
TABLES = ("runs", "labels", "segments")


async def ids(archive, **query):
    return [view.id for view in (await archive.list(NS, ListRuns(limit=1_000, **query))).runs]


@asynccontextmanager
async def opened(*settings: Postgres):
    archives = [PostgresArchive(one, coordinator=f"c{n}") for n, one in enumerate(settings)]
    try:
        yield archives
    finally:
        for archive in archives:
            await archive.close()


def rows(server, schema, table):
    return int(server.psql(f"SELECT count(*) FROM {schema}.{table}"))


async def persistently_but(archive, passing):
    """Ask until something else than *passing* is raised."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await archive.get(NS, "a")
            except passing:
                continue


# -- several coordinators -------------------------------------------------------------------------


async def test_coordinators_that_start_together_make_the_tables_once(shared_postgres):
    settings = own_schema(shared_postgres)
    async with opened(*[settings] * 8) as archives:
        await asyncio.gather(*(archive.prepare() for archive in archives))
        await archives[0].put([closed("a")])
        assert await ids(archives[7]) == ["a"]
    assert rows(shared_postgres, settings.schema, "migrations") == 1


async def test_the_same_runs_of_two_writers_are_one(shared_postgres):
    settings = own_schema(shared_postgres)
    names = [f"r{number:03}" for number in range(200)]
    async with opened(settings, settings) as (first, second):
        ones = [closed(name, data=b"1", labels={"of": "1"}) for name in names]
        twos = [closed(name, data=b"2", labels={"of": "2"}) for name in reversed(names)]
        # Opposite orders: nobody waits for ever, and a run has all of it from one writer.
        await asyncio.gather(first.put(ones), second.put(twos))
        assert sorted(await ids(first)) == names
        by_first = set(await ids(first, labels={"of": "1"}))
        by_second = set(await ids(first, labels={"of": "2"}))
        assert by_first | by_second == set(names)
        assert not by_first & by_second
        for name in names[::20]:
            want = b"1" if name in by_first else b"2"
            assert await second.history(NS, name) == [Segment(1, want)]


BEGIN_RUN = """
INSERT INTO runs (namespace, run, workflow, state, created_ms, finished_ms, summary)
VALUES ($1, $2, 'w', 'COMPLETED', 0, 0, '')
"""


async def test_writers_take_runs_in_one_order(shared_postgres):
    """Or two of them would wait for each other, each for a run that the other one has."""
    settings = own_schema(shared_postgres)
    async with opened(settings, settings) as (writer, other):
        await asyncio.gather(writer.prepare(), other.prepare())
        async with other._access.session() as one, other._access.session() as two:
            before, beside = one.transaction(), two.transaction()
            await before.start()
            await one.execute(BEGIN_RUN, NS, "m")
            writing = asyncio.create_task(writer.put([closed(name) for name in ("z", "m", "a")]))
            async with asyncio.timeout(WITHIN_S):
                while not await one.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    assert not writing.done()
            # It waits for "m": so it has "a", and what comes behind "m" is anybody's.
            await beside.start()
            await two.execute("SET LOCAL lock_timeout = '1s'")
            await two.execute(BEGIN_RUN, NS, "z")
            await beside.rollback()
            await before.rollback()
            await writing
        assert sorted(await ids(writer)) == ["a", "m", "z"]


async def test_two_that_expire_share_the_work(shared_postgres):
    settings = own_schema(shared_postgres)
    async with opened(settings, settings) as (first, second):
        await first.put([closed(f"r{number}", labels={"k": "v"}) for number in range(100)])
        counts = await asyncio.gather(
            *(one.expire(before_ms=LATER, limit=30) for one in (first, second, first, second))
        )
        left = len(await ids(first))
        assert sum(counts) + left == 100
        while await first.expire(before_ms=LATER, limit=30):
            pass
    for table in TABLES:
        assert rows(shared_postgres, settings.schema, table) == 0


async def test_schemas_of_one_database_are_apart(shared_postgres):
    async with opened(own_schema(shared_postgres), own_schema(shared_postgres)) as (one, other):
        await one.put([closed("a")])
        assert await ids(other) == []


async def test_connections_have_a_limit(shared_postgres):
    settings = own_schema(shared_postgres, connections_max=2)
    async with opened(settings) as (archive,):
        await archive.put([closed("a")])
        found = await asyncio.gather(*(archive.get(NS, "a") for _ in range(50)))
        assert all(found)
        sessions = shared_postgres.psql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'headrace/% c0'"
        )
        assert 1 <= int(sessions) <= 2


# -- what users put into it -----------------------------------------------------------------------

ODD = ["\0", "a\0b", "a\\0b", "\\", "x" * 300, "x" * 299 + "y", "ü" * 5_000, "", "'; DROP TABLE"]


async def test_texts_of_every_kind_are_told_apart(shared_postgres):
    async with opened(own_schema(shared_postgres)) as (archive,):
        for number, text in enumerate(ODD):
            labels = {text: "name", "value": text}
            await archive.put([closed(f"r{number}", workflow=text or "none", labels=labels)])
        for number, text in enumerate(ODD):
            assert await ids(archive, labels={text: "name"}) == [f"r{number}"], text
            assert await ids(archive, labels={"value": text}) == [f"r{number}"], text
            assert await ids(archive, workflow=text or "none") == [f"r{number}"], text
            summary = await archive.get(NS, f"r{number}")
            assert summary.labels == {text: "name", "value": text}
        assert await archive.expire(before_ms=LATER, limit=100) == len(ODD)
        assert await ids(archive, labels={"value": "\0"}) == []


# -- listing --------------------------------------------------------------------------------------


async def test_every_page_is_read_from_an_index(shared_postgres):
    settings = own_schema(shared_postgres)
    runs = [
        closed(
            f"r{number:04}",
            created_ms=number,
            workflow=f"w{number % 7}",
            state="FAILED" if number % 50 == 0 else "COMPLETED",
            labels={"env": "prod" if number % 2 else "dev", "team": f"t{number % 20}"},
        )
        for number in range(3_000)
    ]
    access = Access(settings, name="explain")
    try:
        async with opened(settings) as (archive,):
            for start in range(0, len(runs), 1_000):
                await archive.put(runs[start : start + 1_000])
            for query, index in (
                (ListRuns(), "runs_by_state"),
                (ListRuns(states=["FAILED"]), "runs_by_state"),
                (ListRuns(workflow="w3"), "runs_by_workflow"),
                (ListRuns(labels={"env": "prod"}), "labels_pkey"),
                (ListRuns(labels={"env": "prod", "team": "t3"}, workflow="w3"), "labels_pkey"),
            ):
                after = listing.Place(2_500, "r2500")
                for place in (None, after):
                    driver = listing.ranges(NS, query)[0]
                    statement = listing.selecting(driver, NS, query, place)
                    async with access.session() as session:
                        plan = "\n".join(
                            row[0]
                            for row in await session.fetch(
                                f"EXPLAIN {statement.sql}", *statement.values
                            )
                        )
                    assert index in plan, plan
                    assert "Seq Scan" not in plan, plan
                    # What is sorted is the merged page, never a range.
                    assert plan.count("Sort Key") <= 3, plan
                    if place:
                        assert "ROW(" in plan.partition("Index Cond")[2], plan
    finally:
        await access.close()


async def test_the_narrowest_filter_drives(shared_postgres, monkeypatch):
    driven = []
    select = listing.selecting

    def selecting(driver, *arguments):
        driven.append((driver.table, driver.label))
        return select(driver, *arguments)

    monkeypatch.setattr(listing, "selecting", selecting)
    async with opened(own_schema(shared_postgres)) as (archive,):
        await archive.put(
            [
                closed(
                    f"r{number:03}",
                    workflow="rare" if number == 7 else "common",
                    labels={"all": "yes", "odd": str(number % 2)},
                )
                for number in range(100)
            ]
        )
        assert await ids(archive, workflow="rare", labels={"all": "yes", "odd": "1"}) == ["r007"]
        assert await ids(archive, workflow="rare", labels={"odd": "0"}) == []
        await ids(archive, workflow="common", labels={"all": "yes", "odd": "1"})
    assert driven == [("runs", ""), ("runs", ""), ("labels", "odd")]


# -- logins and links -----------------------------------------------------------------------------


async def test_a_wrong_password_is_told_and_never_shown(shared_postgres, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "no-such-password"
    settings = own_schema(shared_postgres, password=secret)
    async with opened(settings) as (archive,):
        with pytest.raises(NotAllowed) as refused:
            await archive.prepare()
    assert "password authentication failed" in str(refused.value)
    assert settings.place in str(refused.value)
    for text in (str(refused.value), repr(settings), caplog.text):
        assert secret not in text


async def test_a_password_may_stand_in_the_address(shared_postgres):
    quoted = PASSWORD.replace("%", "%25").replace(":", "%3A").replace("/", "%2F")
    url = shared_postgres.url().replace("headrace@", f"headrace:{quoted}@")
    settings = own_schema(shared_postgres, url=url, password="")
    assert PASSWORD not in repr(settings)
    assert quoted not in repr(settings)
    async with opened(settings) as (archive,):
        await archive.put([closed("a")])


async def test_a_new_password_is_read_for_each_new_connection(shared_postgres, tmp_path):
    server, user = shared_postgres, "rotating"
    server.psql(f"CREATE ROLE {user} LOGIN PASSWORD 'first'")
    server.psql(f"GRANT CREATE ON DATABASE postgres TO {user}")
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'"
    file = tmp_path / "password"
    file.write_text("first\n")
    url = server.url().replace("headrace@", f"{user}@")
    async with opened(own_schema(server, url=url, password_file=str(file))) as (archive,):
        await archive.put([closed("a")])
        server.psql(f"ALTER ROLE {user} PASSWORD 'second'")
        file.write_text("second\n")
        server.psql(end)
        await persistently(lambda: archive.put([closed("b")]))
        assert await ids(archive) == ["b", "a"]
        file.unlink()
        server.psql(end)
        with pytest.raises(InvalidConfig, match=r"password_file.*No such file"):
            await persistently_but(archive, Unavailable)


async def test_a_commit_waits_for_the_disk_even_where_others_do_not(shared_postgres):
    server, user = shared_postgres, "hasty"
    server.psql(
        f"CREATE ROLE {user} LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE postgres TO {user};"
        f"ALTER ROLE {user} SET synchronous_commit = 'off'"
    )
    url = server.url().replace("headrace@", f"{user}@")
    access = Access(own_schema(server, url=url, password="x"), name="commits")
    try:
        for _ in range(3):
            async with access.transaction() as session:
                assert await session.fetchval("SHOW synchronous_commit") == "on"
    finally:
        await access.close()


async def test_a_server_that_does_not_fsync_is_told_of_once(shared_postgres, caplog):
    settings = own_schema(shared_postgres, connections_max=3)
    async with opened(settings) as (archive,):
        await asyncio.gather(*(archive.get(NS, "a") for _ in range(10)))
    told = [one.message for one in caplog.records if "fsync" in one.message]
    assert told == ["the database does not fsync"]


async def test_a_database_that_is_not_utf8_is_refused(shared_postgres):
    shared_postgres.psql(
        "CREATE DATABASE ascii ENCODING SQL_ASCII TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    url = shared_postgres.url(database="ascii")
    async with opened(own_schema(shared_postgres, url=url)) as (archive,):
        with pytest.raises(NotAllowed, match="encoding is SQL_ASCII"):
            await archive.prepare()


async def test_a_database_that_is_not_there(shared_postgres):
    url = shared_postgres.url(database="nowhere")
    async with opened(own_schema(shared_postgres, url=url)) as (archive,):
        with pytest.raises(NotAllowed, match='"nowhere" does not exist'):
            await archive.prepare()


async def test_nobody_in_between_with_verify_full(postgres):
    authority, other = trustme.CA(), trustme.CA()
    ours = authority.issue_cert("127.0.0.1")
    certificate = postgres.file("server.crt", ours.cert_chain_pems[0].bytes())
    key = postgres.file("server.key", ours.private_key_pem.bytes())
    right, wrong = postgres.file("ca.pem", b""), postgres.file("other.pem", b"")
    authority.cert_pem.write_to_path(right)
    other.cert_pem.write_to_path(wrong)
    postgres.stop()
    postgres.start("ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}")

    def verified(path):
        return own_schema(postgres, f"?sslmode=verify-full&sslrootcert={path}")

    async with opened(verified(right), verified(wrong)) as (archive, deceived):
        await archive.put([closed("a")])
        used = postgres.psql(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE application_name LIKE 'headrace/%'"
        )
        assert used.strip() == "t"
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await deceived.prepare()
    nowhere = own_schema(postgres, "?sslmode=verify-full&sslrootcert=/no/such/file")
    async with opened(nowhere) as (archive,):
        with pytest.raises(InvalidConfig, match=r"postgres\.url: .* cannot be read: No such file"):
            await archive.prepare()


# -- a server that goes away ----------------------------------------------------------------------


async def test_what_was_taken_is_there_after_a_crash(postgres):
    settings = own_schema(postgres, connect_timeout_ms=1_000)
    taken, failures = [], 0
    async with opened(settings) as (archive,):
        await archive.prepare()

        async def write():
            nonlocal failures
            for number in range(600):
                name = f"r{number:03}"
                while True:
                    try:
                        await archive.put([closed(name, data=name.encode())])
                        break
                    except Unavailable:
                        failures += 1
                        await asyncio.sleep(0.05)
                taken.append(name)

        writer = asyncio.create_task(write())
        async with asyncio.timeout(2 * WITHIN_S):
            for at in (100, 300):
                while len(taken) < at:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(postgres.kill)
                so_far = list(taken)
                with pytest.raises(Unavailable):
                    await archive.get(NS, so_far[0])
                await asyncio.to_thread(postgres.start)
                assert set(so_far) <= set(await persistently(lambda: ids(archive)))
            await writer
        assert failures >= 2
        assert sorted(await ids(archive)) == taken
        assert await archive.history(NS, "r299") == [Segment(1, b"r299")]


async def test_a_server_that_stands_still_holds_nobody_up_for_long(postgres):
    settings = own_schema(
        postgres, connect_timeout_ms=500, statement_timeout_ms=500, connections_max=2
    )
    async with opened(settings) as (archive,):
        await archive.put([closed("a")])
        postgres.freeze()
        async with asyncio.timeout(WITHIN_S):
            # More than there are connections, so that some wait for one.
            found = await asyncio.gather(
                *(archive.get(NS, "a") for _ in range(5)), return_exceptions=True
            )
        assert [type(one) for one in found] == [Unavailable] * 5
        postgres.thaw()
        assert (await persistently(lambda: archive.get(NS, "a"))).run == "a"


async def test_it_may_come_after_us(postgres):
    settings = own_schema(postgres, connect_timeout_ms=500)
    postgres.stop()
    async with opened(settings) as (archive,):
        for _ in range(2):
            with pytest.raises(Unavailable):
                await archive.put([closed("a")])
        await asyncio.to_thread(postgres.start)
        await persistently(lambda: archive.put([closed("a")]))
        assert await ids(archive) == ["a"]


async def test_who_asks_while_it_cannot_be_reached_waits_once(tmp_path):
    taken = asyncio.Event()

    async def silent(_reader, writer):
        taken.set()
        await hang.wait()
        writer.close()

    hang = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = Postgres(url=f"postgresql://me@127.0.0.1:{port}/runs", connect_timeout_ms=1_000)
    async with server, opened(settings) as (archive,):
        # One after the other they would wait for as many seconds as there are.
        async with asyncio.timeout(WITHIN_S):
            found = await asyncio.gather(
                *(archive.get(NS, "a") for _ in range(60)), return_exceptions=True
            )
        assert taken.is_set()
        assert {type(one) for one in found} == {Unavailable}
        hang.set()


async def test_a_cancelled_write_is_whole_or_nothing(shared_postgres):
    settings = own_schema(shared_postgres)
    runs = [closed(f"r{number}", labels={"a": "b"}) for number in range(300)]
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    access = Access(settings, name="holder")
    try:
        async with opened(settings) as (archive,):
            await archive.prepare()
            for table in ("labels", "segments"):
                async with access.transaction() as holder:
                    # Cut off in the middle: the first statements are done, this one waits.
                    await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                    writing = asyncio.create_task(archive.put(runs))
                    async with asyncio.timeout(WITHIN_S):
                        while await holder.fetchval(waits) == 0:
                            await asyncio.sleep(0.01)
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
                assert writing.cancelled()
                assert [rows(shared_postgres, settings.schema, one) for one in TABLES] == [0, 0, 0]
            await archive.put(runs)
            assert [rows(shared_postgres, settings.schema, one) for one in TABLES] == [300] * 3
    finally:
        await access.close()


async def test_many_megabytes_at_once(shared_postgres):
    settings = own_schema(shared_postgres)
    async with opened(settings) as (archive,):
        await archive.put([closed(f"r{n}", data=bytes([n]) * 3_000_000) for n in range(6)])
        assert await archive.history(NS, "r5") == [Segment(1, b"\5" * 3_000_000)]


def test_settings_do_not_show_logins():
    settings = Postgres(url="postgresql://me:secret@db.example:5432/runs?sslmode=require")
    assert "secret" not in repr(settings)
    assert settings.place == "db.example:5432/runs"
    assert msgspec.structs.replace(settings, schema="other").place == settings.place
