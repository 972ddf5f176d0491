"""A server process that waits for its broker: alive, not ready, and stopped by one signal."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from headrace.bus import free_port
from support.cluster import http_get, until

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("system")]

MAINS = {
    "coordinator": "from headrace.coordinator.runtime.command import coordinator; coordinator()",
    "worker": "from headrace.worker.command import worker; worker()",
}


def answer(port: int, path: str) -> tuple[int, list[str]] | None:
    """Return status and reasons; None while nobody listens."""
    try:
        status, body = http_get(port, path)
    except ConnectionError:
        return None
    return status, json.loads(body)["reasons"]


@pytest.mark.parametrize("role", MAINS)
async def test_alive_and_not_ready_without_a_broker(role: str, tmp_path: Path) -> None:
    nobody, metrics = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAINS[role], "-s", f"nats://127.0.0.1:{nobody}"),
        *("--metrics-port", str(metrics), "--data-dir", str(tmp_path / "data")),
        cwd=tmp_path,
    )
    try:
        await until(lambda: answer(metrics, "/healthz"), within_s=20, what="/healthz")
        assert answer(metrics, "/healthz") == (200, [])
        assert answer(metrics, "/readyz") == (503, ["not connected to the broker"])
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
