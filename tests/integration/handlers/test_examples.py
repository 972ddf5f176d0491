"""The example of every built-in handler and of every type of tasks, by `flowctl run`."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.language import BUILTIN_HANDLERS, NODE_TYPES
from support.cluster import Machine
from support.storage import Storage, serving

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DOCKER = """#!/bin/sh
echo "$@" >> "$DOCKER_CALLS"
case "$1 $2" in
  "image inspect") echo "busybox@sha256:1234" ;;
  *) echo "ran $1" ;;
esac
"""


class Site(http.server.BaseHTTPRequestHandler):
    """Takes orders, and messages for people."""

    seen: list[tuple[str, dict[str, str], Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, dict(self.headers), body))
        answer = json.dumps({"id": 7, "status": "accepted"}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    Fresh = type("Fresh", (Site,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Fresh.url = f"http://127.0.0.1:{server.server_port}"
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    with serving("backups") as found:
        yield found


@pytest.fixture
def machine(tmp_path: Path, site: Any, storage: Storage) -> Machine:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "docker").write_text(DOCKER)
    (programs / "docker").chmod(0o755)
    return Machine(
        tmp_path / "machine",
        env={
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "DOCKER_CALLS": str(tmp_path / "calls"),
            "HEADRACE_VAR_API": f"{site.url}/api",
            "HEADRACE_SECRET_API_TOKEN": "token-of-the-api",
            "HEADRACE_SECRET_WEBHOOK_URL": f"{site.url}/hooks/secret-path",
            "HEADRACE_VAR_S3_ENDPOINT": storage.url,
            "HEADRACE_VAR_S3_ACCESS_KEY": storage.key,
            "HEADRACE_SECRET_S3_SECRET_KEY": storage.secret,
        },
    )


async def completed(machine: Machine, definition: dict[str, Any]) -> dict[str, Any]:
    """Run to the end; return the outputs of all tasks by their handler."""
    path = machine.folder / "workflow.yaml"
    path.write_text(yaml.safe_dump(definition, sort_keys=False))
    ran = await machine.flowctl("run", str(path), "-o", "json")
    assert ran.code == 0, ran.err
    for secret in ("token-of-the-api", "secret-path", "storage-secret-value"):
        assert secret not in ran.out + ran.err
    return {step["uses"]: step["outputs"] for step in ran.json["steps"] if step["uses"]}


@pytest.mark.parametrize("name", sorted(BUILTIN_HANDLERS))
async def test_a_handler(machine: Machine, site: Any, storage: Storage, name: str) -> None:
    spec = BUILTIN_HANDLERS[name]
    steps = yaml.safe_load(spec.example)
    outputs = await completed(
        machine, {"name": "example", "jobs": {"main": {"runs-on": "linux", "steps": steps}}}
    )
    given = outputs[name]
    assert {key for key, made in spec.outputs.items() if made.always} <= set(given)
    if not spec.open_outputs:
        assert set(given) <= set(spec.outputs)
    if name.startswith("docker/"):
        calls = (machine.folder.parent / "calls").read_text().splitlines()
        assert any(line.startswith(name.split("/")[1].split("-")[0]) for line in calls)
    elif name == "http/request":
        path, headers, body = site.seen[-1]
        assert (path, body) == ("/api/orders", {"item": "book", "count": 2})
        assert headers["Authorization"] == "Bearer token-of-the-api"
    elif name == "notify/webhook":
        path, _, body = site.seen[-1]
        assert path == "/hooks/secret-path"
        assert body["text"].startswith("*Nightly backup*\nRun ")
    elif name == "file/transfer":
        bucket, _, key = given["destination"].removeprefix("s3://").partition("/")
        stored = storage.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        assert stored == b"create table t (x int);\n"


@pytest.mark.parametrize("name", sorted(NODE_TYPES))
async def test_a_type_of_tasks(machine: Machine, name: str) -> None:
    tasks = yaml.safe_load(NODE_TYPES[name].example)
    await completed(machine, {"name": "example", "tasks": tasks})
