"""Large values on a real broker go with their runs, and orphans go by themselves."""

from __future__ import annotations

import pytest

from headrace.bus import ObjectBucket
from headrace.config import Limits
from headrace.coordinator.runtime.blobs import BlobSweep, asking
from headrace.errors import NotFound, Unavailable
from headrace.messages import subjects
from headrace.plan import InputSpec
from support.broker import eventually
from support.incluster import in_cluster
from support.plans import plan, task

pytestmark = pytest.mark.integration
LARGE = "x" * 40_000


def holding(name):
    waiting = task(name, uses="test/step", inputs={"gate": True})
    return plan(waiting, name=name, inputs={"text": InputSpec()})


def live(server):
    for shard in server.shards.values():
        machine = shard.owner.machine if shard.owner is not None else None
        if machine is not None:
            yield from machine.state.runs


@pytest.mark.parametrize("archive", ["jetstream", "sqlite"])
async def test_values_live_as_long_as_their_run_is_known(broker, tmp_path, archive):
    settings = {"archive": archive, "limits": Limits(payload_inline_bytes=1_024)}
    if archive == "jetstream":
        settings["archive_path"] = ""
    async with in_cluster(broker, tmp_path, **settings) as cluster:
        server = await cluster.coordinator()
        await cluster.worker()
        client = await cluster.client()
        cluster.steps.gate.clear()
        waits = holding("waits")
        text = {"text": LARGE}
        # One run of each level lives; one value never gets its run.
        for run, level in (("j", "journal"), ("s", "snapshot"), ("m", "memory")):
            await client.submit(waits, text, run_id=run, durability=level)
        bucket = ObjectBucket(server.bus, subjects.BLOB_BUCKET)
        await bucket.put("default/never/abc", b"orphan")
        await bucket.put("somebody's own", b"not ours")
        names = await bucket.names()
        assert len(names) == 5

        # Nothing is young here: the margin is tested with values.
        sweep = BlobSweep(
            bucket, server.archive, asking(server.bus), server.layout, margin_ms=-60_000
        )
        now_ms = server.clock.now_ms
        assert (await sweep.piece(now_ms())).dropped == 1
        with pytest.raises(NotFound):
            await bucket.get("default/never/abc")
        assert len(await bucket.names()) == 4

        cluster.steps.gate.set()
        for run in "jsm":
            assert (await client.wait(run, 30)).state == "COMPLETED"
        await eventually(lambda: not any(live(server)), within_s=10)
        assert (await sweep.piece(now_ms())).dropped == 0, "the archive knows them"

        assert await server.archive.expire(before_ms=now_ms() + 60_000, limit=10) == 3
        assert (await sweep.piece(now_ms())).dropped == 3
        assert await bucket.names() == ["somebody's own"]
        info = await server.bus.js.stream_info("OBJ_headrace-blobs", subjects="$O.*.C.>")
        assert len(info.state.subjects) == 1, "their bytes are gone too"


async def test_only_an_owner_says_what_a_shard_holds(cluster):
    server = await cluster.coordinator()
    ask = asking(server.bus)
    assert list(await ask(0, "default", ["nobody"])) == []
    server.shards[0].owner.post_requests = lambda batch: batch.refuse(server_busy())
    with pytest.raises(Unavailable, match="shard 0"):
        await ask(0, "default", ["nobody"])


def server_busy():
    from headrace.coordinator.core import Refusal

    return Refusal("busy", "the shard's inbox is full", 100)
