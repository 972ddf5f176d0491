"""Attempts that run before `submit` returns. All of `test_executor` is about them, too."""

from __future__ import annotations

import asyncio
import contextvars

from headrace.messages import ResultStatus
from headrace.worker.handlers import Context, handler
from support.worker_bench import ORIGIN
from support.worker_owner import make_task


async def test_what_runs_at_once_is_no_part_of_who_submits(make_bench) -> None:
    about = contextvars.ContextVar("about", default="nobody")
    seen: list[asyncio.Task | None] = []

    @handler("marks")
    async def marks(ctx: Context, inputs: dict) -> None:
        about.set("the step")
        seen.append(asyncio.current_task())

    bench = make_bench(handlers=[marks], at_once=True)
    await bench.run(make_task("d/r", 99))
    bench.results.clear()
    for step in (1, 2):
        bench.executor.submit(ORIGIN, [make_task("d/r", step, uses="marks", token=step)])
        assert len(bench.results) == step, "before `submit` returns"
    assert about.get() == "nobody"
    assert seen[0] is seen[1] is not asyncio.current_task()
    # Nobody is told of it from outside of a task, either.
    asyncio.get_running_loop().call_soon(
        bench.executor.submit, ORIGIN, [make_task("d/r", 3, uses="marks", token=3)]
    )
    await bench.until(lambda: len(bench.results) == 3)
    assert seen[2] is seen[0]


async def test_a_stop_between_the_first_step_and_the_loop_is_for_the_work(make_bench) -> None:
    undone: list[str] = []

    @handler("waits")
    async def waits(ctx: Context, inputs: dict) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            undone.append("it")
            raise

    bench = make_bench(handlers=[waits], at_once=True)
    await bench.run(make_task("d/r", 99))
    bench.results.clear()
    # The first begins at once, the other one when the event loop comes to it.
    for step in (1, 2):
        bench.executor.submit(ORIGIN, [make_task("d/r", step, uses="waits")])
        assert bench.executor.cancel("d/r", step, 1, "not wanted")
    async with asyncio.timeout(30):
        await bench.executor.wait_idle()
    assert [result.status for result in bench.results] == [ResultStatus.CANCELLED] * 2
    assert undone == ["it"]
