"""What only the JetStream log has to promise."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from headrace.bus import BrokerCluster, BrokerProcess, connect
from headrace.coordinator.shardlog import NeedsNewerRelease
from headrace.coordinator.shardlog.jetstream import JetStreamLog
from headrace.errors import Unavailable, Unreachable
from support.broker import eventually
from support.shardlogs import JetStreamWorld

pytestmark = pytest.mark.integration


async def test_not_resolved_in_time_the_log_must_be_taken_again(broker: BrokerProcess):
    async with await connect(broker.url, name="owner") as bus:
        log = JetStreamLog(bus, 1, append_timeout_s=0.1, resolve_timeout_s=0.3, take_timeout_s=0.5)
        await log.take("owner", lambda *_: None)
        await log.append(b"before")
        broker.pause()
        try:
            with pytest.raises(Unreachable):
                await log.append(b"in doubt")
            with pytest.raises(AssertionError, match="take"):
                await log.append(b"more")
            with pytest.raises(Unreachable):
                await log.take("owner", lambda *_: None)
        finally:
            broker.resume()
        found: list[bytes] = []
        again = JetStreamLog(bus, 1)
        await again.take("owner", lambda _, data: found.append(data))
        assert found[0] == b"before"
        assert found[1:] in ([], [b"in doubt"])
        await again.append(b"after")


async def test_a_taker_reads_on_to_its_own_record_whichever_replica_answers(
    wire_world: JetStreamWorld, monkeypatch: pytest.MonkeyPatch
):
    """A replica that lags ends early: it has nothing, or a part, and does not know better."""
    before = JetStreamLog(wire_world.bus, wire_world.shard)
    await before.take("before", lambda *_: None)
    for number in range(5):
        await before.append(b"entry %d" % number)
    taker = JetStreamLog(wire_world.bus, wire_world.shard)
    real, seen = taker._read_some, [0, 2, 0, 1]

    async def lagging(start: int, timeout_s: float):
        got = await real(start, timeout_s)
        return got[: seen.pop(0)] if seen else got

    monkeypatch.setattr(taker, "_read_some", lagging)
    found: list[bytes] = []
    await taker.take("taker", lambda _, data: found.append(data))
    assert found == [b"entry %d" % number for number in range(5)]
    assert seen == []
    await taker.append(b"mine")


async def test_an_older_release_does_not_take_a_shard_of_a_newer(wire_world: JetStreamWorld):
    newer = JetStreamLog(wire_world.bus, wire_world.shard, feature_level=2)
    await newer.take("newer", lambda *_: None)
    older = JetStreamLog(wire_world.bus, wire_world.shard, feature_level=1)
    with pytest.raises(NeedsNewerRelease, match=r"feature level 2 .* a downgrade is not possible"):
        await older.take("older", lambda *_: None)
    await newer.append(b"still ours")


async def test_the_level_of_an_ownership_is_what_all_could_read_when_it_began(
    wire_world: JetStreamWorld,
):
    common = 1
    log = JetStreamLog(wire_world.bus, wire_world.shard, feature_level=2, stamp=lambda: common)
    assert log.feature_level == 0
    await log.take("owner", lambda *_: None)
    assert log.feature_level == 1
    common = 2
    assert log.feature_level == 1, "an older release may still take over from this record"
    await log.take("owner", lambda *_: None)
    assert log.feature_level == 2
    common = 0
    await log.take("owner", lambda *_: None)
    assert log.feature_level == 2, "somebody is away, and nobody of an older release comes back"


async def test_a_takeover_tells_the_brokers_clock(wire_world: JetStreamWorld):
    log = wire_world.open_on(wire_world.bus)
    before_ms = time.time() * 1000
    await log.take("owner", lambda *_: None)
    assert before_ms - 1 <= log.taken_at_ms <= time.time() * 1000 + 1


async def test_what_the_broker_would_never_take_is_unavailable_and_harms_nothing(
    wire_world: JetStreamWorld,
):
    log = wire_world.open_on(wire_world.bus)
    await log.take("owner", lambda *_: None)
    info = await wire_world.bus.js.stream_info(f"HEADRACE_LOG_{log.shard}")
    await wire_world.bus.js.api(
        f"STREAM.UPDATE.HEADRACE_LOG_{log.shard}", {**info.config, "max_msg_size": 2000}, dict
    )
    with pytest.raises(Unavailable, match="size"):
        await log.append(b"x" * 3000)
    position = await log.append(b"small")
    found: list[tuple[int, bytes]] = []
    await wire_world.open().take("reader", lambda *entry: found.append(entry))
    assert found == [(position, b"small")]


async def test_old_epoch_records_go_with_a_purge(wire_world: JetStreamWorld):
    for number in range(5):
        log = wire_world.open_on(wire_world.bus)
        await log.take(f"owner-{number}", lambda *_: None)
    await log.purge(upto=0)
    stream = f"HEADRACE_LOG_{log.shard}"
    assert (await wire_world.bus.js.stream_info(stream)).state.messages == 1
    await log.append(b"x")


@pytest.mark.chaos
async def test_appends_go_on_exactly_once_when_the_streams_leader_is_killed(tmp_path: Path):
    cluster = BrokerCluster(tmp_path)
    await cluster.start()
    try:
        async with await connect(cluster.urls, name="owner") as bus:
            log = JetStreamLog(bus, 1, replicas=3, resolve_timeout_s=30.0)
            await log.take("owner", lambda *_: None)
            acknowledged: list[tuple[int, bytes]] = []
            stop = asyncio.Event()

            async def write() -> None:
                while not stop.is_set():
                    data = b"batch %d" % len(acknowledged)
                    acknowledged.append((await log.append(data), data))

            writer = asyncio.create_task(write())
            await eventually(lambda: len(acknowledged) > 20)
            info = await bus.js.stream_info("HEADRACE_LOG_1")
            assert info.cluster is not None
            leader = info.cluster["leader"]
            await next(server for server in cluster.servers if server.name == leader).kill()
            killed_at = len(acknowledged)
            await eventually(lambda: len(acknowledged) > killed_at + 20, within_s=30)
            stop.set()
            await asyncio.wait_for(writer, 30)
            found: list[tuple[int, bytes]] = []
            reader = JetStreamLog(bus, 1, replicas=3)
            await reader.take("reader", lambda *entry: found.append(entry))
            assert found == acknowledged
    finally:
        await cluster.stop()
