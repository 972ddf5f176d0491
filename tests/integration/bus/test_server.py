"""The broker as a child process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.bus import BrokerProcess, StreamConfig, connect
from headrace.errors import Unavailable
from support.broker import eventually

pytestmark = pytest.mark.integration


async def test_data_and_ports_outlive_a_kill(broker: BrokerProcess):
    url = broker.url
    async with await connect(url, name="test") as bus:
        await bus.js.ensure_stream(StreamConfig(name="T", subjects=("t",)))
        await bus.js.publish("t", b"kept", timeout_s=2)
    await broker.kill()
    assert (broker.running, broker.pid) == (False, 0)
    await broker.start()
    assert broker.url == url
    async with await connect(url, name="test") as bus:
        last = await bus.js.get_last("T", "t")
        assert last is not None
        assert last.data == b"kept"
    await broker.stop()
    await broker.stop()
    assert not broker.running


async def test_a_frozen_server_is_stopped_too(broker: BrokerProcess):
    broker.pause()
    await broker.stop(grace_s=2)
    assert not broker.running


async def test_two_servers_on_one_directory_are_refused(broker: BrokerProcess):
    second = BrokerProcess(broker.directory)
    with pytest.raises(Unavailable, match="another broker"):
        await second.start()
    assert broker.running


async def test_a_port_that_is_taken_is_said(broker: BrokerProcess, tmp_path: Path):
    second = BrokerProcess(tmp_path, port=broker.port, monitor_port=broker.monitor_port)
    with pytest.raises(Unavailable, match="address already in use"):
        await second.start(timeout_s=5)
    assert not second.running


ORPHANING = """
import asyncio, sys
from headrace.bus import BrokerProcess
async def main():
    server = BrokerProcess(sys.argv[1])
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_a_server_whose_parent_was_killed_is_replaced(tmp_path: Path):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANING, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    orphan = int(await asyncio.to_thread(parent.stdout.readline))
    with pytest.raises(Unavailable, match="another broker"):
        await BrokerProcess(tmp_path).start()
    parent.send_signal(signal.SIGKILL)
    await asyncio.to_thread(parent.wait)
    parent.stdout.close()
    server = BrokerProcess(tmp_path)
    await server.start()
    try:
        assert server.pid != orphan
        await eventually(lambda: not _lives(orphan))
    finally:
        await server.stop()


def _lives(pid: int) -> bool:
    """Tell whether *pid* runs; a zombie that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
