"""A connection to a real broker, and what becomes of it when the broker fails."""

from __future__ import annotations

import asyncio
import logging

import pytest

from headrace.bus import (
    BrokerCluster,
    BrokerProcess,
    Bus,
    Disconnected,
    Message,
    NoResponders,
    TimedOut,
    Timings,
    connect,
    free_port,
)
from headrace.bus._facts import server_facts
from headrace.errors import Busy, InvalidConfig, InvalidRequest, LimitExceeded, Unreachable
from support.broker import eventually

pytestmark = pytest.mark.integration


async def test_a_request_is_answered_with_its_headers(bus: Bus):
    seen: list[Message] = []

    def answer(message: Message) -> None:
        seen.append(message)
        bus.respond(message, message.data * 2)

    bus.subscribe("t.echo", answer)
    await bus.flush()
    reply = await bus.request("t.echo", b"ab", timeout_s=2, headers={"A": "b", "C": "d e"})
    assert reply.data == b"abab"
    assert seen[0].headers == {"A": "b", "C": "d e"}
    assert seen[0].subject == "t.echo"


async def test_many_requests_at_once_get_their_own_answers(bus: Bus):
    bus.subscribe("t.many", lambda message: bus.respond(message, message.data))
    await bus.flush()
    replies = await asyncio.gather(
        *(bus.request("t.many", str(n).encode(), timeout_s=5) for n in range(500))
    )
    assert [reply.data for reply in replies] == [str(n).encode() for n in range(500)]


async def test_nobody_there_fails_at_once(bus: Bus):
    async with asyncio.timeout(20):
        with pytest.raises(NoResponders, match="nobody"):
            await bus.request("t.nobody", b"", timeout_s=30)


async def test_silence_fails_in_time(bus: Bus):
    bus.subscribe("t.silent", lambda _: None)
    await bus.flush()
    with pytest.raises(TimedOut):
        await bus.request("t.silent", b"", timeout_s=0.05)
    assert not bus._requests
    assert not bus._waiting


async def test_a_queue_group_shares_and_a_closed_subscription_is_silent(bus: Bus):
    got: list[int] = []
    members = [bus.subscribe("t.queue", lambda _, n=n: got.append(n), queue="q") for n in range(3)]
    await bus.flush()
    for _ in range(30):
        assert bus.publish("t.queue", b"")
    await bus.flush()
    assert len(got) == 30
    for member in members:
        member.close()
        member.close()
    bus.publish("t.queue", b"")
    await bus.flush()
    assert len(got) == 30


async def test_a_failing_callback_harms_nobody(bus: Bus, caplog: pytest.LogCaptureFixture):
    got: list[bytes] = []

    def fail(message: Message) -> None:
        got.append(message.data)
        raise RuntimeError("callback")

    bus.subscribe("t.fail", fail)
    with caplog.at_level(logging.ERROR):
        bus.publish("t.fail", b"1")
        bus.publish("t.fail", b"2")
        await bus.flush()
    assert got == [b"1", b"2"]
    assert [record.message for record in caplog.records] == ["message callback failed"] * 2


async def test_what_the_broker_would_not_take_is_refused_here(bus: Bus):
    with pytest.raises(LimitExceeded):
        bus.publish("t.large", b"x" * (bus.max_payload_bytes + 1))
    with pytest.raises(InvalidRequest):
        bus.publish("t bad", b"")
    with pytest.raises(InvalidRequest):
        bus.subscribe("t\r\nbad", lambda _: None)
    await bus.flush()


async def test_a_broker_that_does_not_keep_up_is_busy(broker: BrokerProcess):
    async with await connect(broker.url, name="test") as bus:
        broker.pause()

        def flood() -> None:
            for _ in range(400):
                bus.publish("t.flood", b"x" * 500_000)

        try:
            with pytest.raises(Busy):
                flood()
        finally:
            broker.resume()


async def test_server_facts(broker: BrokerProcess, bus: Bus):
    async with await connect(broker.url, name="test") as own:
        facts = await own.server_facts(monitor=broker.monitor_url)
        assert (facts.name, facts.sync, facts.jetstream) == ("own", "always", True)
        assert facts.version.startswith("2.")
    unknown = await bus.server_facts()
    assert unknown.sync == "unknown"
    nowhere = await bus.server_facts(monitor=f"http://127.0.0.1:{free_port()}")
    assert nowhere.sync == "unknown"


async def test_a_server_that_was_asked_too_early_still_tells():
    """/varz, asked before JetStream is up, stays without it until the server ends."""
    bodies = {"/varz": b"{}", "/jsz": b'{"config": {"sync_always": true}}'}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + bodies[path])
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        facts = await server_facts({}, f"http://127.0.0.1:{port}")
    assert facts.sync == "always"


async def test_a_weaker_server_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("headrace.bus._facts.MONITOR_TIMEOUT_S", 20.0)  # of a busy machine
    server = BrokerProcess(tmp_path, sync_always=False)
    await server.start()
    try:
        async with await connect(server.url, name="test") as bus:
            facts = await bus.server_facts(monitor=server.monitor_url)
            assert facts.sync == "periodic"
            assert facts.sync_interval_ms > 1000
    finally:
        await server.stop()


async def test_no_broker_names_the_address_in_time():
    address = f"nats://127.0.0.1:{free_port()}"
    async with asyncio.timeout(20):
        with pytest.raises(Unreachable, match=address):
            await connect(address, name="test", wait_s=0.3)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ws://127.0.0.1:1", "ws://"),
        ("nats://127.0.0.1:70000", "from 1 to 65535"),
        ("127.0.0.1:0", "from 1 to 65535"),
    ],
)
async def test_an_address_that_cannot_be_is_refused(address, said):
    with pytest.raises(InvalidConfig, match=said):
        await connect(address, name="test")


