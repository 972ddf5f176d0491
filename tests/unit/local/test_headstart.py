"""Functions that begin before their run is submitted: nobody can tell, but by the clock."""

from __future__ import annotations

import asyncio
import contextvars
import itertools

import pytest

from headrace.coordinator.core import Limits
from headrace.coordinator.runtime.at_once import LIVES_MAX
from headrace.errors import HeadraceError
from headrace.local import LocalEngine
from headrace.local.functions import BREATH
from headrace.sdk import App, Context, Retry, RunFailed, current_client, step_info
from headrace.worker.beginnings import Beginnings

app = App("head-start")
ran: list[str] = []
whose: contextvars.ContextVar[str] = contextvars.ContextVar("whose", default="nobody")
stop = asyncio.Event()


@app.step
async def plus(n: int) -> int:
    ran.append("plus")
    return n + 1


@app.step
async def naps(n: int) -> int:
    ran.append("naps")
    await asyncio.sleep(0.001)
    return n + 1


@app.step
def in_a_thread(n: int) -> int:
    ran.append("in_a_thread")
    return n + 1


@app.step(effect="at-most-once")
async def once(n: int) -> int:
    ran.append("once")
    return n + 1


@app.step(retry=Retry(max_attempts=3, initial=0.001))
async def flaky(n: int) -> int:
    ran.append("flaky")
    if ran.count("flaky") < 3:
        raise ValueError("not yet")
    return n + 1


@app.step
async def fails(n: int) -> int:
    ran.append("fails")
    raise ValueError(f"no {n}")


STEPS = {s.name: s for s in (plus, naps, in_a_thread, once, flaky, fails)}


@app.workflow
async def mixed(ctx: Context, words: list[str]) -> int:
    """Do what the words say, one after the other."""
    n = 0
    for word in words:
        if word == "sleep":
            await ctx.sleep(0.001)
        elif word == "signal":
            await ctx.signal("never", timeout=0.001, default=None)
        elif word == "child":
            n = await ctx.child(mixed, ["plus"]) + n
        elif word == "both":
            n = sum(await ctx.parallel([ctx.step(plus, n), ctx.step(naps, n)]))
        elif word == "caught":
            try:
                await ctx.step(fails, n)
            except Exception as error:
                ctx.log.info("caught %s", type(error).__name__)
        elif word == "log":
            ctx.log.info("at %s", n)
        elif word == "label":
            ctx.set_label("at", str(n))
        elif word == "raise":
            raise RuntimeError("the end")
        else:
            n = await ctx.step(STEPS[word], n)
    return n


WORDS = [
    [],
    ["plus"],
    ["plus", "plus", "log", "plus"],
    ["log", "plus", "log"],
    ["log", "naps", "log"],
    ["naps"],
    ["plus", "naps", "plus"],
    ["plus", "plus", "sleep", "plus"],
    ["sleep"],
    ["in_a_thread", "plus"],
    ["plus", "once", "plus"],
    ["once"],
    ["plus", "flaky", "plus"],
    ["plus", "fails"],
    ["plus", "caught", "plus"],
    ["plus", "raise"],
    ["signal", "plus"],
    ["plus", "child", "plus"],
    ["plus", "both", "plus"],
    ["plus", "label", "plus"],
]


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


@pytest.fixture
async def engine():
    async with asyncio.timeout(60), LocalEngine(apps=[app]) as made:
        # The first run of a workflow brings its plan.
        await made.start_and_wait(mixed, [])
        yield made


async def all_of(engine: LocalEngine, run: str) -> tuple[object, ...]:
    """Return what can be told of a run, but for times and its name."""
    view = await engine.get(run)
    history = await engine.history(run)
    told = ("key", "kind", "name", "state", "value", "error")
    entries = [[e.data.get(field) for field in told] for e in history if e.type == "EntryEnded"]
    lines = [line.text async for lines in engine.client.core.logs(run) for line in lines.lines]
    return view.state, view.output, view.reason, dict(view.labels), entries, lines


