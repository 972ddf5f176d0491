"""A client that has lost its server comes back, whatever becomes of its attempts."""

import asyncio
import gc
import json

import pytest
import uvloop
from nats.aio.client import Client

from headrace.bus import Disconnected, Timings, connect

INFO = {"server_id": "x", "version": "2.15.1", "max_payload": 1_000_000, "headers": True}


class Server:
    """Speaks as much of the protocol as a client needs to connect; or hangs up before TLS."""

    def __init__(self) -> None:
        self.hangs_up = False
        self.hung_up = asyncio.Event()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        info = INFO | ({"tls_required": True} if self.hangs_up else {})
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        if self.hangs_up:
            await writer.drain()
            writer.transport.abort()
            self.hung_up.set()
            return
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()


async def comes_back() -> None:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    bus = await connect(f"nats://127.0.0.1:{port}", name="test")
    back = asyncio.Event()
    bus.on_up(back.set)
    try:
        for _ in range(5):
            server.hangs_up = True
            server.hung_up.clear()
            back.clear()
            server.writers[-1].transport.abort()
            async with asyncio.timeout(30):
                await server.hung_up.wait()
            server.hangs_up = False
            async with asyncio.timeout(30):
                await back.wait()
            assert bus.connected
    finally:
        await bus.close()
        listening.close()
        for writer in server.writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_server_that_hangs_up_before_tls_is_tried_again(loop):
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(comes_back())


@pytest.mark.parametrize("end", [RuntimeError("closed"), asyncio.CancelledError(), None])
async def test_an_attempt_may_end_in_any_way(end, monkeypatch):
    """None: not at all. A cancel is the transport's, not that of who has started the attempt."""
    server = Server()
    ends = 0

    async def attempt(client: Client) -> None:
        nonlocal ends
        ends += 1
        if ends > 2:
            return await connecting(client)
        if end is None:
            return await asyncio.sleep(60)
        raise end

    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        timings = Timings(connect_s=0.1)
        async with await connect(f"nats://127.0.0.1:{port}", name="test", timings=timings) as bus:
            back = asyncio.Event()
            bus.on_up(back.set)
            connecting = Client._process_connect_init
            monkeypatch.setattr(Client, "_process_connect_init", attempt)
            server.writers[-1].transport.abort()
            async with asyncio.timeout(30):
                await back.wait()
            assert (bus.connected, ends) == (True, 3)
        server.writers[-1].close()


async def test_what_nobody_waits_for_any_more_is_lost_in_silence(caplog):
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with await connect(f"nats://127.0.0.1:{port}", name="test") as bus:
            down = asyncio.Event()
            bus.on_down(lambda reason: down.set())
            abandoned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            bus.fail_on_loss(abandoned)
            bus.fail_on_loss(waited)
            server.writers[-1].transport.abort()
            with pytest.raises(Disconnected):
                await waited
            await down.wait()
            del abandoned
            gc.collect()
        server.writers[-1].close()
    assert "never retrieved" not in caplog.text
