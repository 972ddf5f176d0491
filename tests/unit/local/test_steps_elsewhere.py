"""Steps with `runs_on`: what steps next to their workflow have, they have, too."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace.local import LocalEngine
from headrace.local.testing import TestEngine
from headrace.sdk import (
    App,
    Context,
    EffectUnknown,
    NonRetryable,
    Retry,
    RunFailed,
    StepFailed,
    step_info,
)
from headrace.sdk import check_history as check

app = App("elsewhere")
WITHIN_S = 60.0
told: list[Any] = []
reached = threading.Event()
stopped = threading.Event()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    told.clear()
    reached.clear()
    stopped.clear()


@app.step(runs_on=("gpu",), retry=Retry(4, initial=30, on=(OSError,)))
async def train(rows: int) -> int:
    info = step_info()
    first = info.last_details(int) or 0
    told.append((info.name, info.attempt, first, info.idempotency_key()))
    info.heartbeat(first + rows)
    if info.attempt < 3:
        raise ConnectionResetError("the wire is cut")
    return first


@app.workflow
async def training(ctx: Context, rows: int) -> int:
    return await ctx.step(train, rows)


class TooLarge(NonRetryable):
    pass


@app.step(runs_on=("gpu",), retry=Retry(3))
async def refuse(how: str) -> None:
    told.append(step_info().attempt)
    raise TooLarge(how)


@app.workflow
async def refused(ctx: Context) -> list[str]:
    try:
        await ctx.step(refuse, "much")
    except StepFailed as error:
        return [error.type, error.message, error.key, str(error)]
    return []


@app.step(name="slow", runs_on=("gpu",))
async def hold() -> None:
    try:
        reached.set()
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        told.append("cleaned up")
        raise


@app.step(runs_on=("gpu",))
def hold_thread() -> None:
    info = step_info()
    reached.set()
    while not info.cancelled:
        stopped.wait(0.01)
    stopped.set()


@app.workflow
async def held(ctx: Context, thread: bool) -> None:
    await ctx.step(hold_thread if thread else hold)


@app.step(runs_on=("gpu",), kind="process")
def where() -> int:
    return os.getpid()


@app.workflow
async def processed(ctx: Context) -> int:
    return await ctx.step(where)


@app.step(timeout=0.05)
async def patient() -> str:
    await asyncio.Event().wait()
    return "never"


@app.step(heartbeat_timeout=0.05, runs_on=("gpu",))
async def silent() -> str:
    await asyncio.Event().wait()
    return "never"


@app.workflow
async def timed(ctx: Context) -> list[str]:
    found = []
    for step in (patient.options(runs_on=("gpu",)), silent):
        try:
            await ctx.step(step)
        except StepFailed as error:
            found.append(f"{error.type}: {error.message}")
    return found


@app.step(runs_on=("gpu",), schedule_timeout=60)
async def rare() -> str:
    return "ran"


@app.workflow
async def waiting(ctx: Context) -> str:
    try:
        return await ctx.step(rare)
    except StepFailed as error:
        return error.type


@app.step(runs_on=("gpu",), effect="at-most-once")
async def pay(amount: int) -> str:
    reached.set()
    told.append(step_info().attempt)
    if len(told) == 1:
        await asyncio.Event().wait()
    return f"paid {amount}"


@app.workflow
async def paying(ctx: Context) -> str:
    try:
        return await ctx.step(pay, 7)
    except EffectUnknown as error:
        return f"{type(error).__name__} {error.type}"


async def begun() -> None:
    assert await asyncio.to_thread(reached.wait, WITHIN_S)


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    async with asyncio.timeout(WITHIN_S), LocalEngine(apps=[app]) as engine:
        yield engine


async def test_retries_get_details_and_the_same_key(headrace_engine: TestEngine) -> None:
    handle = await headrace_engine.start(training, 5)
    assert await handle.result() == 10
    key = told[0][3]
    assert told == [("train", n + 1, 5 * n, key) for n in range(3)]
    assert key.endswith("/train#1")
    assert headrace_engine.attempts("train") == 3
    assert await headrace_engine.ran(handle) == ["train"]


async def test_failures_can_be_injected(headrace_engine: TestEngine) -> None:
    headrace_engine.fail_step("train", times=4, error=OSError("no"))
    with pytest.raises(RunFailed, match=r"OSError: step train#1 failed: OSError: no"):
        await headrace_engine.start_and_wait(training, 5)


async def test_its_failure_is_that_of_a_step(headrace_engine: TestEngine) -> None:
    assert await headrace_engine.start_and_wait(refused) == [
        "TooLarge",
        "much",
        "refuse#1",
        "step refuse#1 failed: TooLarge: much",
    ]
    assert told == [1]


@pytest.mark.parametrize("thread", [False, True])
async def test_a_cancel_reaches_it(engine: LocalEngine, thread: bool) -> None:
    handle = await engine.start(held, thread)
    await begun()
    await handle.cancel(reason="enough")
    with pytest.raises(RunFailed, match="CANCELLED"):
        await handle.result()
    child = (await engine.list(workflow="hold_thread" if thread else "slow")).runs[0]
    assert (await engine.wait(child.id)).state == "CANCELLED"
    if thread:
        assert await asyncio.to_thread(stopped.wait, WITHIN_S)
    else:
        assert told == ["cleaned up"]


async def test_it_may_run_in_a_process(engine: LocalEngine) -> None:
    assert await engine.start_and_wait(processed) != os.getpid()


async def test_its_attempts_have_their_timeouts(engine: LocalEngine) -> None:
    assert await engine.start_and_wait(timed) == [
        "timeout: ran longer than 50 ms",
        "timeout: no heartbeat for 50 ms",
    ]


async def test_nobody_with_its_labels_is_there() -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        TestEngine(apps=[app], capabilities=[app.capability]) as engine,
    ):
        handle = await engine.start(waiting)
        while not (runs := (await engine.list(workflow="rare")).runs):
            await asyncio.sleep(0)
        reasons = [str(reason) for reason in (await engine.explain(runs[0].id)).reasons]
        assert any("gpu" in reason for reason in reasons), reasons
        assert await handle.result() == "schedule-timeout"


async def test_what_is_claimed_is_not_run_again(tmp_path: Any) -> None:
    async with asyncio.timeout(WITHIN_S):
        async with LocalEngine(apps=[app], persistence="journal", path=tmp_path) as engine:
            await engine.start(paying.options(id="p"))
            await begun()
        async with LocalEngine(apps=[app], persistence="journal", path=tmp_path) as engine:
            assert (
                await engine.client.handle("p", paying).result() == "EffectUnknown effect-unknown"
            )
    assert told == [1]


async def test_its_history_is_checked_as_any(headrace_engine: TestEngine) -> None:
    await headrace_engine.start_and_wait(training, 5)
    run = (await headrace_engine.list(workflow="train")).runs[0]
    history = await headrace_engine.history(run.id)
    events = [{"type": e.type, "time_ms": e.time_ms, "data": e.data} for e in history]
    checked = check(app, events)
    assert (checked.workflow, checked.conflict) == ("elsewhere@1/.step", "")
