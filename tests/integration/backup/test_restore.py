"""What a restore refuses, and what it makes of what was under way."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import msgspec
import pytest

from headrace.bus import BrokerProcess, connect
from headrace.coordinator.backup import BrokenBackup, backup, restore
from headrace.coordinator.backup import cut as cut_module
from headrace.coordinator.backup import restoring as restoring_module
from headrace.coordinator.backup.cut import take_cut
from headrace.coordinator.core import Outgoing, OutMessage
from headrace.coordinator.runtime import holding
from headrace.coordinator.runtime.arrivals import IncomingStream
from headrace.coordinator.runtime.leading import Delivery
from headrace.coordinator.shardlog.jetstream import JetStreamLog, last_epoch
from headrace.errors import Conflict, NotFound, Unavailable, Unreachable
from headrace.messages import (
    ResultBatch,
    ResultReply,
    StepResult,
    decode,
    encode,
    subjects,
)
from support.broker import eventually
from support.incluster import InCluster, in_cluster
from support.plans import plan, task

pytestmark = pytest.mark.integration


@asynccontextmanager
async def fresh(folder, **settings):
    """A broker, a coordinator and a worker of their own."""
    if settings.get("archive") == "jetstream":
        settings["archive_path"] = ""
    broker = BrokerProcess(folder / "nats", name=folder.name)
    await broker.start()
    try:
        async with in_cluster(broker, folder, **settings) as cluster:
            await cluster.coordinator()
            await cluster.worker()
            yield cluster
    finally:
        await broker.stop()


def two_steps(**options):
    inputs = {"gate": True}
    return plan(
        task("one", uses="test/step", inputs=inputs, **options),
        task("two", uses="test/step", needs=["one"]),
        name="two",
    )


async def backed_up(cluster: InCluster, path):
    async with await connect(cluster.broker.url, name="backup") as bus:
        return await backup(bus, path, release="1", archive_file=None, tell=lambda _: None)


async def restored(cluster: InCluster, path):
    async with await connect(cluster.broker.url, name="restore") as bus:
        return await restore(bus, path, archive_file=None, tell=lambda _: None)


async def begun(cluster: InCluster, run: str, **options):
    """A run whose first step runs and waits."""
    cluster.steps.gate.clear()
    client = await cluster.client()
    await client.submit(two_steps(**options), run_id=run)
    await eventually(lambda: cluster.steps.began[f"default/{run}/one"] == 1, within_s=10)
    return client


def token_of(cluster, run):
    for shard in cluster.processes["c0"].thing.shards.values():
        machine = shard.owner.machine if shard.owner is not None else None
        if machine is not None and run in machine.state.runs:
            return machine.state.runs[run].tokens.get(1), machine.state.token_last, shard.shard
    raise AssertionError(run)


@pytest.mark.parametrize("archive", ["sqlite", "jetstream"])
async def test_what_was_under_way_is_made_again_and_late_results_are_refused(tmp_path, archive):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old", archive=archive) as old:
        client = await begun(old, "r")
        await client.submit(plan(task("one"), name="closed"), run_id="closed")
        assert (await client.wait("closed", 20)).state == "COMPLETED"
        history = await client.history("closed")
        manifest = await backed_up(old, path)
        old_token, _, shard = token_of(old, "default/r")
    async with fresh(tmp_path / "new", archive=archive) as new:
        new.steps.gate.clear()
        found = await restored(new, path)
        assert (found.runs, found.lost) == (1, 1)
        await eventually(lambda: new.steps.began["default/r/one"] == 1, within_s=15)
        token, _, _ = token_of(new, "default/r")
        # No token and no epoch that the old cluster may have come to since.
        assert token > old_token + 1_000_000
        async with await connect(new.broker.url, name="late") as bus:
            late = [
                StepResult("default/r", 1, attempt, number, 0, msgspec.Raw(b"\x80"), 1, 2)
                for attempt, number in ((1, old_token), (2, old_token), (2, old_token + 1))
            ]
            batch = ResultBatch(1, "w9", "gone", late)
            answer = await bus.request(
                subjects.result("default", shard, "w9"), encode(batch), timeout_s=5
            )
            assert decode(ResultReply, answer.data).refused == [0, 1, 2]
        client = await new.client()
        assert (await client.get("r")).state == "RUNNING"
        # Closed or about to be: it is shown as it was.
        assert (await client.get("closed")).state == "COMPLETED"
        assert await client.history("closed") == history
        epochs = {place.shard: place.epoch for place in manifest.shards}
        async with await connect(new.broker.url, name="epochs") as bus:
            for number in range(2):
                epoch, record = await last_epoch(bus, number)
                assert epoch > epochs[number] + 1_000_000
                assert record.restore == ""
        new.steps.gate.set()
        assert (await client.wait("r", 20)).state == "COMPLETED"


async def test_a_claimed_effect_is_unknown_and_not_run_again(tmp_path):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old") as old:
        await begun(old, "r", effect="at-most-once")
        await backed_up(old, path)
    async with fresh(tmp_path / "new") as new:
        await restored(new, path)
        client = await new.client()
        view = await client.wait("r", 20)
        assert view.state == "FAILED"
        assert [step.state for step in view.steps if step.path == "one"] == ["UNKNOWN"]
        assert new.steps.began.total() == 0


async def test_a_cluster_that_is_not_empty_is_left_as_it_is(tmp_path):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old") as old:
        client = await begun(old, "r")
        await backed_up(old, path)
        with pytest.raises(Conflict, match=r"not empty .*it has 1 runs.*stop the coordinators"):
            await restored(old, path)
        old.steps.gate.set()
        assert (await client.wait("r", 20)).state == "COMPLETED"
        # Closed runs count, too.
        await eventually(lambda: _archived(old), within_s=10)
        with pytest.raises(Conflict, match=r"its archive has run default/r"):
            await restored(old, path)


def _archived(cluster):
    shards = cluster.processes["c0"].thing.shards.values()
    return not any(s.owner.machine.state.runs for s in shards if s.owner and s.owner.machine)


async def test_other_shards_are_refused_by_name(tmp_path):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old") as old:
        await backed_up(old, path)
    async with fresh(tmp_path / "new", shards_journal=3) as new:
        with pytest.raises(Conflict, match=r"'journal': 3.*the backup .*'journal': 2"):
            await restored(new, path)


async def test_a_torn_file_changes_nothing(tmp_path):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old") as old:
        await begun(old, "r")
        await backed_up(old, path)
    path.write_bytes(path.read_bytes()[:-9_000])
    async with fresh(tmp_path / "new") as new:
        with pytest.raises(BrokenBackup):
            await restored(new, path)
        async with await connect(new.broker.url, name="epochs") as bus:
            assert (await last_epoch(bus, 0))[1].restore == ""
        client = await new.client()
        with pytest.raises(NotFound):
            await client.get("r")
        # It takes runs as before.
        new.steps.gate.set()
        await client.submit(two_steps(), run_id="other")
        assert (await client.wait("other", 20)).state == "COMPLETED"


async def test_a_restore_that_was_killed_is_run_again(tmp_path, monkeypatch):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old") as old:
        await begun(old, "r")
        await backed_up(old, path)
    async with fresh(tmp_path / "new") as new:
        real = restoring_module._Restore._blobs

        async def killed(_self):
            raise asyncio.CancelledError

        monkeypatch.setattr(restoring_module._Restore, "_blobs", killed)
        with pytest.raises(asyncio.CancelledError):
            await restored(new, path)
        monkeypatch.setattr(restoring_module._Restore, "_blobs", real)
        # Nobody goes on with the half of it.
        await new.stop("c0")
        server = await new.coordinator(ready=False)
        await eventually(
            lambda: any("is being restored" in shard.problem for shard in server.shards.values()),
            within_s=15,
        )
        new.steps.gate.set()
        assert new.steps.began.total() == 0
        found = await restored(new, path)
        assert (found.runs, found.lost) == (1, 1)
        client = await new.client()
        assert (await client.wait("r", 30)).state == "COMPLETED"


async def test_events_that_nobody_had_read_are_read_by_the_restored_cluster(tmp_path, monkeypatch):
    path = tmp_path / "file"
    async with fresh(tmp_path / "old") as old:
        client = await old.client()
        await client.events.publish("orders.old", {"n": 1})
        server = old.processes["c0"].thing
        await eventually(
            lambda: server.shards[0].owner.machine.state.incoming.position == 1, within_s=10
        )

        async def nothing(_self, _after):
            return ()

        monkeypatch.setattr(IncomingStream, "read", nothing)
        await client.events.publish("orders.new", {"n": 2}, id="two")
        await backed_up(old, path)
        monkeypatch.undo()
    async with fresh(tmp_path / "new") as new:
        assert (await restored(new, path)).events == 1
        async with await connect(new.broker.url, name="look") as bus:
            (found,), _ = await bus.js.read(subjects.INCOMING_STREAM, 1)
        assert found.subject == "headrace.in.default.orders.new"
        assert json.loads(found.data) == {"n": 2}
        assert found.headers["Nats-Msg-Id"].endswith("two")


RELEASE = OutMessage("k", "release", ["k", "nobody"])


async def test_a_shard_that_stands_still_neither_hears_nor_is_heard(tmp_path):
    async with fresh(tmp_path / "old") as old:
        shards = old.processes["c0"].thing.shards
        logged: list[str] = []
        async with await connect(old.broker.url, name="peer") as bus:

            async def hears(shard):
                data = encode(Delivery(1, "release:k:nobody", RELEASE))
                try:
                    await bus.request(subjects.peer(shard), data, timeout_s=0.5)
                except Unreachable:
                    return False
                return True

            async def is_heard(shard, other):
                logged.clear()
                shards[shard].send(Outgoing("m", other, RELEASE), logged.append)
                await eventually(lambda: not shards[shard]._sending, within_s=10)
                return bool(logged)

            assert await hears(0)
            assert await is_heard(0, 1)
            shards[0].standstill.begin("cut", 10_000)
            assert not await hears(0)
            assert not await is_heard(0, 1)
            assert await hears(1)
            # A cut ends with all shards going on, whatever their holds were called.
            cut = await take_cut(bus)
            assert set(cut.places) == {0, 1, 2, 3}
            await eventually(lambda: not shards[0].standstill.on, within_s=10)
            assert await hears(0)


async def test_a_hold_ends_by_itself(monkeypatch):
    monkeypatch.setattr(holding, "HOLD_MS_MAX", 0)
    standstill = holding.Standstill()
    standstill.begin("of one that died", 3_600_000)
    assert not standstill.on


async def test_a_position_of_an_owner_that_was_deposed_meanwhile_is_no_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(cut_module, "TRIES", 1)
    async with (
        fresh(tmp_path / "old") as old,
        await connect(old.broker.url, name="cut") as bus,
    ):
        real = cut_module._ask

        async def ask(bus, order):
            found = await real(bus, order)
            if isinstance(order, holding.Where):
                await JetStreamLog(bus, 1).take("somebody else", lambda *_: None)
            return found

        monkeypatch.setattr(cut_module, "_ask", ask)
        with pytest.raises(Unavailable, match="shard 1 has changed its owner"):
            await take_cut(bus)
