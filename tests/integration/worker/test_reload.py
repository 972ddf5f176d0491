"""`flowctl dev --app … --reload`: changed code without a new process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.sdk import App, Client, Context
from support.cluster import Dev, running, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FLOWS = """
from headrace.sdk import App, Context
from shop.words import word

app = App("shop")

@app.step
async def said() -> str:
    return word()

@app.workflow
async def add(ctx: Context, a: int, b: float) -> float:
    return a + b

@app.workflow
async def talk(ctx: Context) -> list[str]:
    first = await ctx.step(said)
    await ctx.signal("go")
    return [first, await ctx.step(said), "WHO"]
"""


app = App("shop")


@app.workflow
async def talk(ctx: Context) -> list[str]:
    """Stand for the one of the package, whose module this process must not import."""
    raise NotImplementedError


@pytest.fixture
async def dev(tmp_path: Path) -> AsyncIterator[Dev]:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "flows.py").write_text(FLOWS)
    (package / "words.py").write_text("def word(): return 'one'\n")
    options = ("--app", "shop.flows:app", "--reload")
    async with running(Dev(tmp_path / "dev", *options, env={"PYTHONPATH": str(tmp_path)})) as made:
        yield made


async def test_a_run_of_a_function_is_submitted_by_its_name(
    dev: Dev, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = await dev.flowctl("submit", "shop.flows:add", "-i", "a=1", "-i", "b=2.5", "--wait")
    assert ran.code == 0, ran.err
    by_app = ("shop.flows:app/add", "-i", "a=1", "-i", "b=2.5", "--id", "sum", "--wait")
    ran = await dev.flowctl("submit", *by_app, "-o", "json")
    assert (ran.code, ran.json["output"]) == (0, {"result": 3.5}), ran.err
    monkeypatch.setenv("FLOWCTL_SERVER", dev.url)
    async with await Client.connect() as client:
        assert await client.handle("sum").result() == 3.5
    refused = await dev.flowctl("submit", "shop.flows:add", "-i", "a=x", "-i", "c=1")
    assert refused.code == 3
    for said in (
        "input 'a' must be a whole number, not 'x'",
        "unknown input 'c'",
        "input 'b' is required",
    ):
        assert said in refused.err


async def test_new_code_without_a_new_process(dev: Dev, tmp_path: Path) -> None:
    async def worker():
        return (await dev.flowctl("workers", "-o", "json")).json[0]

    before = (await worker())["incarnation"]
    async with await Client.connect(dev.url):
        handle = await talk.options(id="waits").start()

        async def waits():
            said = json.dumps((await dev.flowctl("get", "waits", "-o", "json")).json)
            return "go" in said and "WAITING" in said.upper()

        await wait_for(waits, within_s=15, what="the function to wait")
        # Broken: told with its place; the old code goes on.
        (tmp_path / "shop" / "words.py").write_text("def word(:\n")

        async def problem():
            return (await worker())["problems"]

        (said,) = await wait_for(problem, within_s=15, what="the problem")
        assert "shop/words.py:1: invalid syntax" in said
        other = await talk.options(id="other").start()
        await other.signal("go")
        assert await other.result(timeout=15) == ["one", "one", "WHO"]
        # Mended and changed: the function that waits goes on with it, by a replay.
        (tmp_path / "shop" / "words.py").write_text("def word(): return 'two'\n")
        (tmp_path / "shop" / "flows.py").write_text(FLOWS.replace("WHO", "new"))

        async def mended():
            return not (await worker())["problems"]

        await wait_for(mended, within_s=15, what="the new code")
        await handle.signal("go")
        assert await handle.result(timeout=15) == ["one", "two", "new"]
    assert (await worker())["incarnation"] == before
