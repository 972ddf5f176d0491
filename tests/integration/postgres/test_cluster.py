"""Coordinators whose closed runs go to PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from headrace.bus import BrokerProcess, connect
from headrace.coordinator.archive.postgres import NotAllowed
from headrace.coordinator.backup import backup, restore
from headrace.coordinator.core.status import is_final
from headrace.coordinator.runtime.server import CoordinatorServer
from headrace.errors import Conflict, HeadraceError, InvalidConfig, Unavailable
from support.broker import eventually
from support.incluster import Process, in_cluster
from support.plans import plan, task
from support.postgres import own_schema

pytestmark = pytest.mark.integration

WITHIN_S = 30
TWO = plan(
    task("one", uses="test/step", inputs={"s": 0}),
    task("two", uses="test/step", needs=["one"]),
    name="two",
)
BOTH = ("c0", "c1")
THREE = ("c0", "c1", "c2")


def with_postgres(database, *coordinators):
    return {
        "archive": "postgres",
        "archive_path": "",
        "postgres": database,
        "peers": coordinators,
    }


def kept(server, database):
    """Ids of the runs that the database has."""
    found = server.psql(f"SELECT run FROM {database.schema}.runs ORDER BY run")
    return found.split()


def held(cluster):
    """Ids of ended runs that still are in a coordinator's state."""
    return {
        key.partition("/")[2]
        for process in cluster.processes.values()
        if isinstance(process, Process) and isinstance(process.thing, CoordinatorServer)
        for shard in process.thing.shards.values()
        if shard.owner is not None and shard.owner.machine is not None
        for key in shard.owner.machine.state.runs
        if is_final(shard.owner.machine.state.runs.peek(key).state)
    }


async def archived(client, run):
    """Wait until any coordinator answers for *run* from the archive."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                view = await client.get(run)
            except HeadraceError:
                continue
            if view.archived:
                return view
            await asyncio.sleep(0.02)


async def test_runs_end_up_in_the_database_and_are_found_there(broker, shared_postgres, tmp_path):
    database = own_schema(shared_postgres)
    async with in_cluster(broker, tmp_path, **with_postgres(database, *THREE)) as cluster:
        await asyncio.gather(*(cluster.coordinator(name, ready=False) for name in THREE))
        await cluster.worker()
        client = await cluster.client()
        names = [f"r{number}" for number in range(10)]
        for name in names:
            await client.submit(TWO, run_id=name, labels={"last": name[-1]})
        for name in names:
            assert (await client.wait(name, WITHIN_S)).state == "COMPLETED"
        for name in names:
            assert (await archived(client, name)).state == "COMPLETED"
        assert kept(shared_postgres, database) == names
        await eventually(lambda: not held(cluster), within_s=WITHIN_S)
        listed = await client.list(labels={"last": "7"}, states=["COMPLETED"])
        assert [view.id for view in listed.runs] == ["r7"]
        view = await client.get("r3", steps=True)
        assert {step.path: step.state for step in view.steps} == {
            "one": "COMPLETED",
            "two": "COMPLETED",
        }
        assert (await client.history("r3"))[-1].type == "RunEnded"
        # One of them goes, the others know all the same.
        await cluster.kill("c0")
        assert (await archived(client, "r9")).state == "COMPLETED"
        # An id that is taken, and long evicted.
        with pytest.raises(Conflict):
            await client.submit(plan(task("else"), name="else"), run_id="r5")


async def test_no_finished_run_is_lost_while_the_database_is_away(broker, postgres, tmp_path):
    database = own_schema(postgres, connect_timeout_ms=1_000)
    async with in_cluster(broker, tmp_path, **with_postgres(database)) as cluster:
        await cluster.coordinator()
        await cluster.worker()
        client = await cluster.client()
        await client.submit(TWO, run_id="before")
        await archived(client, "before")
        await asyncio.to_thread(postgres.kill)
        names = [f"r{number:02}" for number in range(20)]
        for name in names:
            await client.submit(TWO, labels={"n": name})
        await eventually(lambda: len(held(cluster)) == 20, within_s=WITHIN_S)
        # Runs go on without it; what is known of these lives with their owner.
        for run in held(cluster):
            view = await client.get(run)
            assert (view.state, view.archived) == ("COMPLETED", False)
        # Nor is a coordinator kept from starting, and it takes up what the other one held.
        await cluster.kill("c0")
        await cluster.coordinator()
        await eventually(lambda: len(held(cluster)) == 20, within_s=WITHIN_S)
        waiting = held(cluster)
        await asyncio.to_thread(postgres.start)
        await eventually(lambda: not held(cluster), within_s=WITHIN_S)
        assert set(kept(postgres, database)) == {"before", *waiting}
        for run in waiting:
            assert (await archived(client, run)).state == "COMPLETED"


async def test_a_login_that_is_refused_ends_the_start(broker, shared_postgres, tmp_path):
    database = own_schema(shared_postgres, password="wrong")
    async with in_cluster(broker, tmp_path, **with_postgres(database)) as cluster:
        await cluster.coordinator(ready=False)
        task = cluster.processes["c0"].task
        await asyncio.wait([task], timeout=WITHIN_S)
        with pytest.raises(NotAllowed, match="password authentication failed"):
            task.result()


async def test_all_coordinators_have_one_kind_of_archive(broker, shared_postgres, tmp_path):
    database = own_schema(shared_postgres)
    async with in_cluster(broker, tmp_path, **with_postgres(database, *BOTH)) as cluster:
        await cluster.coordinator("c0", ready=False)
        await eventually(lambda: cluster.processes["c0"].thing.archive is not None, within_s=15)
        cluster.settings = {"archive": "jetstream", "archive_path": "", "peers": BOTH}
        await cluster.coordinator("c1", ready=False)
        task = cluster.processes["c1"].task
        await asyncio.wait([task], timeout=WITHIN_S)
        with pytest.raises(Unavailable, match=r"'c0' works .* with archive = 'postgres'"):
            task.result()


def configured(path, database):
    """Write the coordinators' configuration file."""
    path.write_text(
        f'[postgres]\nurl = "{database.url}"\npassword = "{database.password}"\n'
        f'schema = "{database.schema}"\n'
    )
    return path


