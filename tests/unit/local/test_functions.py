"""Workflow functions in the embedded engine: what clients ask of them, from end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.errors import Conflict, InvalidRequest
from headrace.local import LocalEngine
from headrace.sdk import App, Context, RunFailed

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


@app.step
async def grow(n: int) -> bytes:
    return b"x" * n


@app.workflow
async def large(ctx: Context, text: str) -> int:
    size = len(await ctx.step(grow, len(text))) + len(await ctx.signal("go", str))
    return size + len(await ctx.child(echoed, text))


@app.workflow
async def echoed(ctx: Context, text: str) -> str:
    return text


@pytest.mark.parametrize("persistence", ["journal", "snapshot"])
async def test_values_may_be_as_large_as_in_a_cluster(tmp_path: Path, persistence: str) -> None:
    size = 1_500_000
    async with LocalEngine(persistence=persistence, path=tmp_path, apps=[app]) as engine:
        handle = await engine.start(large.options(id="large"), "a" * size)
        await waiting(engine, handle.id)
    async with asyncio.timeout(60):
        async with LocalEngine(persistence=persistence, path=tmp_path, apps=[app]) as engine:
            again = engine.client.handle("large", large)
            await again.signal("go", "b" * size)
            assert await again.result() == 3 * size


async def test_what_is_no_workflow_is_not_started(engine: LocalEngine) -> None:
    with pytest.raises(InvalidRequest, match="<step talk/double> is no workflow"):
        await engine.start(double, 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="is no workflow: mark the function"):
        await engine.start_and_wait(waiting)  # type: ignore[arg-type]

    @app.workflow
    async def odd(ctx: Context) -> None:
        await ctx.child(double, 1)  # type: ignore[arg-type]

    with pytest.raises(RunFailed, match="InvalidRequest: <step talk/double> is no workflow"):
        await engine.start_and_wait(odd)


async def test_results_of_a_function_are_not_taken_over(engine: LocalEngine) -> None:
    handle = await engine.start(child, 1)
    await handle.result()

    with pytest.raises(Exception, match="workflow function"):
        await engine.rerun(handle.id, failed=True)
