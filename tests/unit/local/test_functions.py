"""Workflow functions in the embedded engine: what clients ask of them, from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from headrace.errors import Conflict
from headrace.local import LocalEngine
from headrace.sdk import App, Context

app = App("talk")
undone: list[str] = []


@app.step
async def undo() -> None:
    undone.append("undo")


@app.step
async def double(n: int) -> int:
    return 2 * n


@app.workflow
async def basket(ctx: Context) -> list[str]:
    items: list[str] = []

    def add(item: str) -> int:
        items.append(item)
        return len(items)

    def check(item: str) -> None:
        if not item:
            raise ValueError("no item")

    ctx.query("items", lambda: list(items))
    ctx.update("add", add, validate=check)
    await ctx.signal("checkout")
    return items


@app.workflow
async def child(ctx: Context, n: int) -> int:
    return await ctx.step(double, n)


@app.workflow
async def parent(ctx: Context) -> int:
    first, second = await ctx.parallel([ctx.child(child, 1), ctx.child(child, 2)])
    return first + second


@app.workflow
async def cleaning(ctx: Context) -> str:
    try:
        await ctx.signal("never")
    except asyncio.CancelledError:
        await ctx.step(undo)
        raise
    return "done"


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    async with LocalEngine() as engine:
        yield engine


async def waiting(engine: LocalEngine, run: str) -> None:
    async with asyncio.timeout(30):
        async for view in engine.watch(run):
            if any(step.kind == "signal" for step in view.steps):
                return


async def test_updates_and_queries_of_a_function_that_waits(engine: LocalEngine) -> None:
    handle = await engine.start(basket)
    await waiting(engine, handle.id)
    core = engine.client.core

    assert await core.update(handle.id, "add", "tea") == 1
    assert await core.update(handle.id, "add", "milk") == 2
    assert await core.query(handle.id, "items") == ["tea", "milk"]
    with pytest.raises(Conflict, match="no item"):
        await core.update(handle.id, "add", "")

    await handle.signal("checkout")
    assert await handle.result() == ["tea", "milk"]


async def test_children_run_beside_each_other(engine: LocalEngine) -> None:
    handle = await engine.start(parent)

    assert await handle.result() == 6
    steps = (await handle.view()).steps
    assert [step.kind for step in steps] == ["task", "child", "child"]
    assert all(step.child for step in steps[1:])


async def test_a_cancelled_function_cleans_up(engine: LocalEngine) -> None:
    undone.clear()
    handle = await engine.start(cleaning)
    await waiting(engine, handle.id)
    await handle.cancel(reason="enough")

    view = await engine.wait(handle.id, timeout_s=20)
    assert (view.state, undone) == ("CANCELLED", ["undo"])
    assert view.reason.startswith("enough")


async def test_a_function_is_explained_by_what_it_waits_for(engine: LocalEngine) -> None:
    handle = await engine.start(basket)
    await waiting(engine, handle.id)

    assert "waiting for signal checkout" in (await handle.explain()).summary


async def test_a_workflow_may_be_defined_when_others_of_its_app_have_run(
    engine: LocalEngine,
) -> None:
    later = App("later")

    @later.workflow
    async def first(ctx: Context) -> int:
        return 1

    assert await engine.start_and_wait(first) == 1

    @later.workflow
    async def second(ctx: Context) -> int:
        return 2

    async with asyncio.timeout(30):
        assert await engine.start_and_wait(second) == 2


async def test_results_of_a_function_are_not_taken_over(engine: LocalEngine) -> None:
    handle = await engine.start(child, 1)
    await handle.result()

    with pytest.raises(Exception, match="workflow function"):
        await engine.rerun(handle.id, failed=True)
