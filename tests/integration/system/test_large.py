"""A result of 64 MB goes past the coordinator; a thousand workers are known by their heartbeats."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.scale.fleet import Fleet

from headrace.bus import connect
from headrace.client import Client
from headrace.plan import Group, Plan, Task
from support.cluster import Cluster, shared
from support.processes import Program

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

SIZE = 64 * 1024 * 1024
HANDLERS = f"""\
import hashlib
from types import SimpleNamespace

import msgspec

from headrace.worker.handlers import Context, handler


class Nothing(msgspec.Struct):
    pass


class Text(msgspec.Struct):
    text: str


@handler("large/make")
async def make(ctx: Context, inputs: Nothing) -> dict[str, object]:
    return {{"text": "0123456789abcdef" * ({SIZE} // 16)}}


@handler("large/measure")
async def measure(ctx: Context, inputs: Text) -> dict[str, object]:
    return {{"size": len(inputs.text), "digest": hashlib.sha256(inputs.text.encode()).hexdigest()}}


app = SimpleNamespace(handlers={{"large/make": make, "large/measure": measure}})
"""
WORKERS = 1_000
MAKE_ONE = Plan(
    name="one", nodes=(Group(name="one", size=2), Task(name="a", uses="noop", parent=0))
)
TEXT = "${{ tasks.make.outputs.text }}"
PLAN = Plan(
    name="large",
    dialect="tasks",
    nodes=(
        Group(name="large", size=3),
        Task(name="make", uses="large/make", parent=0),
        Task(name="measure", uses="large/measure", parent=0, needs=(1,), inputs={"text": TEXT}),
    ),
)


def peak_mb(program: Program) -> float:
    """Return the most memory that a process has had."""
    lines = Path(f"/proc/{program.process.pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1_000


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that nobody else has filled."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "large_handlers.py").write_text(HANDLERS)
    env = {"PYTHONPATH": str(folder)}
    with shared(Cluster(folder, slots=2, apps=["large_handlers:app"], env=env)) as made:
        yield made


async def test_it_goes_around_the_coordinator_and_comes_back_whole(alone: Cluster) -> None:
    async with await alone.client() as client:
        before = peak_mb(alone.coordinators[0])
        await made_and_read(client)
        grown = peak_mb(alone.coordinators[0]) - before
        assert grown < SIZE / 1e6 / 2, "the coordinator has only the reference"


async def made_and_read(client: Client) -> None:
    """Run the workflow; its value is in no view, and whole for who asks for it."""
    await client.submit(PLAN, run_id="large")
    view = await client.wait("large", timeout_s=90)
    assert view.state == "COMPLETED", view
    seen = {step.name: step.outputs for step in (await client.get("large")).steps}
    assert list(seen["make"]["text"]) == ["$blob"]
    text = "0123456789abcdef" * (SIZE // 16)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert seen["measure"] == {"size": SIZE, "digest": digest}
    view = await client.whole(await client.get("large"))
    whole = {step.name: step.outputs for step in view.steps}
    assert whole["make"]["text"] == text


async def test_a_thousand_workers_are_known_and_those_that_fall_silent_go_offline(
    alone: Cluster,
) -> None:
    async with await alone.client() as client:
        bus = await connect([alone.servers], name="fleet")
        beating = asyncio.create_task(Fleet(bus, WORKERS).beat())
        try:
            await all_are(client, "Online")
            run = await client.submit(MAKE_ONE)
            assert (await client.wait(run.id, timeout_s=20)).state == "COMPLETED"
            beating.cancel()
            await all_are(client, "Offline")
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await bus.close()


async def all_are(client: Client, state: str) -> None:
    """Return once every simulated worker is known to be in *state*."""
    async with asyncio.timeout(30):
        while True:
            workers = (await client.info(workers=True)).workers
            states = [worker.state for worker in workers if worker.id.startswith("simulated-")]
            if states == [state] * WORKERS:
                return
            await asyncio.sleep(0.1)
