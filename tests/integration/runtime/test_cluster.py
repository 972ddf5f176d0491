"""Coordinators and workers on a real broker: outages, restarts, levels, takeovers, the feed."""

from __future__ import annotations

import asyncio

import pytest

from headrace.bus import connect
from headrace.coordinator.runtime.feed import FeedMessage
from headrace.errors import Conflict, HeadraceError, NotFound
from headrace.events import decode_batch
from headrace.messages import decode, subjects
from support.broker import eventually
from support.incluster import in_cluster
from support.plans import plan, task

pytestmark = pytest.mark.integration
THREE = ("c0", "c1", "c2")
"""As few as may lose one."""


def steps(count, s=0.0, **options):
    names = [f"s{n}" for n in range(count)]
    return plan(
        *(
            task(name, uses="test/step", inputs={"s": s, **options}, needs=names[n - 1 : n])
            for n, name in enumerate(names)
        ),
        name="steps",
    )


async def ended(client, *runs, state="COMPLETED"):
    for run in runs:
        view = await client.wait(run, 40)
        assert (view.id, view.state) == (run, state), view


async def test_a_run_from_end_to_end(cluster):
    await cluster.coordinator()
    await cluster.worker()
    client = await cluster.client()
    view = await client.submit(steps(3), run_id="r")
    await ended(client, view.id)
    assert cluster.steps.ended.total() == 3
    # It leaves the state for the archive, and answers from there.
    await eventually(lambda: not any(runs(cluster)), within_s=10)
    assert (await client.get("r")).state == "COMPLETED"
    with pytest.raises(Conflict):
        await client.submit(steps(4), run_id="r")
    assert (await client.submit(steps(3), run_id="r")).state == "COMPLETED"
    assert cluster.steps.ended.total() == 3


def runs(cluster):
    for process in cluster.processes.values():
        for shard in getattr(getattr(process, "thing", None), "shards", {}).values():
            machine = shard.owner.machine if shard.owner is not None else None
            if machine is not None:
                yield from machine.state.runs


async def test_a_broker_restart_reruns_nothing(cluster, broker):
    await cluster.coordinator()
    await cluster.worker(slots=4)
    client = await cluster.client()
    names = [f"r{n}" for n in range(12)]
    for name in names:
        await client.submit(steps(4, 0.15), run_id=name)
    await eventually(lambda: cluster.steps.ended.total() > 4, within_s=10)
    await broker.kill()
    await asyncio.sleep(0.5)
    await broker.start()
    await ended(client, *names)
    # The queue was lost with the broker's memory, and is made again; what ran, ran once.
    assert set(cluster.steps.ended.values()) == {1}, cluster.steps.ended.most_common(3)
    assert cluster.steps.began == cluster.steps.ended
    # And lanes work as before.
    await client.submit(steps(2), run_id="after")
    await ended(client, "after")


async def test_a_frozen_broker_reruns_nothing(cluster, broker):
    await cluster.coordinator()
    await cluster.worker(slots=4)
    client = await cluster.client()
    cluster.steps.gate.clear()
    await client.submit(steps(1, gate=True), run_id="r")
    await eventually(lambda: cluster.steps.began, within_s=10)
    broker.pause()
    # Longer than three leases, shorter than anybody's patience with the connection.
    await asyncio.sleep(3.5)
    broker.resume()
    await asyncio.sleep(1.5)
    cluster.steps.gate.set()
    await ended(client, "r")
    assert cluster.steps.began == {"default/r/s0": 1}


async def test_a_worker_that_dies_loses_its_steps_and_a_new_one_goes_on(cluster):
    await cluster.coordinator()
    await cluster.worker()
    client = await cluster.client()
    cluster.steps.gate.clear()
    await client.submit(steps(1, gate=True), run_id="r")
    await eventually(lambda: cluster.steps.began, within_s=10)
    await cluster.kill("w0")
    cluster.steps.gate.set()
    await cluster.worker("w0")
    await ended(client, "r")
    assert cluster.steps.began == {"default/r/s0": 2}


