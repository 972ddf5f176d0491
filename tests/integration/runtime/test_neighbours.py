"""A SQLite archive is for one coordinator: another one is refused while that one lives."""

from __future__ import annotations

import asyncio

import pytest

from headrace.errors import Unavailable
from support.broker import eventually
from support.incluster import in_cluster
from support.plans import plan, task

pytestmark = pytest.mark.integration

PLAN = plan(task("a", uses="test/step", inputs={"s": 0}), name="one")
JETSTREAM = {"archive": "jetstream", "archive_path": ""}


async def refused(cluster, name, **settings):
    """Start another coordinator; return why it ended."""
    cluster.settings = settings
    await cluster.coordinator(name, ready=False)
    task = cluster.processes[name].task
    await asyncio.wait([task], timeout=15)
    with pytest.raises(Unavailable) as error:
        task.result()
    return str(error.value)


async def test_nobody_takes_runs_into_another_file(broker, tmp_path):
    own = {"archive_path": str(tmp_path / "own.db")}
    async with in_cluster(broker, tmp_path, **own) as cluster:
        await cluster.coordinator("c0")
        await cluster.worker()
        other = {"archive_path": str(tmp_path / "other.db")}
        for name, settings in (("c1", other), ("c0", other), ("c2", JETSTREAM)):
            former = cluster.processes["c0"]
            said = await refused(cluster, name, **settings)
            assert "'c0' works on this broker" in said
            await cluster.kill(name)
            cluster.processes["c0"] = former
        client = await cluster.client()
        run = await client.submit(PLAN)
        assert (await client.wait(run.id, 20)).state == "COMPLETED"
        await eventually(lambda: list(tmp_path.glob("*.db")) == [tmp_path / "own.db"])


async def test_one_that_said_good_bye_is_no_neighbour(broker, tmp_path):
    async with in_cluster(broker, tmp_path) as cluster:
        await cluster.coordinator("c0")
        await cluster.stop("c0")
        await cluster.coordinator("c1")


async def test_jetstream_archives_are_shared(broker, tmp_path):
    async with in_cluster(broker, tmp_path, **JETSTREAM) as cluster:
        await cluster.coordinator("c0")
        first = cluster.processes["c0"].task
        await cluster.coordinator("c1", ready=False)
        await eventually(lambda: cluster.processes["c1"].thing.archive is not None, within_s=15)
        assert not first.done()