async def outcome(engine: LocalEngine, words: list[str], name: str) -> object:
    ran.clear()
    try:
        return await engine.start_and_wait(mixed.options(id=name) if name else mixed, words)
    except RunFailed as failed:
        return failed.state, failed.reason


@pytest.mark.parametrize("words", WORDS, ids=lambda words: "-".join(words) or "nothing")
async def test_it_goes_as_that_of_a_run_that_was_submitted_first(engine, words, monkeypatch):
    begun: list[str] = []
    begin = Beginnings.begin

    def noted(self, workflow, run, turn, host):
        begun.append(run.partition("/")[2])
        return begin(self, workflow, run, turn, host)

    submitted = await outcome(engine, words, "named")
    steps = list(ran)
    monkeypatch.setattr(Beginnings, "begin", noted)
    assert await outcome(engine, words, "") == submitted
    assert ran == steps
    assert len(begun) == 1
    assert await all_of(engine, begun[0]) == await all_of(engine, "named")
    assert engine.turns.beginnings.take(f"default/{begun[0]}") is None


async def test_what_is_asked_behind_it_finds_it(engine):
    handle = await engine.start(mixed, ["plus"])
    assert await handle.result() == 1
    for _ in range(3):
        await engine.start_and_wait(mixed, ["plus"])
        found = await engine.list()
        assert {view.state for view in found.runs} == {"COMPLETED"}
    assert len(found.runs) == 5


async def test_a_step_that_asks_for_its_own_run_finds_it(engine):
    other = App("asks")

    @other.step
    async def state_of_mine() -> tuple[str, int]:
        view = await current_client().core.get(step_info().run.partition("/")[2])
        return view.state, len(view.steps)

    @other.workflow
    async def asks(ctx: Context) -> tuple[str, int]:
        return await ctx.step(state_of_mine)

    first = await engine.start_and_wait(asks)
    assert first[0] == "RUNNING"
    assert await engine.start_and_wait(asks) == first


async def test_a_step_may_run_others(engine):
    other = App("nests")

    @other.step
    async def inner(n: int) -> int:
        return await engine.start_and_wait(mixed, ["plus"] * n)

    @other.workflow
    async def outer(ctx: Context, n: int) -> int:
        return await ctx.step(inner, n)

    assert [await engine.start_and_wait(outer, n) for n in (1, 2, 3)] == [1, 2, 3]
    assert {view.state for view in (await engine.list()).runs} == {"COMPLETED"}


async def test_steps_have_nothing_of_the_context_of_who_starts_the_run(engine):
    other = App("contexts")

    @other.step
    async def mine() -> str:
        found = whose.get()
        whose.set("a step's")
        return found

    @other.workflow
    async def asks(ctx: Context) -> list[str]:
        return [await ctx.step(mine), await ctx.step(mine)]

    whose.set("the caller's")
    for _ in range(2):
        assert await engine.start_and_wait(asks) == ["nobody", "nobody"]
    assert whose.get() == "the caller's"


async def test_who_gives_up_waiting_leaves_the_run_alone(engine):
    other, entered, go_on = App("left"), asyncio.Event(), asyncio.Event()

    @other.step
    async def holds() -> str:
        entered.set()
        await go_on.wait()
        return "done"

    @other.workflow
    async def left(ctx: Context) -> str:
        return await ctx.step(holds)

    go_on.set()
    await engine.start_and_wait(left)
    go_on.clear()
    entered.clear()
    waits = asyncio.create_task(engine.start_and_wait(left))
    await entered.wait()
    (live,) = [view for view in (await engine.list()).runs if view.state == "RUNNING"]
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    go_on.set()
    assert (await engine.wait(live.id)).output == {"result": "done"}


async def held(engine: LocalEngine) -> tuple[asyncio.Task[None], asyncio.Event]:
    """Begin a function whose step waits for ever; return who waits for it, and the step's end."""
    other, entered, ended = App("held"), asyncio.Event(), asyncio.Event()

    @other.step
    async def holds(n: int) -> None:
        if n:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    @other.workflow
    async def holding(ctx: Context, n: int) -> None:
        await ctx.step(holds, n)

    await engine.start_and_wait(holding, 0)
    waits = asyncio.create_task(engine.start_and_wait(holding, 1))
    await entered.wait()
    return waits, ended


