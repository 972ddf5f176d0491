"""`flowctl doctor` on a real dev server with faults made on purpose."""

from __future__ import annotations

import json

import pytest

from headrace.bus import StreamConfig, connect
from support.cluster import Dev, running, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]


@pytest.fixture
async def dev(tmp_path):
    async with running(Dev(tmp_path)) as made:
        yield made


async def examined(dev, *options):
    ran = await dev.flowctl("doctor", "--server", dev.url, "-o", "json", *options)
    return ran.code, {(entry["check"], entry["state"]): entry for entry in json.loads(ran.out)}


async def test_a_healthy_server_and_its_faults(dev, tmp_path):
    code, found = await examined(dev, "--strict")
    assert code == 0, found
    assert {state for _, state in found} == {"ok"}
    checks = {check for check, _ in found}
    assert checks >= {"broker", "coordinators", "fsync", "shards", "workers", "lanes", "streams"}
    text = await dev.flowctl("doctor", "--server", dev.url)
    assert text.out.startswith("STATE")

    # A label that nobody offers.
    file = tmp_path / "gpu.yaml"
    file.write_text("jobs: {one: {runs-on: gpu, steps: [{run: echo x}]}}")
    await dev.flowctl("submit", str(file), "--server", dev.url)

    async def missed():
        code, found = await examined(dev)
        return code == 0 and found.get(("lanes", "warn"))

    lanes = await wait_for(missed, within_s=15, what="the missing label")
    assert "gpu" in lanes["text"]
    assert "flowctl worker -c gpu" in lanes["todo"]
    assert (await examined(dev, "--strict"))[0] == 1

    # Somebody has changed a log's stream.
    async with await connect(dev.url, name="meddler") as bus:
        info = await bus.js.stream_info("HEADRACE_LOG_0")
        changed = StreamConfig(
            name="HEADRACE_LOG_0", subjects=tuple(info.config["subjects"]), discard="old"
        )
        await bus.js.ensure_stream(changed)
    code, found = await examined(dev)
    assert code == 1
    assert found["streams", "fail"]["text"] == "HEADRACE_LOG_0: discard is old"

    env = {"FLOWCTL_TIMEOUT": "1s"}
    ran = await dev.flowctl("doctor", "--server", "nats://127.0.0.1:1", env=env)
    assert ran.code == 5
    assert "cannot reach the broker" in ran.err
