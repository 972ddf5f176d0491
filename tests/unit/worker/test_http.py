from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin.exchange import retry_after_s, shown
from headrace.worker.builtin.http import accepted, json_at
from support.worker_owner import make_task, output_of


class Site:
    """Answers each request by the status in its path, echoing what it got."""

    def __init__(self) -> None:
        self.silent = asyncio.Event()
        self.url = ""
        self.failures = 0
        """So many times ``/flaky`` answers 503."""
        self.bodies: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split(" ")
        if path == "/silent":
            await self.silent.wait()
        self.bodies.append(body.decode())
        status = int(path.split("/")[1].split("?")[0]) if path[1:2].isdigit() else 200
        if path == "/flaky" and self.failures:
            self.failures -= 1
            status = 503
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


# -- bodies, logins, checks, tries -------------------------------------------------------------


async def echoed(bench, site: Site, **inputs):
    return output_of(await ask(bench, url=f"{site.url}/x", method="POST", **inputs))["json"]


async def test_a_form(bench, site: Site) -> None:
    got = await echoed(bench, site, form={"a": "x y&z", "n": 1, "many": [True, 2]})
    assert got["body"] == "a=x+y%26z&n=1&many=true&many=2"
    assert got["headers"]["content-type"] == "application/x-www-form-urlencoded"


async def test_one_body_only(bench, site: Site) -> None:
    result = await ask(bench, url=site.url, form={"a": 1}, body="x")
    assert (result.error.type, result.error.retryable) == ("invalid-input", False)


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"username": "u", "password": "p"}, "authorization", "Basic dTpw"),
        ({"bearer": "tok"}, "authorization", "Bearer tok"),
        ({"header": "X-Api-Key", "value": "k"}, "x-api-key", "k"),
    ],
)
async def test_ways_to_log_in(bench, site: Site, auth: dict, header: str, value: str) -> None:
    assert (await echoed(bench, site, auth=auth))["headers"][header] == value


@pytest.mark.parametrize(
    "auth", [{}, {"username": "u", "bearer": "t"}, {"password": "p"}, {"bearer": "t", "value": "v"}]
)
async def test_no_way_to_log_in(bench, site: Site, auth: dict) -> None:
    assert (await ask(bench, url=site.url, auth=auth)).error.type == "invalid-input"


async def test_expectations_that_hold(bench, site: Site) -> None:
    inputs = {
        "url": f"{site.url}/x",
        "method": "POST",
        "json": {"items": [{"id": 5}]},
        "expect-body": ["POST", "/x"],
        "expect-headers": {"Content-Type": "application/json"},
        "expect-json": {"method": "POST", "path": "/x"},
    }
    result = await bench.run_one(make_task(uses="http/request", inputs=inputs))
    assert result.status == ResultStatus.COMPLETED


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"expect-body": "absent"}, 'the body does not hold "absent"'),
        ({"expect-headers": {"X-None": "1"}}, 'header X-None is null, not "1"'),
        ({"expect-json": {"method": "GET"}}, 'method is "POST", not "GET"'),
        ({"expect-json": {"headers.none.x": 1}}, "the answer has no headers.none.x"),
    ],
)
async def test_expectations_that_do_not(bench, site: Site, expected: dict, said: str) -> None:
    inputs = {"url": f"{site.url}/x?key=s3cret", "method": "POST"} | expected
    result = await bench.run_one(make_task(uses="http/request", inputs=inputs))
    assert (result.error.type, result.error.retryable) == ("http-assertion", False)
    assert said in result.error.message
    assert "s3cret" not in result.error.message
    assert output_of(result)["status"] == 200


@pytest.mark.parametrize(
    ("value", "path", "found"),
    [
        ({"a": [{"b": 1}]}, "a.0.b", 1),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 2),
        ([5], "0", 5),
    ],
)
def test_paths_in_json(value: object, path: str, found: object) -> None:
    assert json_at(value, path) == found


async def test_tries_until_it_works(bench, site: Site) -> None:
    site.failures = 2
    task = make_task(
        uses="http/request",
        inputs={"url": f"{site.url}/flaky", "retries": 3, "retry-delay": "1ms"},
    )
    assert output_of(await bench.run_one(task))["tries"] == 3
    assert [line for line in bench.text("system") if "status 503" in line] == [
        "status 503; again in 0.001 s (1 of 3)",
        "status 503; again in 0.002 s (2 of 3)",
    ]


