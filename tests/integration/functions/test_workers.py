"""Workers of workflow functions that are killed, and functions and steps that do not let go."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.sdk import Client, RunFailed
from support import functions_app
from support.cluster import Cluster, kept, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def _kept(tmp_path_factory):
    def make():
        return Cluster(
            tmp_path_factory.mktemp("functions"),
            workers=2,
            apps=("support.functions_app:app",),
            env={"PYTHONPATH": str(Path(functions_app.__file__).parents[1])},
        )

    with kept(make) as cluster:
        yield cluster


@pytest.fixture
async def cluster(_kept, request):
    async with _kept.whole(request.session) as cluster:
        yield cluster


def notes(folder):
    path = folder / "notes"
    lines = path.read_text().split("\n") if path.exists() else [""]
    return [tuple(map(int, line.split())) for line in lines[:-1]]


@pytest.mark.parametrize("remote", [False, True], ids=["here", "elsewhere"])
async def test_heartbeats_of_a_killed_worker_reach_the_next_attempt(cluster, tmp_path, remote):
    async with await Client.connect(cluster.servers) as client, asyncio.timeout(WITHIN_S):
        workflow = functions_app.remote_migration if remote else functions_app.migration
        handle = await workflow.start(str(tmp_path))
        run = handle
        if remote:

            async def child():
                return next((step.child for step in (await handle.view()).steps if step.child), "")

            run = client.handle(await wait_for(child, within_s=WITHIN_S, what="the step's run"))

        async def recorded():
            return any(step.details for step in (await run.view()).steps)

        await wait_for(recorded, within_s=WITHIN_S, what="a heartbeat in the journal")
        os.kill(notes(tmp_path)[0][0], signal.SIGKILL)
        (tmp_path / "go").touch()
        first = await handle.result()
        (_, _, began), (_, attempt, again) = notes(tmp_path)
        # The first is recorded at once, and the rest may still be on their way.
        assert (began, again, attempt) == (0, first, 1)
        assert 1 <= first <= functions_app.ROWS


async def test_streams_are_followed_over_a_broker(cluster):
    async with await Client.connect(cluster.servers), asyncio.timeout(WITHIN_S):
        handle = await functions_app.talk.start("one two")
        stream = handle.stream("words")
        assert [await anext(stream), await anext(stream)] == ["one", "two"]
        await handle.signal("go")
        expected = ["one", "two", "x" * 20_000]
        assert [value async for value in stream] == expected
        # From the beginning, for whoever comes later.
        again = [value async for value in handle.stream("words")]
        assert again == ["one", "two", *expected]
        assert [value async for value in handle.stream()] == [{"text": "one two"}]
        assert (await handle.result()).startswith("one two x")


def test_heartbeats_of_a_killed_program_reach_its_next_life(tmp_path):
    command = [sys.executable, functions_app.__file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as life:
        assert life.stdout is not None
        assert life.stdout.readline() == "recorded\n"
        life.kill()
    (tmp_path / "go").touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S, check=True)
    (_, _, began), (_, attempt, again) = notes(tmp_path)
    assert (began, attempt) == (0, 1)
    assert 1 <= again <= functions_app.ROWS
    assert done.stdout.split("\n")[-2] == f"result {again}"


async def begun(folder):
    async def look():
        return notes(folder)

    return (await wait_for(look, within_s=WITHIN_S, what="a step to begin"))[0][0]


async def idle(cluster):
    """Wait until no worker holds anything."""

    def fits(info):
        online = [w for w in info.workers if w.state in ("Online", "Busy")]
        return online and all(w.free == w.slots for w in online)

    await cluster.info_when(fits, within_s=WITHIN_S, what="free workers")


@pytest.mark.parametrize("step", ["block", "clutch"])
async def test_a_function_that_does_not_let_go_is_abandoned(cluster, tmp_path, step):
    async with await Client.connect(cluster.servers), asyncio.timeout(WITHIN_S):
        handle = await functions_app.stubborn.start(step, str(tmp_path))

        async def parked():
            return "WAITING" in (await handle.view()).conditions

        await wait_for(parked, within_s=WITHIN_S, what="the function to wait")
        await handle.cancel(reason="enough")
        await begun(tmp_path)
        with pytest.raises(RunFailed, match=r"CANCELLED: enough .*; abandoned") as raised:
            await handle.result()
        assert raised.value.state == "CANCELLED"
        before = len(await handle.history())
        (tmp_path / "go").touch()
        await idle(cluster)
        assert len(await handle.history()) == before


@pytest.mark.parametrize("step", ["crunch", "block", "clutch"])
async def test_a_run_is_cancelled_whatever_its_step_does(cluster, tmp_path, step):
    async with await Client.connect(cluster.servers), asyncio.timeout(WITHIN_S):
        handle = await functions_app.one_step.start(step, str(tmp_path))
        pid = await begun(tmp_path)
        await handle.cancel(reason="enough")
        if step == "clutch":
            # It has a while to clean up, and the run's end waits for that.
            (tmp_path / "go").touch()
        with pytest.raises(RunFailed, match="CANCELLED: enough"):
            await handle.result()
        (tmp_path / "go").touch()
        if step == "crunch":

            async def dead():
                return not Path(f"/proc/{pid}").exists()

            await wait_for(dead, within_s=WITHIN_S, what="the end of the step's process")
        await idle(cluster)
