"""Plug-ins of a real worker: they come, change, break and go while it lives."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.cluster import Dev, Machine, running, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PLUGIN = """
import asyncio
import pathlib
from headrace.worker.handlers import Context, handler

@handler("shop/pack")
async def pack(ctx: Context, inputs: dict) -> dict:
    '''Pack an order.'''
    gate = pathlib.Path(inputs.get("gate", "/"))
    while not gate.exists():
        ctx.log("waits")
        await asyncio.sleep(0.05)
    return {"by": "WORD"}
"""
FLOW = """
name: pack
on: {workflow_dispatch: {inputs: {gate: {type: string, default: /}}}}
jobs:
  pack:
    runs-on: linux
    steps:
      - {id: pack, uses: shop/pack, with: {gate: "${{ inputs.gate }}"}}
"""


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "flow.yaml").write_text(FLOW)
    async with running(
        Dev(tmp_path / "dev", env={"HEADRACE_CFG_WORKER__PLUGINS": str(tmp_path / "plugins")})
    ) as made:
        yield made


async def test_a_life_with_plug_ins(dev: Dev, tmp_path: Path) -> None:
    plugin, flow = tmp_path / "plugins" / "shop.py", str(tmp_path / "flow.yaml")

    async def worker():
        return (await dev.flowctl("workers", "-o", "json")).json[0]

    async def packed(name: str) -> tuple[str, str]:
        """Return what the step gave, and the version in its history."""
        ran = await dev.flowctl("submit", flow, "--id", name, "--wait", "-o", "json")
        assert ran.code == 0, ran.err
        return await told(name)

    async def told(name: str) -> tuple[str, str]:
        steps = (await dev.flowctl("get", name, "-o", "json")).json["steps"]
        given = next(step["outputs"] for step in steps if step["path"] == "pack/pack")
        history = (await dev.flowctl("history", name, "-o", "json")).json
        (ended,) = [e for e in history if e["type"] == "StepCompleted"]
        return given["by"], ended["data"]["extra"]["handler_version"]

    assert (await worker())["handlers"] == []
    plugin.write_text(PLUGIN.replace("WORD", "first"))

    async def offers(version_before: str = "") -> str:
        version = (await worker())["versions"].get("shop/pack", "")
        return version if version != version_before else ""

    first = await wait_for(offers, within_s=15, what="the plug-in")
    assert first.startswith("sha256:")
    assert await packed("one") == ("first", first)

    # A running step ends with the version that it began with.
    gate = tmp_path / "gate"
    begun = await dev.flowctl("submit", flow, "--id", "two", "-i", f"gate={gate}")
    assert begun.code == 0, begun.err

    async def waits():
        return "waits" in (await dev.flowctl("logs", "two")).out

    await wait_for(waits, within_s=15, what="the step to run")
    plugin.write_text(PLUGIN.replace("WORD", "second"))
    second = await wait_for(lambda: offers(first), within_s=15, what="the new version")
    gate.touch()

    async def ended():
        return (await dev.flowctl("get", "two", "-o", "json")).json["state"] == "COMPLETED"

    await wait_for(ended, within_s=15, what="the run to end")
    assert await told("two") == ("first", first)
    assert await packed("three") == ("second", second)
    shown = (await dev.flowctl("history", "three", "-o", "wide")).out
    assert second in shown

    # A broken file is told, and changes nothing.
    plugin.write_text("def broken(:\n")

    async def problem():
        return (await worker())["problems"]

    (said,) = await wait_for(problem, within_s=15, what="the problem")
    assert said == "shop.py: line 1: invalid syntax; shop/pack stays as it was"
    wide = (await dev.flowctl("workers", "-o", "wide")).out
    assert "shop.py: line 1: invalid syntax" in wide
    assert f"shop/pack@{second}" in wide
    assert await packed("four") == ("second", second)

    # A file that goes takes its handler with it; the run waits, and says for what.
    plugin.unlink()

    async def gone():
        view = await worker()
        return not view["handlers"] and not view["problems"]

    await wait_for(gone, within_s=15, what="the handler to go")
    refused = await dev.flowctl("submit", flow, "--id", "five")
    assert refused.code == 3
    waiting = await dev.flowctl("submit", flow, "--id", "five", "--allow-unknown")
    assert waiting.code == 0, waiting.err

    async def explained():
        said = json.dumps((await dev.flowctl("explain", "five", "-o", "json")).json)
        return "no worker offers uses:shop/pack" in said

    await wait_for(explained, within_s=15, what="the reason")
    plugin.write_text(PLUGIN.replace("WORD", "third"))

    async def five():
        return (await dev.flowctl("get", "five", "-o", "json")).json["state"] == "COMPLETED"

    await wait_for(five, within_s=20, what="the run that waited")


async def test_embedded(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    (tmp_path / "flow.yaml").write_text(FLOW)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "shop.py").write_text(PLUGIN.replace("WORD", "here"))
    ran = await machine.flowctl(
        "run", str(tmp_path / "flow.yaml"), "--plugins", str(plugins), "-o", "json"
    )
    assert ran.code == 0, ran.err
    given = next(step["outputs"] for step in ran.json["steps"] if step["path"] == "pack/pack")
    assert given == {"by": "here"}
    (plugins / "broken.py").write_text("x = ")
    ran = await machine.flowctl("run", str(tmp_path / "flow.yaml"), "--plugins", str(plugins))
    assert ran.code == 3
    assert "broken.py: line 1: invalid syntax" in ran.err
