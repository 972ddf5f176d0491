"""The real program and the real client over a real broker; the coordinator only remembers."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import pytest

from headrace.bus import StreamConfig, free_port
from headrace.client import Client, Submission
from headrace.messages import LogLine, LogLines, StepView, encode, subjects
from headrace.plan import Group, Plan, Task
from support.fake_server import FakeCluster, serve

pytestmark = pytest.mark.integration

PLAN = Plan(
    name="hello", nodes=(Group(name="hello", size=2), Task(name="a", uses="noop", parent=0))
)
WORKFLOW = "name: hello\njobs:\n  a:\n    runs-on: linux\n    steps:\n      - run: echo a\n"


@pytest.fixture
async def cluster(bus):
    cluster = FakeCluster()
    serve(bus, cluster)
    await bus.flush()
    return cluster


@asynccontextmanager
async def flowctl(*args, tmp_path):
    """Start the program; killed at the end if it still runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")}
    env |= {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", "from headrace.flowctl import main; main()"),
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=env,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ran(*args, tmp_path, within_s=20):
    async with flowctl(*args, tmp_path=tmp_path) as process:
        out, err = await asyncio.wait_for(process.communicate(), within_s)
        return process.returncode, out.decode(), err.decode()


async def test_submit_and_watch_end_to_end(shared_broker, bus, cluster, tmp_path):
    def go(run):
        run.state, run.steps = "RUNNING", [StepView(path="a", state="RUNNING", started_ms=1)]

        def done():
            run.steps = [StepView(path="a", state="COMPLETED", started_ms=1, finished_ms=11)]
            cluster.finish(run)
            bus.publish(subjects.events(run.shard), b"")

        asyncio.get_running_loop().call_later(0.3, done)

    cluster.after_submit = go
    path = tmp_path / "hello.yaml"
    path.write_text(WORKFLOW)
    code, out, err = await ran(
        "submit", str(path), "--watch", "-o", "json", "-s", shared_broker.url, tmp_path=tmp_path
    )
    assert code == 0, err
    assert json.loads(out)["state"] == "COMPLETED"
    assert "a RUNNING" in err
    assert "a COMPLETED in 10ms" in err


async def test_no_broker_is_exit_5_within_five_seconds(tmp_path):
    address = f"nats://127.0.0.1:{free_port()}"
    loop = asyncio.get_running_loop()
    begun = loop.time()
    code, out, err = await ran("list", "-s", address, tmp_path=tmp_path)
    # The interpreter's own start is on top.
    assert loop.time() - begun < 6
    assert (code, out) == (5, "")
    assert address in err
    assert "Traceback" not in err


async def test_a_broker_without_coordinators_is_exit_5(shared_broker, tmp_path):
    code, _, err = await ran("list", "-s", shared_broker.url, tmp_path=tmp_path)
    assert code == 5
    assert "no coordinator answers" in err


async def test_ctrl_c_ends_a_watch_quietly(shared_broker, cluster, tmp_path):
    async with await Client.connect(shared_broker.url) as client:
        run = await client.submit(PLAN)
    args = ("get", run.id, "--watch", "-s", shared_broker.url)
    async with flowctl(*args, tmp_path=tmp_path) as process:
        assert process.stderr is not None
        first = await asyncio.wait_for(process.stderr.readline(), 10)
        assert b"PENDING" in first
        process.send_signal(2)
        out, err = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, out, err.strip()) == (130, b"", b"")


async def test_two_thousand_runs_in_arrays(shared_broker, cluster):
    async with await Client.connect([shared_broker.url]) as client:
        found = await client.submit_many([Submission(plan=PLAN) for _ in range(2_000)])
        assert len({run.id for run in found}) == 2_000
        page = await client.list(limit=10)
        assert len(page.runs) == 10


async def test_logs_are_read_from_the_stream(shared_broker, bus, cluster):
    config = StreamConfig(
        name=subjects.LOGS_STREAM, subjects=["headrace.logs.>"], allow_direct=True
    )
    async with await Client.connect(shared_broker.url) as client:
        run = await client.submit(PLAN)
        assert [lines async for lines in client.logs(run.id)] == []
        await bus.js.ensure_stream(config)
        try:
            key = f"default/{run.id}"

            async def write(first, text):
                said = LogLines(1, key, 1, "a", 1, first, [LogLine(0, "stdout", text)])
                await bus.js.publish(subjects.step_logs(run.shard, key), encode(said), timeout_s=5)

            await write(0, "one")
            await write(0, "one")
            seen = []
            async for lines in client.logs(run.id, follow=True):
                seen += [line.text for line in lines.lines]
                if seen == ["one"]:
                    await write(1, "two")
                elif seen == ["one", "two"]:
                    cluster.finish(cluster.runs[run.shard][run.id])
            assert seen == ["one", "two"]
        finally:
            await bus.js.delete_stream(subjects.LOGS_STREAM)