async def test_a_killed_coordinator_leaves_held_steps_alone(broker, tmp_path):
    async with in_cluster(broker, tmp_path, archive="jetstream", archive_path="") as cluster:
        await cluster.coordinator()
        await cluster.worker(slots=4)
        client = await cluster.client()
        cluster.steps.gate.clear()
        for name in ("a", "b"):
            await client.submit(steps(2, gate=True), run_id=name)
        await eventually(lambda: cluster.steps.began.total() == 2, within_s=10)
        await cluster.kill("c0")
        await asyncio.sleep(0.3)
        await cluster.coordinator()
        await asyncio.sleep(1.5)
        cluster.steps.gate.set()
        await ended(client, "a", "b")
        assert set(cluster.steps.began.values()) == {1}


async def test_three_coordinators_and_the_feed(broker, tmp_path):
    three = {"peers": THREE, "archive": "jetstream", "archive_path": ""}
    async with in_cluster(broker, tmp_path, **three) as cluster:
        for name in THREE:
            await cluster.coordinator(name, ready=False)
        await cluster.worker(slots=8)
        client = await cluster.client()
        heard = []
        async with await connect(broker.url, name="feed") as bus:
            bus.subscribe("headrace.events.*", lambda m: heard.append(decode(FeedMessage, m.data)))
            await bus.flush()
            names = [f"r{n}" for n in range(16)]
            for name in names:
                await client.submit(steps(5, 0.05), run_id=name)
            await eventually(lambda: cluster.steps.ended.total() > 10, within_s=15)
            owner = next(n for n in THREE if cluster.processes[n].thing.control.owned)
            await cluster.kill(owner)
            await ended(client, *names)
            assert set(cluster.steps.ended.values()) == {1}

            def feed_is_complete():
                return all(
                    chain(heard, shard) == list(range(1, last_index(cluster, shard) + 1))
                    for shard in range(2)
                )

            await eventually(feed_is_complete, within_s=10)
            stored, _ = await bus.js.read(subjects.EVENTS_STREAM, 1, count=1_000)
            for shard in range(2):
                mine = [decode(FeedMessage, s.data) for s in stored]
                assert chain(mine, shard) == chain(heard, shard)


def chain(messages, shard):
    """Return the indexes of a shard's batches in the order in which they came."""
    batches = [data for m in messages if m.shard == shard for _, data in m.entries()]
    return [decode_batch(data).index for data in batches]


def last_index(cluster, shard):
    for process in cluster.processes.values():
        held = getattr(getattr(process, "thing", None), "shards", {}).get(shard)
        if held is not None and held.owner is not None and held.owner.machine is not None:
            return held.owner.machine.state.batch_index
    return -1


@pytest.mark.parametrize("level", ["memory", "snapshot"])
async def test_weak_levels_after_a_restart(cluster, level):
    server = await cluster.coordinator()
    await cluster.worker()
    client = await cluster.client()
    for n in range(3):
        await client.submit(steps(1), run_id=f"done{n}", durability=level)
        await ended(client, f"done{n}")
    cluster.steps.gate.clear()
    await client.submit(steps(1, gate=True), run_id="held", durability=level)
    await eventually(lambda: cluster.steps.began["default/held/s0"], within_s=10)
    (number,) = server.layout.level_shards()[level]
    shard = server.shards[number]
    position = shard.owner.machine.state.batch_position
    if level == "snapshot":
        await eventually(
            lambda: (
                shard.owner.machine.state.snapshots
                and "default/held" in shard.owner.machine.state.runs
                and shard.owner.machine.state.snapshots[-1][0] >= position
            ),
            within_s=10,
        )
    await cluster.kill("c0")
    server = await cluster.coordinator()
    # Positions and epochs go on: the worker has seen the ones before, and so has the feed.
    assert server.shards[number].log.epoch > position
    cluster.steps.gate.set()
    if level == "snapshot":
        await ended(client, "held")
        assert cluster.steps.began["default/held/s0"] == 1
    else:
        with pytest.raises(NotFound):
            await client.get("held")
    await client.submit(steps(2), run_id="new", durability=level)
    await ended(client, "new")
    async with await connect(cluster.broker.url, name="feed") as bus:
        stored, _ = await bus.js.read(
            subjects.EVENTS_STREAM, 1, count=1_000, subject=subjects.events(number)
        )
    told = [decode(FeedMessage, one.data) for one in stored]
    positions = [position for message in told for position, _ in message.entries()]
    assert positions == sorted(set(positions))
    assert positions[0] < position < positions[-1]


