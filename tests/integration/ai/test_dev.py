"""The examples with models, on a real `flowctl dev`; and the agent in one process."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.sdk import Client
from support.cluster import EXAMPLES, Dev, running, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FOLDER = EXAMPLES / "ai"
DONE = "Done: refunded 4200 cents of order 7."


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    made = Dev(
        tmp_path / "dev",
        *("--app", "headrace.ai.handlers:app", "--app", "agent:app"),
        env={"PYTHONPATH": str(FOLDER)},
    )
    async with running(made):
        yield made


async def test_the_agent_in_one_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, FOLDER / "agent.py",
        stdout=asyncio.subprocess.PIPE, env={**os.environ},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out.decode().strip()) == (0, DONE)


async def test_agent_and_retrieval_on_a_server(dev: Dev, tmp_path: Path) -> None:
    ran = await dev.flowctl(
        "submit", str(FOLDER / "rag.yaml"), "--id", "rag", "-i", f"folder={FOLDER / 'library'}",
        "-i", f"database={tmp_path / 'library.db'}", "--wait", "-o", "json",
    )  # fmt: skip
    assert ran.code == 0, ran.err + ran.out
    steps = {
        step["path"]: step for step in (await dev.flowctl("get", "rag", "-o", "json")).json["steps"]
    }
    best = steps["answer/rank"]["outputs"]["hits"][0]
    assert best["heading"] == "Shipping > How long it takes"
    assert steps["answer/answer"]["outputs"]["text"] == "Two days."
    bundle = (await dev.flowctl("evidence", "rag", "-o", "json")).json
    said = {step["path"]: step["attempts"][-1].get("evidence") for step in bundle["steps"]}
    assert set(said["answer/load"]["sources"]) == {
        str(FOLDER / "library" / name) for name in ("returns.md", "shipping.md")
    }
    assert best["id"] in said["answer/find"]["found"]
    decided = said["answer/answer"]
    assert (decided["model"], decided["parameters"]) == ("script-1", {"max_tokens": 1_024})
    assert decided["sources"][0].endswith("shipping.md")

    sys.path.insert(0, str(FOLDER))
    try:
        import agent
    finally:
        sys.path.remove(str(FOLDER))
    async with await Client.connect(dev.url) as client:
        handle = await client.start(agent.answer, "Where is my order 7?")

        async def waits() -> bool:
            shown = (await dev.flowctl("explain", handle.id)).out
            return "desk-approval" in shown

        await wait_for(waits, within_s=20, what="the approval to be asked for")
        ran = await dev.flowctl(
            "signal", handle.id, "desk-approval", "--payload", '{"approved": true}',
            "--correlation-key", "call-2",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        assert await handle.result() == DONE
    exported = await dev.flowctl("evidence", handle.id, "-o", "json")
    (tmp_path / "agent.json").write_text(exported.out)
    checked = await dev.flowctl("evidence", "verify", str(tmp_path / "agent.json"))
    assert checked.code == 0, checked.out
    records = {step["path"]: step["uses"] for step in exported.json["steps"]}
    assert records["refund#1"] == "step:refund"
