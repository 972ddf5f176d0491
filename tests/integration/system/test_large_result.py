"""A result of 64 MB: from the worker to the object store and back, past the coordinator."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from headrace.client import Client
from headrace.plan import Group, Plan, Task
from support.cluster import Cluster, logs_shown
from support.processes import Program

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(110),
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


async def test_it_goes_around_the_coordinator_and_comes_back_whole(tmp_path: Path) -> None:
    (tmp_path / "large_handlers.py").write_text(HANDLERS)
    env = {"PYTHONPATH": str(tmp_path)}
    made = Cluster(tmp_path, slots=2, apps=["large_handlers:app"], env=env)
    with logs_shown(made):
        async with made as cluster:
            client = await cluster.client()
            try:
                before = peak_mb(cluster.coordinators[0])
                await made_and_read(client)
                grown = peak_mb(cluster.coordinators[0]) - before
                assert grown < SIZE / 1e6 / 2, "the coordinator has only the reference"
            finally:
                await client.close()


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