async def test_a_weak_shard_that_is_given_up_leaves_its_last_snapshot_behind(cluster):
    await cluster.coordinator()
    client = await cluster.client()
    await client.submit(steps(1), run_id="waits", durability="snapshot")
    await cluster.stop("c0")
    await cluster.coordinator()
    assert (await client.get("waits")).state == "RUNNING"


async def test_a_torn_snapshot_is_passed_over(broker, tmp_path):
    settings = {"shards_journal": 1, "snapshot_events": 100}
    async with in_cluster(broker, tmp_path, **settings) as cluster:
        server = await cluster.coordinator()
        await cluster.worker()
        client = await cluster.client()
        cluster.steps.gate.clear()
        await client.submit(steps(1, gate=True), run_id="held")
        owner = server.shards[0].owner
        for number in range(2):
            await owner.snapshot()
            await client.submit(steps(1), run_id=f"r{number}")
            await ended(client, f"r{number}")
        assert len(owner.machine.state.snapshots) == 2
        newest = owner.machine.state.snapshots[-1][1]
        await cluster.kill("c0")
        async with await connect(broker.url, name="vandal") as bus:
            subject = f"$O.{subjects.SNAPSHOT_BUCKET}.C.>"
            stream = f"OBJ_{subjects.SNAPSHOT_BUCKET}"
            stored, _ = await bus.js.read(stream, 1, count=100, subject=subject)
            # The newest object's bytes are gone, its entry is not.
            await bus.js.purge(stream, subject=stored[-1].subject)
        server = await cluster.coordinator()
        assert "default/held" in server.shards[0].owner.machine.state.runs
        assert newest in [name for _, name, _ in server.shards[0].owner.machine.state.snapshots]
        cluster.steps.gate.set()
        await ended(client, "held")
        assert cluster.steps.began["default/held/s0"] == 1


async def test_a_hole_in_the_log_halts_the_shard_loudly_and_no_other(cluster, caplog):
    server = await cluster.coordinator()
    await cluster.worker()
    client = await cluster.client()
    for n in range(8):
        await client.submit(steps(1), run_id=f"r{n}")
    await ended(client, *(f"r{n}" for n in range(8)))
    await cluster.kill("c0")
    async with await connect(cluster.broker.url, name="vandal") as bus:
        stream, subject = subjects.log_stream(1), subjects.log(1)
        stored, _ = await bus.js.read(stream, 1, count=100, subject=subject)
        await bus.js.api(f"STREAM.MSG.DELETE.{stream}", {"seq": stored[1].seq}, dict)
    server = await cluster.coordinator(ready=False)
    await eventually(lambda: 1 in server.shards and server.shards[1].problem, within_s=15)
    assert "does not follow" in server.shards[1].problem
    ready, reasons = server.ready
    assert not ready
    assert any("shard 1" in reason for reason in reasons)
    await eventually(lambda: server.shards[0].owner.leading.is_set(), within_s=10)
    critical = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert critical[0].getMessage() == "log cannot be read"
    info = await client.info(workers=True)
    assert any("shard 1" in warning for warning in info.warnings)


