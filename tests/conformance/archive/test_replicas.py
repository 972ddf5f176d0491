"""The JetStream archive on three servers, one of which dies while it is written and read."""

import asyncio

import pytest

from headrace.bus import BrokerCluster, connect
from headrace.coordinator.archive import ArchivedRun, RunSummary, Segment
from headrace.coordinator.archive.jetstream import JetStreamArchive
from headrace.coordinator.archive.records import BUCKET, INDEX_STREAM, STREAM
from headrace.messages import ListRuns
from support.archives import NS, WITHIN_S, persistently
from support.broker import eventually

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

LARGE = 200_000
"""Bytes of a history that lies in the object store."""


def closed(number):
    summary = RunSummary(
        namespace=NS,
        run=f"r{number:03}",
        workflow="hello",
        state="COMPLETED" if number % 3 else "FAILED",
        created_ms=1_000 + number,
        finished_ms=2_000 + number,
        labels={"odd": str(number % 2)},
        plan="p1",
    )
    size = LARGE if number % 10 == 0 else 100 + number
    return ArchivedRun(summary, [Segment(1, bytes([number % 256]) * size)])


async def leader_of(bus, cluster, stream):
    """Return the server that leads *stream*, once there is one."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            info = await persistently(lambda: bus.js.stream_info(stream))
            for server in cluster.servers:
                if info.cluster is not None and server.name == info.cluster.get("leader"):
                    return server
            await asyncio.sleep(0.05)


async def everything(archive, count):
    """Return all runs of the archive in order of the list, their histories read and compared."""
    found, cursor = [], ""
    while True:
        query = ListRuns(limit=7, cursor=cursor)
        page = await persistently(lambda query=query: archive.list(NS, query))
        found += [view.id for view in page.runs]
        cursor = page.cursor
        if not cursor:
            break
    for number in range(count):
        one = closed(number)
        segments = await persistently(lambda one=one: archive.history(NS, one.summary.run))
        assert segments == one.segments, one.summary.run
    return found


async def test_a_server_dies_while_runs_are_archived(tmp_path):
    cluster = BrokerCluster(tmp_path)
    await cluster.start()
    opened = []
    try:
        async with (
            await connect(cluster.urls, name="first") as bus,
            await connect(cluster.urls, name="second") as other,
        ):
            first, second = [
                await persistently(lambda one=one: JetStreamArchive.open(one, replicas=3))
                for one in (bus, other)
            ]
            opened += [first, second]
            for name in (STREAM, INDEX_STREAM, f"OBJ_{BUCKET}"):
                assert (await bus.js.stream_info(name)).config["num_replicas"] == 3, name
            digest, plan = "0123456789abcdef0123456789abcdef", b"a plan"
            written = 0

            async def write(numbers):
                nonlocal written
                for number in numbers:
                    await persistently(lambda number=number: first.put([closed(number)]))
                    written += 1

            await persistently(lambda: first.put_plan(digest, plan))
            writer = asyncio.create_task(write(range(60)))
            await eventually(lambda: written >= 20, within_s=WITHIN_S)
            victim = await leader_of(bus, cluster, STREAM)
            await victim.kill()
            await asyncio.wait_for(writer, 2 * WITHIN_S)
            expected = [f"r{number:03}" for number in reversed(range(60))]
            assert await everything(first, 60) == expected
            # The other coordinator has it too, and so has one that comes now, from two servers.
            assert await everything(second, 60) == expected
            third = await persistently(lambda: JetStreamArchive.open(other, replicas=3))
            opened.append(third)
            assert await everything(third, 60) == expected
            assert await persistently(lambda: third.plan(digest)) == plan
            # It comes back, and another one goes.
            await victim.start()
            await (await leader_of(bus, cluster, INDEX_STREAM)).kill()
            await persistently(lambda: first.put([closed(60)]))
            assert await everything(first, 61) == ["r060", *expected]
            gone = await persistently(lambda: first.expire(before_ms=2_005, limit=10))
            assert gone == 5
    finally:
        for archive in opened:
            await archive.close()
        await cluster.stop()
