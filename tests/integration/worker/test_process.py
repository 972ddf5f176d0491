"""`flowctl worker` as a process: signals, exit codes, what a kill leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.bus import BrokerProcess
from headrace.messages import ResultStatus
from support.worker_owner import Owner, make_task

pytestmark = pytest.mark.integration

_MAIN = "from headrace.worker.command import worker; worker()"


class Processes:
    """Workers started by a test; all are dead afterwards."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._started: list[asyncio.subprocess.Process] = []

    async def start(self, *flags: str, **env: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _MAIN, "-s", self._url, "-c", "linux"),
            *("--data-dir", str(self._folder), *flags),
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | env,
        )
        self._started.append(process)
        return process

    async def stop(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def processes(shared_broker: BrokerProcess, tmp_path: Path) -> AsyncIterator[Processes]:
    made = Processes(shared_broker.url, tmp_path / "data")
    yield made
    await made.stop()


async def test_sigterm_finishes_and_exits_with_0(owner: Owner, processes, tmp_path: Path) -> None:
    lane = await owner.open_lane("linux")
    process = await processes.start()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo in; read line < {gate}"
    await owner.dispatch(lane, make_task(uses="shell", inputs={"run": script}))
    await owner.until(lambda: "in" in owner.text())
    process.send_signal(signal.SIGTERM)
    await owner.until(lambda: owner.heartbeats[-1].draining)
    await asyncio.to_thread(gate.write_text, "on\n")
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert [result.status for result in owner.results] == [ResultStatus.COMPLETED]
    await owner.until(lambda: owner.heartbeats[-1].stopped)


async def test_second_signal_kills_the_steps(owner: Owner, processes) -> None:
    lane = await owner.open_lane("linux")
    process = await processes.start()
    await owner.dispatch(lane, make_task(uses="shell", inputs={"run": "echo in; sleep 600"}))
    await owner.until(lambda: "in" in owner.text())
    process.send_signal(signal.SIGINT)
    await owner.until(lambda: owner.heartbeats[-1].draining)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 30) == 0
    assert [result.error.type for result in owner.results] == ["worker-stopped"]


async def test_next_life_has_the_same_id_and_kills_what_the_last_one_left(
    owner: Owner, processes, tmp_path: Path
) -> None:
    lane = await owner.open_lane("linux")
    process = await processes.start()
    pid_file = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid_file}; echo in; wait"
    await owner.dispatch(lane, make_task(uses="shell", inputs={"run": script}))
    await owner.until(lambda: "in" in owner.text())
    first = owner.heartbeats[-1]
    process.kill()
    await process.wait()
    orphan = int(pid_file.read_text())
    os.kill(orphan, 0)
    await processes.start()
    await owner.until(lambda: owner.heartbeats[-1].incarnation != first.incarnation)
    assert owner.heartbeats[-1].id == first.id
    stat = Path(f"/proc/{orphan}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


async def test_folder_of_a_live_worker_is_refused(owner: Owner, processes) -> None:
    await processes.start()
    await owner.until(lambda: owner.heartbeats)
    second = await processes.start(HEADRACE_CFG_WORKER__LOCK_WAIT_MS="0")
    _, said = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 3
    assert b"another worker uses" in said


async def test_a_worker_that_is_about_to_leave_its_folder_is_waited_for(
    owner: Owner, processes, tmp_path: Path
) -> None:
    """As when `flowctl dev` was killed, and is started again while its worker still ends."""
    lane = await owner.open_lane("linux")
    first = await processes.start()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f"echo in; read line < {gate}"
    await owner.dispatch(lane, make_task(uses="shell", inputs={"run": script}))
    await owner.until(lambda: "in" in owner.text())
    first.send_signal(signal.SIGTERM)
    second = await processes.start(HEADRACE_CFG_WORKER__LOCK_WAIT_MS="120000")
    assert second.stderr is not None
    said = await asyncio.wait_for(second.stderr.readline(), 60)
    assert b"another worker has the data folder, waiting" in said
    left = owner.heartbeats[-1].incarnation
    await asyncio.to_thread(gate.write_text, "on\n")
    assert await asyncio.wait_for(first.wait(), 60) == 0
    await owner.until(lambda: owner.heartbeats[-1].incarnation != left)


async def test_bad_flags_name_the_key(processes) -> None:
    process = await processes.start("--slots", "0")
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 3
    assert b"worker.slots" in said