async def test_a_log_that_was_lost_is_not_taken_for_an_empty_one(broker, tmp_path):
    async with in_cluster(broker, tmp_path, shards_journal=1) as cluster:
        server = await cluster.coordinator()
        client = await cluster.client()
        for n in range(4):
            await client.submit(steps(1), run_id=f"r{n}")
        await server.shards[0].owner.snapshot()
        await cluster.kill("c0")
        async with await connect(broker.url, name="vandal") as bus:
            await bus.js.delete_stream(subjects.log_stream(0))
        server = await cluster.coordinator(ready=False)
        await eventually(lambda: 0 in server.shards and server.shards[0].problem, within_s=15)
        assert "entries are lost" in server.shards[0].problem


async def test_a_shard_task_that_crashes_ends_the_process(cluster):
    server = await cluster.coordinator()

    def bug(machine):
        raise RuntimeError("a bug")

    server.shards[0].owner.post(bug)
    process = cluster.processes.pop("c0")
    async with asyncio.timeout(30):
        with pytest.raises(BaseExceptionGroup) as raised:
            await process.task
    assert raised.group_contains(RuntimeError, match="a bug", depth=1)
    await process.bus.close()


async def test_a_standby_hands_its_state_over_and_survives_a_purge(broker, tmp_path):
    three = {"peers": THREE, "archive": "jetstream", "archive_path": "", "shards_journal": 1}
    async with in_cluster(broker, tmp_path, **three) as cluster:
        for name in THREE:
            await cluster.coordinator(name, ready=False)
        await cluster.worker()
        client = await cluster.client()
        servers = {name: cluster.processes[name].thing for name in THREE}

        def find(mode):
            return [n for n, s in servers.items() if 0 in s.shards and s.shards[0].mode == mode]

        await eventually(lambda: find("leading") and find("standby"), within_s=15)
        (leader,), (standby,) = find("leading"), find("standby")
        cluster.steps.gate.clear()
        for n in range(5):
            await client.submit(steps(1, gate=True), run_id=f"r{n}")
        owner = servers[leader].shards[0].owner
        follower = servers[standby].shards[0].follower
        await eventually(
            lambda: (
                follower.state is not None
                and follower.state.batch_position == owner.machine.state.batch_position
            ),
            within_s=10,
        )
        info = await client.info(workers=True)
        (shard,) = [one for one in info.shards if one.shard == 0]
        assert shard.standby_hash == shard.state_hash != ""
        await cluster.kill(leader)
        await eventually(lambda: standby in find("leading"), within_s=10)
        new = servers[standby].shards[0]
        await eventually(lambda: new.owner is not None and new.owner.leading.is_set(), within_s=10)
        # It is the very state that the standby had folded.
        assert new.owner.machine.state is follower.state
        cluster.steps.gate.set()
        await ended(client, *(f"r{n}" for n in range(5)))


async def test_more_lanes_than_one_worker_could_serve_one_by_one(cluster):
    await cluster.coordinator()
    labels = tuple(f"l{n}" for n in range(12))
    await cluster.worker(slots=2, capabilities=labels)
    client = await cluster.client()
    names = []
    for n, label in enumerate(labels):
        body = plan(
            *(
                task(f"t{k}", uses="test/step", inputs={"s": 0.02}, runs_on=(label,))
                for k in range(6)
            )
        )
        names.append((await client.submit(body, run_id=f"lane{n}")).id)
    await ended(client, *names)
    assert set(cluster.steps.began.values()) == {1}


async def test_an_unreachable_run_is_said_to_be_so(cluster):
    await cluster.coordinator()
    client = await cluster.client()
    await client.submit(steps(1), run_id="r")
    explanation = await client.explain("r")
    assert "test/step" in explanation.summary
    waited = await client.get("r", wait_ms=300)
    assert waited.state == "RUNNING"
    with pytest.raises(HeadraceError):
        await client.get("nobody")