@asynccontextmanager
async def another_broker(folder):
    """An empty one, to restore into."""
    server = BrokerProcess(folder / "another", name="another")
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def quiet(_text):
    """Tell nobody."""


async def test_closed_runs_move_to_the_database_by_a_backup(broker, shared_postgres, tmp_path):
    database, file = own_schema(shared_postgres), tmp_path / "backup"
    async with in_cluster(broker, tmp_path) as cluster:  # with SQLite
        await cluster.coordinator()
        await cluster.worker()
        client = await cluster.client()
        await client.submit(TWO, run_id="moved", labels={"a": "b"})
        await archived(client, "moved")
        history = await client.history("moved")
        async with await connect(broker.url, name="backup") as bus:
            await backup(bus, file, release="1", archive_file=None, tell=quiet)
    async with (
        another_broker(tmp_path) as empty,
        in_cluster(empty, tmp_path, **with_postgres(database)) as cluster,
    ):
        await cluster.coordinator()
        async with await connect(empty.url, name="restore") as bus:
            config = configured(tmp_path / "headrace.toml", database)
            await restore(bus, file, archive_file=None, config_file=config, tell=quiet)
        client = await cluster.client()
        assert (await archived(client, "moved")).labels == {"a": "b"}
        assert await client.history("moved") == history
    assert kept(shared_postgres, database) == ["moved"]


async def test_a_backup_has_the_database_in_it(broker, shared_postgres, tmp_path):
    first, second = own_schema(shared_postgres), own_schema(shared_postgres)
    file = tmp_path / "backup"
    config = tmp_path / "headrace.toml"

    def written(database):
        return configured(config, database)

    async with in_cluster(broker, tmp_path, **with_postgres(first)) as cluster:
        await cluster.coordinator()
        await cluster.worker()
        client = await cluster.client()
        await client.submit(TWO, run_id="closed")
        await archived(client, "closed")
        history = await client.history("closed")
        async with await connect(broker.url, name="backup") as bus:
            with pytest.raises(InvalidConfig, match=r"postgres\.url"):
                await backup(bus, file, release="1", archive_file=None, tell=quiet)
            with pytest.raises(InvalidConfig, match=r"postgres\.schema"):
                await backup(
                    bus,
                    file,
                    release="1",
                    archive_file=None,
                    config_file=written(second),
                    tell=quiet,
                )
            manifest = await backup(
                bus, file, release="1", archive_file=None, config_file=written(first), tell=quiet
            )
        assert manifest.archive == "postgres"
        assert manifest.counts["runs"] == 1
    async with another_broker(tmp_path) as empty:
        async with in_cluster(empty, tmp_path, **with_postgres(first)) as cluster:
            # The database has survived: nobody may write a restored cluster's runs among its own.
            await cluster.coordinator()
            async with await connect(empty.url, name="restore") as bus:
                with pytest.raises(Conflict, match=r"another postgres\.schema"):
                    await restore(bus, file, archive_file=None, config_file=config, tell=quiet)
        async with in_cluster(empty, tmp_path, **with_postgres(second)) as cluster:
            await cluster.coordinator()
            async with await connect(empty.url, name="restore") as bus:
                found = await restore(
                    bus, file, archive_file=None, config_file=written(second), tell=quiet
                )
            assert found.closed == 1
            client = await cluster.client()
            assert (await archived(client, "closed")).state == "COMPLETED"
            assert await client.history("closed") == history
    assert kept(shared_postgres, second) == ["closed"]
