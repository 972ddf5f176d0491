"""What docs/operations.md says about more and fewer processes, done under load."""

from __future__ import annotations

import pytest

from support.chaos import APP, Load
from support.cluster import Cluster, running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def listed(program, *peers):
    """Give a coordinator another list of peers, for its next life."""
    kept = program.arguments
    while "--peer" in kept:
        at = kept.index("--peer")
        kept = kept[:at] + kept[at + 2 :]
    program.arguments = [*kept, *(part for peer in peers for part in ("--peer", peer))]


def new_coordinator(cluster, name):
    """Return another coordinator, configured like the first one; it is not started."""
    first = cluster.coordinators[0]
    arguments = list(first.arguments)
    arguments[arguments.index("--id") + 1] = name
    arguments[arguments.index("--metrics-port") + 1] = "0"
    program = cluster.add(name, *arguments)
    cluster.coordinators.append(program)
    return program


async def owners_are(cluster, *names):
    """Wait until exactly these own the shards, and each has some."""
    return await cluster.info_when(
        lambda info: (
            all(shard.epoch for shard in info.shards)
            and {shard.owner for shard in info.shards} == set(names)
        ),
        within_s=30,
        what=f"{names} to own the shards",
    )


async def test_coordinators_from_one_to_three_and_back(tmp_path):
    async with running(
        Cluster(tmp_path, archive="jetstream", shards=3, slots=4, apps=[APP])
    ) as cluster:
        load = Load(cluster)
        load.start()
        await load.goes_on()
        # Up: those that are new with the new list, then the others with it, one by one.
        (first,) = cluster.coordinators
        three = ("c0", "c1", "c2")
        for name in three[1:]:
            program = new_coordinator(cluster, name)
            listed(program, *three)
            program.start()
        assert await first.stop() == 0, first.said()
        listed(first, *three)
        first.start()
        await owners_are(cluster, *three)
        await load.goes_on()
        # Down: those that stay with the new list, then those that are on no list end.
        assert await first.stop() == 0, first.said()
        listed(first, "c0")
        first.start()
        for name in three[1:]:
            program = cluster.programs[name]
            assert await program.stop() == 0, program.said()
            cluster.coordinators.remove(program)
        await owners_are(cluster, "c0")
        await load.finish()
        await load.verdict()


async def test_workers_come_and_go(tmp_path):
    async with running(Cluster(tmp_path, slots=4, apps=[APP])) as cluster:
        load = Load(cluster)
        load.start()
        await load.goes_on()
        added = [cluster.worker(f"w{number}") for number in (1, 2)]
        for program in added:
            program.start()
        cluster.workers += added
        await cluster.ready()
        begun = len(load.executions())
        await until(
            lambda: (
                {one.pid for one in load.executions()[begun:]}
                >= {program.pid for program in cluster.workers}
            ),
            within_s=30,
            what="each of the three workers to run steps",
        )
        # One from afar, one by the signal that a scaled-down Deployment sends.
        ran = await cluster.flowctl("drain", "w1", "--grace", "10s")
        assert ran.code == 0, ran.err
        assert await added[0].ended() == 0, added[0].said()
        assert await added[1].stop() == 0, added[1].said()
        ran = await cluster.flowctl("workers", "-o", "json")
        states = {worker["id"]: worker["state"] for worker in ran.json}
        assert states["w0"] in ("Online", "Busy")
        assert {states.get("w1", "Offline"), states.get("w2", "Offline")} == {"Offline"}
        await load.finish()
        assert (await load.verdict()).twice == 0