async def test_a_server_waits_for_its_broker_and_says_so_once(
    tmp_path, caplog: pytest.LogCaptureFixture
):
    server = BrokerProcess(tmp_path, port=free_port())
    with caplog.at_level(logging.WARNING):
        connecting = asyncio.create_task(connect(server.url, name="test", wait_s=None))
        await eventually(lambda: caplog.records)
        await server.start()
        try:
            async with await asyncio.wait_for(connecting, 30) as bus:
                assert bus.connected
        finally:
            await server.stop()
    waiting = [r for r in caplog.records if r.message == "broker does not answer, trying on"]
    assert len(waiting) == 1


async def test_a_restart_of_the_broker(broker: BrokerProcess):
    ups: list[str] = []
    got: list[bytes] = []
    async with await connect(broker.url, name="test") as bus:
        bus.on_up(lambda: ups.append("up"))
        stop = bus.on_down(lambda _: ups.append("down"))
        bus.on_down(lambda _: ups.append("down too"))
        bus.subscribe("t.lasting", lambda message: got.append(message.data))
        bus.subscribe("t.silent", lambda _: None)
        await bus.flush()
        waiting = asyncio.create_task(bus.request("t.silent", b"", timeout_s=30))
        reading = asyncio.create_task(bus.js.api("INFO", {}, dict))
        await asyncio.sleep(0)
        await broker.kill()
        async with asyncio.timeout(20):
            with pytest.raises(Disconnected):
                await waiting
        await asyncio.gather(reading, return_exceptions=True)
        assert not bus.connected
        assert not bus.publish("t.lasting", b"stale")
        with pytest.raises(Disconnected):
            await bus.request("t.lasting", b"", timeout_s=30)
        with pytest.raises(Disconnected):
            await bus.flush()
        bus.subscribe("t.new", lambda message: got.append(message.data))
        stop()
        await broker.start()
        await eventually(lambda: bus.connected)
        assert bus.generation == 2
        assert bus.publish("t.lasting", b"fresh")
        assert bus.publish("t.new", b"new")
        await bus.flush()
        assert got == [b"fresh", b"new"]
        assert ups == ["down", "down too", "up"]


async def test_what_a_dead_connection_left_behind_is_never_sent(broker: BrokerProcess):
    async with await connect(broker.url, name="a") as bus:
        broker.pause()
        assert bus.publish("t.stale", b"stale" * 1000)
        await broker.kill()
        bus.publish("t.stale", b"stale too")  # perhaps the loss is not noticed yet
        await eventually(lambda: not bus.connected)
        await broker.start()
        await eventually(lambda: bus.connected)
        got: list[bytes] = []
        bus.subscribe("t.stale", lambda message: got.append(message.data))
        await bus.flush()
        bus.publish("t.stale", b"fresh")
        await bus.flush()
        assert got == [b"fresh"]


async def test_what_was_to_be_sent_when_the_connection_broke_is_never_sent(bus: Bus):
    got: list[bytes] = []
    bus.subscribe("t.stale", lambda message: got.append(message.data))
    await bus.flush()
    assert bus.publish("t.stale", b"stale")
    await bus._client._process_op_err(OSError("the connection broke in the same moment"))
    await eventually(lambda: bus.connected)
    assert bus.publish("t.stale", b"fresh")
    await bus.flush()
    assert got == [b"fresh"]


async def test_a_frozen_broker_is_noticed_and_left(
    broker: BrokerProcess, shared_broker: BrokerProcess
):
    timings = Timings(ping_s=0.1)
    async with await connect(broker.url, name="test", timings=timings) as bus:
        bus._client.set_server_pool([broker.url, shared_broker.url])
        bus.subscribe("t.silent", lambda _: None)
        await bus.flush()
        broker.pause()
        try:
            # Unsent bytes wait in our buffers: an orderly close would wait with them.
            for _ in range(20):
                bus.publish("t.x", b"x" * 500_000)
            async with asyncio.timeout(30):
                with pytest.raises(Disconnected):
                    await bus.request("t.silent", b"", timeout_s=30)
            await eventually(lambda: bus.connected, within_s=10)
            assert (await bus.server_facts()).name == "shared"
        finally:
            broker.resume()


async def test_an_error_line_of_the_broker_reconnects(bus: Bus):
    bus._client.send(b"NONSENSE\r\n")  # -ERR 'Unknown Protocol Operation', and a closed connection
    await eventually(lambda: bus.generation == 2)
    await bus.flush()
    assert bus.connected


async def test_a_late_pong_kills_nothing(bus: Bus):
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    bus._client._pongs.append(future)
    bus._client.send(b"PING\r\n")
    await bus.flush()
    await bus.flush()


async def test_a_closed_bus_fails_what_waits(shared_broker: BrokerProcess):
    bus = await connect(shared_broker.url, name="test")
    bus.subscribe("t.closing", lambda _: None)
    await bus.flush()
    waiting = asyncio.create_task(bus.request("t.closing", b"", timeout_s=30))
    await asyncio.sleep(0)
    bus.publish("t.closing", b"last words")
    await bus.close()
    await bus.close()
    with pytest.raises(Disconnected):
        await waiting
    assert not bus.publish("t.closing", b"")


async def test_another_server_of_the_cluster_takes_over(broker_cluster: BrokerCluster):
    async with await connect(broker_cluster.urls, name="test") as bus:
        at = (await bus.server_facts()).name
        server = next(server for server in broker_cluster.servers if server.name == at)
        await server.kill()
        try:
            await eventually(lambda: bus.connected and bus.generation > 1, within_s=10)
            assert (await bus.server_facts()).name != at
        finally:
            await server.start()
