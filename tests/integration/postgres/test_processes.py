"""`flowctl` and real processes on a PostgreSQL archive."""

from __future__ import annotations

import pytest

from support.cluster import Cluster, lent, until
from support.postgres import PASSWORD, own_schema

pytestmark = pytest.mark.integration

HELLO = """\
name: hello
tasks:
  - name: nap
    type: sleep
    config: {duration: 10ms}
"""


def variables(database, file, **more):
    """The section as a coordinator and `flowctl cluster` read it from the environment."""
    settings = {"url": database.url, "schema": database.schema, "password_file": str(file)}
    return {
        f"HEADRACE_CFG_POSTGRES__{key.upper()}": value for key, value in (settings | more).items()
    }


async def test_a_cluster_is_begun_migrated_asked_and_backed_up(shared_postgres, tmp_path):
    server, database = shared_postgres, own_schema(shared_postgres)
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    env = variables(database, password)
    made = Cluster(
        tmp_path / "cluster", archive="postgres", env=env | {"HEADRACE_CFG_LOG__LEVEL": "debug"}
    )
    async with lent(made) as cluster:
        ran = await cluster.flowctl("cluster", "migrate", "--check", "-o", "json")
        assert (ran.code, [one["state"] for one in ran.json]) == (0, ["pending"]), ran.err
        ran = await cluster.flowctl("cluster", "migrate")
        assert ran.code == 0, ran.err
        assert "migration 1 applied" in ran.err
        assert ran.out.split()[-1] == "plans"
        await cluster.start()
        (cluster.folder / "hello.yaml").write_text(HELLO)
        for number in range(3):
            ran = await cluster.flowctl(
                *("submit", "hello.yaml", "--id", f"r{number}", "--label", f"n={number}"),
                "--wait",
            )
            assert ran.code == 0, ran.err

        def archived():
            return server.psql(f"SELECT run FROM {database.schema}.runs").split()

        await until(lambda: len(archived()) == 3, within_s=20, what="the runs' archiving")
        ran = await cluster.flowctl("list", "--label", "n=1", "-o", "json")
        assert [run["id"] for run in ran.json] == ["r1"], ran.out
        assert not {"input", "output", "steps", "parent", "patched"} & set(ran.json[0])
        ran = await cluster.flowctl("get", "r1", "-o", "json")
        assert (ran.json["state"], len(ran.json["steps"])) == ("COMPLETED", 1), ran.out
        ran = await cluster.flowctl("history", "r1", "-o", "json")
        assert ran.json[-1]["type"] == "RunEnded", ran.out
        ran = await cluster.flowctl("cluster", "backup", "all.backup")
        assert ran.code == 0, ran.err
        assert "archive: 3 runs" in ran.out, ran.out
        for name in ("c0", "w0"):
            assert PASSWORD not in cluster.programs[name].said()
        await cluster.close()
        # A release that is newer has been here.
        server.psql(
            f"INSERT INTO {database.schema}.migrations (number, phase, name)"
            " VALUES (1000, 'post', 'something newer')"
        )
        ran = await cluster.flowctl("cluster", "migrate")
        assert (ran.code, "newer release (migration 1000" in ran.err) == (3, True), ran.err


async def test_what_is_wrong_with_the_section_is_said(shared_postgres, tmp_path):
    database = own_schema(shared_postgres)
    wrong = tmp_path / "wrong"
    wrong.write_text("no-such-password\n")
    cluster = Cluster(tmp_path / "cluster")
    for env, code, said in (
        ({}, 3, "configuration postgres.url: coordinator.archive"),
        (variables(database, tmp_path / "none"), 3, "configuration postgres.password_file"),
        (variables(database, wrong), 3, "password authentication failed"),
        (variables(database, wrong, url="postgresql://me@127.0.0.1:1/runs"), 5, "127.0.0.1:1/runs"),
    ):
        ran = await cluster.flowctl("cluster", "migrate", env=env)
        assert (ran.code, ran.out) == (code, ""), ran
        assert ran.err.startswith("error: "), ran.err
        assert said in ran.err, ran.err
        assert len(ran.err.splitlines()) == 1, ran.err
        assert "no-such-password" not in ran.err


async def test_an_address_that_nobody_would_use_is_refused(broker, shared_postgres, tmp_path):
    env = variables(own_schema(shared_postgres), tmp_path / "password")
    cluster = Cluster(tmp_path / "cluster")
    ran = await cluster.flowctl("coordinator", "--server", broker.url, env=env)
    assert ran.code == 3, ran.err
    assert "postgres.url: means nothing with coordinator.archive = 'jetstream'" in ran.err