async def test_no_tries_for_what_will_not_change(bench, site: Site) -> None:
    task = make_task(
        uses="http/request", inputs={"url": f"{site.url}/404", "retries": 3, "retry-delay": "1ms"}
    )
    result = await bench.run_one(task)
    assert output_of(result)["tries"] == 1


async def test_tries_end(bench, site: Site) -> None:
    task = make_task(
        uses="http/request",
        inputs={"url": "http://127.0.0.1:9/", "retries": 2, "retry-delay": "1ms"},
    )
    result = await bench.run_one(task)
    assert result.error.type == "http-connection"
    assert len([line for line in bench.text("system") if "again in" in line]) == 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 0),
        ("999999", 60),
        ("", 0),
        ("soon", 0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
    ],
)
def test_retry_after(value: str, seconds: float) -> None:
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert retry_after_s(value, now=now) == seconds


async def test_a_limit_of_bytes(bench, site: Site) -> None:
    task = make_task(uses="http/request", inputs={"url": f"{site.url}/x", "max-bytes": 20})
    result = await bench.run_one(task)
    assert (result.error.type, result.error.retryable) == ("result-too-large", False)


async def test_into_a_file(bench, site: Site, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answer.txt"
    inputs = {"url": f"{site.url}/plain", "save-to": str(path)}
    output = output_of(await bench.run_one(make_task(uses="http/request", inputs=inputs)))
    assert (output["body"], output["path"], output["size"]) == ("", str(path), 5)
    assert path.read_text() == "plain"
    inputs["url"] = f"{site.url}/503"
    await bench.run_one(make_task("default/2", uses="http/request", inputs=inputs))
    assert path.read_text() == "plain"
    assert [p.name for p in path.parent.iterdir()] == ["answer.txt"]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://u:p@h:1/p?q#f", "https://h:1/p"),
        ("http://h", "http://h"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, text: str) -> None:
    assert shown(url) == text


# -- notify/webhook ----------------------------------------------------------------------------


async def notify(bench, number: int, **inputs):
    return await bench.run_one(
        make_task(f"default/{number}", uses="notify/webhook", inputs={"message": "done"} | inputs)
    )


async def test_forms_of_messages(bench, site: Site) -> None:
    url = f"{site.url}/hook"
    sent = await notify(
        bench, 1, url=url, title="T", level="error", fields={"n": 1}, channel="#ops"
    )
    assert output_of(sent) == {"status": 200, "tries": 1}
    assert json.loads(site.bodies[-1]) == {
        "text": "*T*\ndone",
        "attachments": [
            {
                "color": "#dc2626",
                "fallback": "done",
                "fields": [{"title": "n", "value": "1", "short": True}],
            }
        ],
        "channel": "#ops",
    }
    await notify(bench, 2, url=url)
    assert json.loads(site.bodies[-1]) == {"text": "done"}
    await notify(bench, 3, url=url, format="discord", title="T", fields={"a": "b"}, username="bot")
    assert json.loads(site.bodies[-1]) == {"content": "**T**\ndone\na: b", "username": "bot"}
    await notify(bench, 4, url=url, format="json", fields={"a": 1})
    body = json.loads(site.bodies[-1])
    assert (body["message"], body["run"], body["fields"]) == ("done", "4", {"a": 1})
    assert body["idempotency_key"].startswith("default/4/")


async def test_the_address_of_a_webhook_is_not_told(bench, site: Site) -> None:
    refused = await notify(bench, 1, url=f"{site.url}/404/secret-path", retries=0)
    assert (refused.error.type, refused.error.retryable) == ("http-status", False)
    nobody = await notify(bench, 2, url="http://127.0.0.1:9/secret-path", retries=0)
    assert (nobody.error.type, nobody.error.retryable) == ("http-connection", True)
    assert "secret-path" not in nobody.error.message + "".join(bench.text())
    assert (await notify(bench, 3, url="file:///secret-path")).error.type == "invalid-input"
