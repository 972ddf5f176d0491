"""Lines of the log of real processes: each is JSON that says when, how bad, who and what."""

import json
from datetime import datetime

import pytest

from support.chaos import compiled
from support.cluster import Cluster, running, until, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("system"),
]

APP = """\
import logging
from types import SimpleNamespace

from headrace.worker.handlers import handler


@handler("test/speaks")
async def speaks(ctx, inputs: dict) -> dict:
    logging.getLogger("mine").info("two\\nlines", extra={"amount": 3, "level": "own"})
    return {}


@handler("test/raises")
async def raises(ctx, inputs: dict) -> dict:
    raise ValueError("a \\x1b[31mred\\nreason")


app = SimpleNamespace(handlers={"test/speaks": speaks, "test/raises": raises})
"""
SECRET = "sesame-9241"
SPEAKS = f"""\
name: speaks
tasks:
  - {{name: say, type: test/speaks, config: {{word: {SECRET}}}}}
  - {{name: fall, type: test/raises, config: {{}}, depends_on: [say]}}
"""
SLOW = "name: slow\njobs: {a: {runs-on: linux, steps: [{run: sleep 60}]}}"
LEVELS = {"debug", "info", "warning", "error", "critical"}


def lines(*programs):
    """Return what the programs have written, line by line; every one must be an object."""
    return [json.loads(line) for program in programs for line in program.said().splitlines()]


async def test_every_line_is_an_object_with_its_fields(tmp_path):
    (tmp_path / "speaking.py").write_text(APP)
    env = {
        "HEADRACE_CFG_LOG__FORMAT": "json",
        "HEADRACE_CFG_LOG__LEVEL": "debug",
        "HEADRACE_CFG_DISPATCH__LEASE_MS": "1200",
        "HEADRACE_CFG_DISPATCH__HEARTBEAT_MS": "300",
        "PYTHONPATH": str(tmp_path),
    }
    made = Cluster(tmp_path / "cluster", workers=1, apps=["speaking:app"], env=env)
    async with running(made) as cluster, await cluster.client() as client:
        spoke = await client.submit(compiled(SPEAKS))
        assert (await client.wait(spoke.id, 30)).state == "FAILED"
        slow = await client.submit(compiled(SLOW))

        async def held():
            return any(step.worker for step in (await client.get(slow.id)).steps)

        await wait_for(held, within_s=20, what="the step")
        (worker,), (coordinator,) = cluster.workers, cluster.coordinators
        worker.kill()
        await until(lambda: "worker lost" in coordinator.said(), within_s=20, what="the loss")
        worker.start()
        await cluster.ready()
        await client.cancel(slow.id)
    # They have ended; what they said at their end is in it.
    found = lines(coordinator, worker)
    for line in found:
        moment = datetime.fromisoformat(line["time"])
        assert moment.utcoffset().total_seconds() == 0
        assert line["level"] in LEVELS, line
        assert line["logger"], line
        assert line["message"], line
    own = [line for line in found if line["logger"] == "mine"]
    assert [(line["message"], line["amount"], line["level_"]) for line in own] == [
        ("two\nlines", 3, "own")
    ]
    # What is about a run says which one, and which attempt of which step.
    about = [line for line in found if line.get("run", "").endswith(f"/{spoke.id}")]
    assert {(line["step"], line["attempt"]) for line in about} == {("say", 1)}
    # Nobody's inputs and outputs.
    assert not any(SECRET in line for line in map(json.dumps, found))
    stopped = [line for line in found if line["message"] == "worker stopped"]
    assert [line["worker"] for line in stopped] == ["w0"]
