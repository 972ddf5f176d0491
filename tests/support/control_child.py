"""One coordinator's control plane as a process, for tests that kill and freeze it.

It says nothing: its heartbeats on the broker tell everything. SIGTERM stops it cleanly.
"""

import argparse
import asyncio
import signal
import uuid

from headrace.bus import Bus, connect
from headrace.coordinator.control import ControlPlane
from headrace.telemetry import SystemClock


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--shards", type=int, default=6)
    given = parser.parse_args()

    async def dial() -> Bus:
        return await connect(given.url, name=given.id, wait_s=30)

    bus = await dial()
    plane = ControlPlane(
        bus,
        coordinator_id=given.id,
        peers=given.peers.split(","),
        incarnation=uuid.uuid4().hex[:8],
        clock=SystemClock(),
        shards=range(given.shards),
        redial=dial,
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    plane.start()
    await stop.wait()
    await plane.stop()
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main())
