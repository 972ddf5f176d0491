"""The real program and the real client over a real broker; the coordinator only remembers."""

import asyncio
import json
import os
import socket
import sys
from contextlib import asynccontextmanager

import pytest

from headrace.bus import StreamConfig, free_port
from headrace.client import Client, Submission
from headrace.errors import Unreachable
from headrace.flowctl._settings import connect_timeout_s
from headrace.messages import LogLine, LogLines, StepView, encode, subjects
from headrace.plan import Group, Plan, Task
from support.fake_server import FakeCluster, serve
from support.jumping import run_jumping

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
async def flowctl(*args, tmp_path, timeout=""):
    """Start the program; killed at the end if it still runs."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")}
    env |= {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    env |= {"FLOWCTL_TIMEOUT": timeout} if timeout else {}
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


async def ran(*args, tmp_path, within_s=20, timeout=""):
    async with flowctl(*args, tmp_path=tmp_path, timeout=timeout) as process:
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


@pytest.mark.parametrize("who", ["nobody", "somebody silent", "a broker without coordinators"])
def test_whoever_cannot_reach_the_cluster_knows_within_five_seconds(shared_broker, who):
    """By the clock of the loop: what the client waits for is limited, whatever the machine does."""

    async def tried(address):
        with pytest.raises(Unreachable) as caught:
            await Client.connect(address, timeout_s=connect_timeout_s())
        return str(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port() if who == "nobody" else silent.getsockname()[1]
        address = shared_broker.url if "broker" in who else f"nats://127.0.0.1:{port}"
        said, waited_s = run_jumping(lambda: tried(address))
    assert address in said
    # The interpreter's own start is on top.
    assert 3 < waited_s < 4.5


async def test_a_broker_without_coordinators_is_exit_5(shared_broker, tmp_path):
    code, _, err = await ran("list", "-s", shared_broker.url, tmp_path=tmp_path, timeout="300ms")
    assert code == 5
    assert "no coordinator answers" in err


async def test_how_long_to_wait_is_a_setting(tmp_path):
    address = f"nats://127.0.0.1:{free_port()}"
    code, out, err = await ran("list", "-s", address, tmp_path=tmp_path, timeout="250ms")
    assert (code, out) == (5, "")
    assert f"no broker at {address} within 0.25 s" in err
    assert "Traceback" not in err
    for wrong in ("soon", "0s", "2h"):
        code, _, err = await ran("list", "-s", address, tmp_path=tmp_path, timeout=wrong)
        assert (code, "FLOWCTL_TIMEOUT" in err) == (3, True), err


async def test_ctrl_c_ends_a_watch_quietly(shared_broker, cluster, tmp_path):
    async with await Client.connect(shared_broker.url) as client:
        run = await client.submit(PLAN)
    args = ("get", run.id, "--watch", "-s", shared_broker.url)
    async with flowctl(*args, tmp_path=tmp_path) as process:
        assert process.stderr is not None
        first = await asyncio.wait_for(process.stderr.readline(), 30)
        assert b"PENDING" in first
        process.send_signal(2)
        out, err = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out) == (130, b"")
    goes_on = f"run {run.id} goes on; `flowctl get {run.id} --watch` follows it"
    assert err.decode().strip() == goes_on


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
