"""Events from outside while coordinators die: each begins one run."""

from __future__ import annotations

import asyncio

import pytest

from headrace.messages import subjects
from headrace.plan import EventTrigger, InputSpec
from support.broker import eventually
from support.incluster import in_cluster
from support.plans import plan, task

pytestmark = pytest.mark.integration
THREE = ("c0", "c1", "c2")
COUNT = 60


async def test_each_event_begins_one_run_whoever_dies(broker, tmp_path):
    waiting = plan(
        task("a", uses="test/step", inputs={}),
        name="order",
        events=(EventTrigger(subject="orders.>", inputs={"n": "${{ event.data }}"}),),
        inputs={"n": InputSpec(type="number", required=True)},
    )
    settings = {"peers": THREE, "archive": "jetstream", "archive_path": ""}
    async with in_cluster(broker, tmp_path, **settings) as cluster:
        await asyncio.gather(*(cluster.coordinator(name, ready=False) for name in THREE))
        await cluster.worker()
        client = await cluster.client()
        await client.definitions.register(waiting)

        def owner():
            for name in THREE:
                process = cluster.processes.get(name)
                shard = process.thing.shards.get(subjects.SYSTEM_SHARD) if process else None
                if shard is not None and shard.owner is not None and shard.owner.leading.is_set():
                    return name, shard.owner
            return None

        async def publish():
            for n in range(COUNT):
                found = await client.events.publish("orders.new", n, id=f"o{n}")
                assert not found.duplicate
                if n == COUNT // 3:
                    # In the middle of reading them.
                    await eventually(owner, within_s=20)
                    await cluster.kill(owner()[0])

        await asyncio.wait_for(publish(), 60)

        async def begun():
            page = await client.list(labels={"headrace/event": "orders.new"}, limit=1_000)
            return page.runs

        async with asyncio.timeout(60):
            while len([run for run in await begun() if run.state == "COMPLETED"]) < COUNT:
                await asyncio.sleep(0.1)
        ids = [run.labels["headrace/event-id"] for run in await begun()]
        assert sorted(ids) == sorted(f"o{n}" for n in range(COUNT))
        (shown,) = await client.events.triggers()
        assert (shown.started, shown.failed) == (COUNT, 0)
        assert cluster.steps.ended.total() == COUNT