async def test_a_run_that_is_cancelled_stops_its_step(engine):
    waits, ended = await held(engine)
    (live,) = [view for view in (await engine.list()).runs if view.state == "RUNNING"]
    await engine.cancel(live.id)
    with pytest.raises(RunFailed, match="CANCELLED"):
        await waits
    await ended.wait()


async def test_an_engine_that_closes_stops_what_has_begun(engine):
    waits, ended = await held(engine)
    await engine.close()
    with pytest.raises(HeadraceError):
        await waits
    await ended.wait()


async def test_a_result_that_is_too_large_fails_as_ever():
    other = App("large")

    @other.step
    async def grows(n: int) -> str:
        return "x" * n

    @other.workflow
    async def large(ctx: Context, n: int) -> str:
        return await ctx.step(grows, n)

    reasons = []
    async with LocalEngine(limits=Limits(output_bytes=1_000)) as engine:
        await engine.start_and_wait(large, 1)
        for workflow in (large.options(id="named"), large):
            with pytest.raises(RunFailed, match="limit-exceeded") as failed:
                await engine.start_and_wait(workflow, 2_000)
            reasons.append(failed.value.reason)
    assert reasons[0] == reasons[1]


async def test_inputs_are_refused_before_anything_runs(engine):
    with pytest.raises(HeadraceError, match="no free input"):
        await engine.start_and_wait(mixed, ["plus"], wrong=1)
    assert ran == []


async def test_when_all_slots_are_taken_a_run_waits_for_one():
    entered, go_on = asyncio.Event(), asyncio.Event()
    other = App("slots")

    @other.step
    async def holds() -> None:
        entered.set()
        await go_on.wait()

    @other.workflow
    async def holding(ctx: Context) -> None:
        await ctx.step(holds)

    async with asyncio.timeout(60), LocalEngine(slots=1) as engine:
        await engine.start_and_wait(mixed, [])
        first = asyncio.create_task(engine.start_and_wait(holding))
        await entered.wait()
        second = asyncio.create_task(engine.start_and_wait(mixed, ["plus"]))
        await engine.list()
        assert ran == []
        go_on.set()
        await asyncio.gather(first, second)
        assert ran == ["plus"]


async def test_others_get_the_loop_between_runs_that_never_wait(engine):
    turns = itertools.count()
    loop = asyncio.get_running_loop()

    def turn() -> None:
        next(turns)
        loop.call_soon(turn)

    turn()
    for _ in range(10 * BREATH):
        await engine.start_and_wait(mixed, ["plus"])
    assert next(turns) >= 10


async def test_many_at_the_same_time_are_all_recorded(engine):
    count = 2 * LIVES_MAX + 10
    starts = (engine.start_and_wait(mixed, ["plus"] * (n % 3)) for n in range(count))
    assert await asyncio.gather(*starts) == [n % 3 for n in range(count)]
    found = await engine.list(limit=1_000)
    assert len(found.runs) == count + 1
    assert {view.state for view in found.runs} == {"COMPLETED"}


async def test_level_snapshot_keeps_what_has_ended_when_the_engine_is_left(tmp_path):
    # Of two snapshots that cannot be told apart the right one is taken by luck, but not each time.
    for life in range(12):
        async with (
            asyncio.timeout(60),
            LocalEngine(persistence="snapshot", path=tmp_path) as engine,
        ):
            found = await engine.list()
            assert [view.state for view in found.runs] == ["COMPLETED"] * 2 * life
            for _ in range(2):
                assert await engine.start_and_wait(mixed, ["plus"]) == 1


async def test_a_log_that_outlives_the_process_knows_the_run_first(tmp_path, monkeypatch):
    begun: list[str] = []
    monkeypatch.setattr(Beginnings, "begin", lambda *given: begun.append(given[2]))
    async with asyncio.timeout(60), LocalEngine(persistence="journal", path=tmp_path) as engine:
        for _ in range(3):
            assert await engine.start_and_wait(mixed, ["plus"]) == 1
    assert begun == []
