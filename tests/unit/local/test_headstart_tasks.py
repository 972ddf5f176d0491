"""Tasks that begin before their run is submitted: nobody can tell, but by the clock."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from headrace.coordinator.runtime.at_once import LIVES_MAX
from headrace.errors import HeadraceError
from headrace.local import LocalEngine
from headrace.local.dispatch import LocalDispatch
from headrace.messages import RunView
from headrace.plan import Group, Plan, Task
from headrace.retry import RetryPolicy
from headrace.worker.handlers import HandlerError, handler


def one(uses: str, **options: object) -> Plan:
    step = Task(name="s", uses=uses, parent=0, **options)
    return Plan(name=uses.replace("/", "-"), nodes=(Group(name="root", size=2), step))


class Tasks:
    """Handlers that tell what they saw."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.tokens: list[int] = []
        self.entered, self.go_on, self.ended = (asyncio.Event() for _ in range(3))

        @handler("test/plain")
        async def plain(ctx, inputs: dict):
            self._called(ctx)
            ctx.log("a line")
            ctx.extra.summary = "done"
            return {"n": inputs.get("n", 0)}

        @handler("test/naps")
        async def naps(ctx, inputs: dict):
            self._called(ctx)
            await asyncio.sleep(0.001)
            return {"n": 1}

        @handler("test/threaded")
        def threaded(ctx, inputs: dict):
            self._called(ctx)
            return {"n": 2}

        @handler("test/fails")
        async def fails(ctx, inputs: dict):
            self._called(ctx)
            raise HandlerError("boom", "no", retryable=ctx.attempt < 3)

        @handler("test/large")
        async def large(ctx, inputs: dict):
            self._called(ctx)
            return {"text": "x" * 200_000}

        @handler("test/holds")
        async def holds(ctx, inputs: dict):
            self._called(ctx)
            self.entered.set()
            try:
                await self.go_on.wait()
            finally:
                self.ended.set()
            return {}

        self.handlers = [plain, naps, threaded, fails, large, holds]

    def _called(self, ctx) -> None:
        self.calls.append((ctx.task.uses, ctx.attempt))
        self.tokens.append(ctx.token)


@pytest.fixture
def tasks():
    return Tasks()


@pytest.fixture
async def runs_tasks(tasks):
    async with asyncio.timeout(60), LocalEngine(handlers=tasks.handlers) as made:
        yield made


def told_of(view) -> object:
    (step,) = view.steps
    said = step.error, step.summary
    return view.state, view.output, view.reason, step.state, step.attempt, *said


ONES = [
    one("test/plain", inputs={"n": 7}),
    one("test/naps"),
    one("test/threaded"),
    one("test/fails", retry=RetryPolicy(max_attempts=4, initial_ms=1)),
    one("test/fails"),
    one("test/large"),
    one("noop"),
]


@pytest.mark.parametrize("plan", ONES, ids=lambda plan: plan.name)
async def test_a_task_goes_as_that_of_a_run_that_was_submitted_first(
    runs_tasks, tasks, plan, monkeypatch
):
    engine, begun = runs_tasks, []
    begin = LocalDispatch.begin

    def noted(self, task):
        begun.append(task.run.partition("/")[2])
        return begin(self, task)

    await engine.run(plan, run_id="named")
    submitted = await engine.get("named")
    calls, tasks.calls = tasks.calls, []
    monkeypatch.setattr(LocalDispatch, "begin", noted)
    view = await engine.run(plan)
    assert begun == [view.id]
    assert told_of(view) == told_of(submitted)
    assert tasks.calls == calls
    assert tasks.tokens == sorted(set(tasks.tokens))
    found = await engine.get(view.id)
    assert told_of(found) == told_of(submitted)
    assert (await engine.run(plan, steps=False)).state == submitted.state
    lines = [[x.text async for b in engine.client.core.logs(run) for x in b.lines]
             for run in ("named", view.id)]  # fmt: skip
    assert lines[0] == lines[1]
    assert engine._dispatch._early == {}


async def test_a_task_that_asks_for_its_own_run_finds_it():
    @handler("test/asks")
    async def asks(ctx, inputs: dict):
        view = await engine.get(ctx.run.partition("/")[2])
        return {"state": view.state}

    async with asyncio.timeout(60), LocalEngine(handlers=[asks]) as engine:
        views = [await engine.run(one("test/asks")) for _ in range(3)]
        assert [view.output for view in views] == [{"state": "RUNNING"}] * 3


async def test_a_task_that_ends_as_another_asks_is_not_run_again(calls):
    """Its run is submitted in the middle of its step, which then ends without waiting."""

    @handler("test/tells")
    async def tells(ctx, inputs: dict):
        calls.names.append("tells")
        coroutine = engine.get(ctx.run.partition("/")[2])
        with contextlib.suppress(StopIteration):
            # What a step does that begins a request, and does not wait for its answer.
            coroutine.send(None)
        coroutine.close()
        return {"n": 1}

    async with asyncio.timeout(60), LocalEngine(handlers=[tells, calls.handler]) as engine:
        views = [await engine.run(one("test/tells")) for _ in range(3)]
    assert [view.output for view in views] == [{"n": 1}] * 3
    assert calls.names == ["tells"] * 3


async def held(engine: LocalEngine, tasks: Tasks) -> asyncio.Task[RunView]:
    """Begin a run whose handler waits; return who waits for the run."""
    plan = one("test/holds")
    tasks.go_on.set()
    await engine.run(plan)
    for event in (tasks.entered, tasks.go_on, tasks.ended):
        event.clear()
    waits = asyncio.create_task(engine.run(plan))
    await tasks.entered.wait()
    return waits


async def test_a_task_that_has_begun_can_be_cancelled(runs_tasks, tasks):
    engine = runs_tasks
    waits = await held(engine, tasks)
    (live,) = [view for view in (await engine.list()).runs if view.state == "RUNNING"]
    await engine.cancel(live.id)
    assert (await waits).state == "CANCELLED"
    assert tasks.ended.is_set()


async def test_an_engine_that_closes_stops_a_task_that_has_begun(runs_tasks, tasks):
    engine = runs_tasks
    waits = await held(engine, tasks)
    await engine.close()
    with pytest.raises(HeadraceError):
        await waits
    assert tasks.ended.is_set()


async def test_tasks_that_begin_together_are_all_recorded(runs_tasks):
    plan = one("test/plain", inputs={"n": 7})
    views = await asyncio.gather(*(runs_tasks.run(plan) for _ in range(2 * LIVES_MAX + 10)))
    assert {view.state for view in views} == {"COMPLETED"}
    assert len((await runs_tasks.list(limit=1_000)).runs) == 2 * LIVES_MAX + 10


async def test_plans_of_more_than_one_task_are_submitted(runs_tasks, monkeypatch):
    monkeypatch.setattr(LocalDispatch, "begin", lambda *_: pytest.fail("not of one task"))
    nodes = (
        Group(name="root", size=3),
        Task(name="a", uses="noop", parent=0),
        Task(name="b", uses="noop", parent=0, needs=(1,)),
    )
    for _ in range(2):
        assert (await runs_tasks.run(Plan(name="two", nodes=nodes))).state == "COMPLETED"
