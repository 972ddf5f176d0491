import asyncio
import json

import pytest

from headrace.errors import Unavailable
from headrace.telemetry import StatusServer, WorkerMetrics, new_registry
from headrace.telemetry._http import CONNECTIONS_MAX, REQUEST_BYTES_MAX

LIMIT_S = 5


async def exchange(port, request):
    async with asyncio.timeout(LIMIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()


async def get(port, path, method="GET"):
    answer = await exchange(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body


@pytest.fixture
async def server():
    registry = new_registry()
    WorkerMetrics(registry).slots.set(7)
    state = {"ready": (False, ["no pull has succeeded"])}
    made = StatusServer(
        host="127.0.0.1",
        port=0,
        registry=registry,
        ready=lambda: state["ready"],
        request_timeout_s=0.2,
    )
    await made.start()
    made.state = state
    yield made
    await made.close()


async def test_metrics(server):
    status, head, body = await get(server.port, "/metrics?x=1")
    assert status == 200
    assert "text/plain; version=0.0.4" in head
    assert b"headrace_worker_slots 7.0" in body


async def test_readiness_follows_the_callable(server):
    status, _, body = await get(server.port, "/readyz")
    assert (status, json.loads(body)) == (
        503,
        {"ok": False, "reasons": ["no pull has succeeded"]},
    )
    server.state["ready"] = (True, [])
    assert (await get(server.port, "/readyz"))[0] == 200


async def test_live_while_not_ready(server):
    assert (await get(server.port, "/healthz"))[0] == 200


async def test_head_has_no_body_and_the_same_length(server):
    _, full, body = await get(server.port, "/healthz")
    status, head, none = await get(server.port, "/healthz", method="HEAD")
    assert (status, head, none) == (200, full, b"")
    assert f"Content-Length: {len(body)}" in head


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 2 * REQUEST_BYTES_MAX + b"\r\n\r\n", b"431"),
    ],
)
async def test_bad_requests(server, request_, status):
    assert (await exchange(server.port, request_)).split(b" ")[1] == status


async def test_a_failing_callable_fails_its_request_only(server, caplog):
    server.state["ready"] = None
    assert (await get(server.port, "/readyz"))[0] == 500
    assert "status request failed" in caplog.text
    assert (await get(server.port, "/healthz"))[0] == 200


async def test_a_silent_client_is_dropped(server):
    assert await exchange(server.port, b"GET /metr") == b""


async def test_connections_are_bounded(server):
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(CONNECTIONS_MAX)]
    try:
        assert await exchange(server.port, b"") == b""
    finally:
        for _, writer in held:
            writer.close()


async def test_a_taken_port_is_said(server):
    second = StatusServer(
        host="127.0.0.1", port=server.port, registry=new_registry(), ready=lambda: (True, ())
    )
    with pytest.raises(Unavailable, match=str(server.port)):
        await second.start()
    await second.close()


async def test_close_ends_open_connections():
    server = StatusServer(
        host="127.0.0.1", port=0, registry=new_registry(), ready=lambda: (True, ())
    )
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    assert (await get(server.port, "/healthz"))[0] == 200
    async with asyncio.timeout(LIMIT_S):
        await server.close()
        assert await reader.read() == b""
    writer.close()
