"""How long people wait at rare moments: after a kill, and for the first result of `flowctl dev`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.load.cluster import Cluster
from bench.load.workloads import Driver, spread

from headrace.errors import HeadraceError
from headrace.messages import ClientBatch, GetRun, ReplyBatch, decode, encode, subjects

ASK_S = 0.25
WITHIN_S = 30.0
EXAMPLE = Path(__file__).parents[2] / "examples/hello.yaml"


async def takeover(cluster: Cluster, driver: Driver, *, rounds: int = 3) -> dict[str, Any]:
    """Kill -9 the owner of a shard: seconds until another one answers for it.

    The coordinator is started again after each round, and has a shard again before the next.
    """
    took = []
    for number in range(rounds):
        info = await cluster.info()
        shard = info.shards[number % len(info.shards)]
        owner = next(one for one in cluster.coordinators if one.name == shard.owner)
        assert await _answers(cluster, shard.shard)
        owner.kill()
        killed = time.perf_counter()
        while not await _answers(cluster, shard.shard):
            assert time.perf_counter() - killed < WITHIN_S, f"shard {shard.shard} has no owner"
            await asyncio.sleep(0.005)
        took.append(time.perf_counter() - killed)
        owner.start()
        deadline = time.perf_counter() + WITHIN_S
        while owner.name not in {one.owner for one in (await cluster.info()).shards}:
            assert time.perf_counter() < deadline, f"{owner.name} gets no shard"
            await asyncio.sleep(0.2)
    return {"rounds": rounds, "seconds": spread(took)}


async def _answers(cluster: Cluster, shard: int) -> bool:
    assert cluster.bus is not None
    question = encode(ClientBatch(1, "default", [GetRun(run="nobody")]))
    try:
        message = await cluster.bus.request(
            subjects.command("default", shard), question, timeout_s=ASK_S
        )
    except HeadraceError:
        return False
    return decode(ReplyBatch, message.data).replies[0].code == "not-found"


def first_result() -> dict[str, Any]:
    """Start `flowctl dev` on an empty folder with a run: seconds to the run's end."""
    with tempfile.TemporaryDirectory(prefix="headrace-dev-") as folder:
        flowctl = str(Path(sys.executable).with_name("flowctl"))
        command = [flowctl, "dev", "--dir", f"{folder}/data", "--run", str(EXAMPLE)]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        )
        assert process.stdout is not None
        seen = 0.0
        for line in process.stdout:
            if not seen and "COMPLETED" in line:
                seen = time.perf_counter() - began
        process.wait(30)
    assert seen, "the run did not complete"
    return {"seconds": seen}
