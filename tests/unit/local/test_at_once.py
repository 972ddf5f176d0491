"""In memory a run that waits for nothing is over before the event loop comes round again."""

from __future__ import annotations

import asyncio

import pytest

from headrace.coordinator.core import Machine
from headrace.coordinator.runtime import at_once
from headrace.errors import HeadraceError
from headrace.local import LocalEngine
from headrace.local.ends import ALONE_MAX
from headrace.plan import Group, Plan, Sleep, Task
from headrace.sdk import App, Context
from headrace.worker.handlers import handler

ONE = Plan(name="one", nodes=(Group(name="root", size=2), Task(name="s", uses="noop", parent=0)))
NAP = Plan(
    name="nap", nodes=(Group(name="root", size=2), Sleep(name="s", duration_ms=20, parent=0))
)
LONG = Plan(
    name="long", nodes=(Group(name="root", size=2), Sleep(name="s", duration_ms=600_000, parent=0))
)

STEPS = 20
app = App("at-once")


@app.step
async def plus(n: int) -> int:
    return n + 1


@app.workflow
async def counts(ctx: Context, n: int) -> int:
    for _ in range(STEPS):
        n = await ctx.step(plus, n)
    return n


@pytest.fixture
def patient(monkeypatch) -> None:
    """Ticks may go on for as long as a busy machine takes."""
    monkeypatch.setattr(at_once, "TURN_S", 60.0)


async def turns_of(work) -> int:
    """Return how often the event loop came round meanwhile."""
    count = 0
    loop = asyncio.get_running_loop()

    def turn() -> None:
        nonlocal count, handle
        count += 1
        handle = loop.call_soon(turn)

    handle = loop.call_soon(turn)
    await work
    handle.cancel()
    return count


async def test_a_run_takes_one_turn_of_the_loop(engine, patient):
    await engine.run(ONE)
    assert await turns_of(engine.run(ONE)) <= 1


async def test_of_runs_one_after_the_other_few_look_for_company(engine, patient):
    await engine.run(ONE)
    rows = 3

    async def row() -> None:
        for _ in range(rows * (ALONE_MAX + 1)):
            await engine.run(ONE, steps=False)

    assert await turns_of(row()) == rows


def counted(engine: LocalEngine) -> list[object]:
    """Return a list that gets an item for each tick from now on."""
    departures, ticks = engine.running()._departures, []
    observe = departures.observe

    def count(effects: object) -> None:
        ticks.append(None)
        observe(effects)

    departures.observe = count
    return ticks


async def test_runs_that_begin_together_are_decided_together(engine, patient):
    await engine.run(ONE)
    ticks = counted(engine)
    views = await asyncio.gather(*(engine.run(ONE, steps=False) for _ in range(100)))
    assert {view.state for view in views} == {"COMPLETED"}
    assert len(ticks) <= ALONE_MAX + 3, "submitted together, and recorded together"


async def test_nobody_goes_ahead_alone_while_another_run_is_awaited(engine, patient):
    """Else of rows of runs side by side each would go on alone, with ticks of their own."""
    long = asyncio.create_task(engine.run(LONG, steps=False))
    try:
        await engine.run(ONE)
        await engine.run(ONE)
        ticks = counted(engine)
        await asyncio.gather(*(engine.run(ONE, steps=False) for _ in range(ALONE_MAX)))
        assert len(ticks) <= 3
    finally:
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)


async def test_a_long_row_of_ticks_lets_others_have_the_loop(engine):
    await engine.run(ONE)
    nodes = [Group(name="root", size=2_001)]
    nodes += [
        Task(name=f"s{n}", uses="noop", parent=0, needs=(n,) if n else ()) for n in range(2_000)
    ]
    assert await turns_of(engine.run(Plan(name="chain", nodes=tuple(nodes)), steps=False)) > 2


async def test_who_is_cancelled_before_the_tick_has_started_a_run_all_the_same(engine):
    await engine.run(ONE)
    starting = asyncio.create_task(engine.run(ONE))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    async with asyncio.timeout(30):
        while len((await engine.list(states=["COMPLETED"])).runs) < 2:
            await asyncio.sleep(0.01)


async def test_a_timer_that_is_armed_at_once_is_waited_for(engine):
    await engine.run(ONE)
    runs = engine.running().machine.state.runs
    while runs:
        # Nothing of the first one is to wake the owner any more.
        await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        assert (await engine.run(NAP)).state == "COMPLETED"


async def test_what_fails_at_once_ends_the_engine(engine, monkeypatch):
    await engine.run(ONE)

    def broken(machine):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Machine, "settle", broken)
    with pytest.raises(HeadraceError, match="a fault of ours"):
        await engine.run(ONE)
    with pytest.raises(HeadraceError, match="a fault of ours"):
        await engine.submit(ONE)


async def test_a_handler_may_run_others(calls):
    @handler("test/nested")
    async def nested(ctx, inputs: dict):
        view = await engine.run(ONE)
        return {"inner": view.state}

    both = Plan(
        name="both",
        nodes=(Group(name="root", size=2), Task(name="s", uses="test/nested", parent=0)),
    )
    async with asyncio.timeout(30), LocalEngine(handlers=[nested]) as engine:
        await engine.run(ONE)
        assert (await engine.run(both)).output == {"inner": "COMPLETED"}


async def test_a_function_whose_steps_do_not_wait_takes_one_turn_of_the_loop(engine, patient):
    await engine.start_and_wait(counts, 0)
    assert await turns_of(engine.start_and_wait(counts, 0)) <= 1


async def test_each_step_is_recorded_before_what_follows_it_begins(engine):
    async def is_recorded(n: int) -> int:
        (run,) = engine.running().machine.state.runs.records()
        assert run.journal is not None
        return len(run.journal.entries)

    other = App("recorded")
    look = other.step(is_recorded)

    @other.workflow
    async def looks(ctx: Context) -> list[int]:
        return [await ctx.step(look, n) for n in range(5)]

    assert await engine.start_and_wait(looks) == [0, 1, 2, 3, 4]


async def test_a_long_row_of_steps_lets_others_have_the_loop(engine, monkeypatch):
    await engine.start_and_wait(counts, 0)
    monkeypatch.setattr(at_once, "TURN_S", 0.0)
    assert await turns_of(engine.start_and_wait(counts, 0)) >= STEPS


async def test_a_report_that_fails_ends_the_engine(engine, monkeypatch):
    await engine.start_and_wait(counts, 0)

    def broken(machine, report):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Machine, "turn", broken)
    with pytest.raises(HeadraceError, match="a fault of ours"):
        # With a name of its own it is submitted before it begins.
        await engine.start_and_wait(counts.options(id="named"), 0)


async def test_who_asks_in_the_tick_in_which_a_step_ends_is_told_when_it_ran(engine):
    asked = await engine.run(ONE, run_id="named")
    later = await engine.get("named")
    assert asked.steps == later.steps
    assert later.steps[0].worker.startswith("local.")
    assert later.steps[0].finished_ms >= later.steps[0].started_ms > 0
