from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin.http import accepted
from support.worker_owner import make_task, output_of


class Site:
    """Answers each request by the status in its path, echoing what it got."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        if path == "/silent":
            await self.silent.wait()
        status = int(path.split("/")[1].split("?")[0]) if path[1:2].isdigit() else 200
        echo = {"method": method, "path": path, "body": body.decode(), "headers": headers}
        data = b"plain" if path == "/plain" else json.dumps(echo).encode()
        kind = "text/plain" if path == "/plain" else "application/json"
        location = "Location: /plain\r\n" if status == 302 else ""
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{location}"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode()
            + data
        )
        writer.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    made.silent.set()
    server.close()
    await server.wait_closed()


async def ask(bench, **inputs):
    return await bench.run_one(make_task(uses="http/request", inputs=inputs))


async def test_json_answer(bench, site: Site) -> None:
    result = await ask(
        bench,
        url=f"{site.url}/x",
        method="post",
        json={"a": 1},
        headers={"X-N": 5},
        query={"q": "a b"},
        auth={"bearer": "tok"},
    )
    output = output_of(result)
    assert (output["status"], output["headers"]["content-type"]) == (200, "application/json")
    assert output["json"] == output["result"] == json.loads(output["body"])
    got = output["json"]
    assert (got["method"], got["path"], got["body"]) == ("POST", "/x?q=a+b", '{"a": 1}')
    assert got["headers"]["content-type"] == "application/json"
    assert (got["headers"]["x-n"], got["headers"]["authorization"]) == ("5", "Bearer tok")


async def test_plain_answer_and_redirects(bench, site: Site) -> None:
    output = output_of(await ask(bench, url=f"{site.url}/302"))
    assert (output["result"], output["body"]) == ("plain", "plain")
    assert "json" not in output


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (429, True), (503, True)])
async def test_bad_statuses(bench, site: Site, status: int, retryable: bool) -> None:
    result = await ask(bench, url=f"{site.url}/{status}?token=x")
    assert (result.error.type, result.error.retryable) == ("http-status", retryable)
    assert output_of(result)["status"] == status
    assert "token" not in result.error.message


async def test_expected_status(bench, site: Site) -> None:
    result = await ask(bench, url=f"{site.url}/404", expect_status=404)
    assert result.error.type == "invalid-input"
    task = make_task(
        "d/2", uses="http/request", inputs={"url": f"{site.url}/404", "expect-status": [404, "2xx"]}
    )
    assert (await bench.run_one(task)).status == ResultStatus.COMPLETED


async def test_silence_and_nobody_there(bench, site: Site) -> None:
    silent = await ask(bench, url=f"{site.url}/silent", timeout="50ms")
    assert (silent.error.type, silent.error.retryable) == ("timeout", True)
    task = make_task("d/2", uses="http/request", inputs={"url": "http://127.0.0.1:1/"})
    nobody = await bench.run_one(task)
    assert (nobody.error.type, nobody.error.retryable) == ("http-connection", True)


@pytest.mark.parametrize("inputs", [{"url": "ftp://x"}, {"url": "http://x", "method": "YELL"}])
async def test_refused_inputs(bench, inputs: dict) -> None:
    result = await ask(bench, **inputs)
    assert (result.error.type, result.error.retryable) == ("invalid-input", False)


def test_patterns() -> None:
    assert accepted(302, [])
    assert not accepted(400, [])
    assert accepted(418, ["200", "4xx"])
    assert not accepted(200, ["4xx"])
