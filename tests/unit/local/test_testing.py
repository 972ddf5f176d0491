"""The test kit: virtual time, injected failures, histories."""

import time

import pytest

from headrace.sdk import App, Context, Retry, RunFailed, days, hours

app = App("kit")
now: list[str] = []


@app.step(retry=Retry(5, initial=3_600, jitter=0))
async def charge(amount: int) -> str:
    return f"paid {amount}"


@app.workflow
async def order(ctx: Context, amount: int) -> str:
    await ctx.sleep(days(3))
    receipt = await ctx.step(charge, amount)
    answer = await ctx.signal("approval", str, timeout=days(30), default="nobody")
    return f"{receipt}, {answer}, {ctx.now():%m-%d}"


async def test_three_days_take_no_time(headrace_engine):
    began = time.monotonic()
    assert await headrace_engine.start_and_wait(order, 7) == "paid 7, nobody, 02-03"
    assert time.monotonic() - began < 20
    assert headrace_engine.clock.now_ms() >= 1_767_225_600_000 + 33 * 86_400_000


async def test_failures_are_injected_and_retried(headrace_engine):
    headrace_engine.fail_step("charge", times=2)
    handle = await headrace_engine.start(order, 7)
    assert (await handle.result()).startswith("paid 7")
    assert headrace_engine.attempts("charge") == 3
    assert await headrace_engine.ran(handle) == ["charge"]
    journal = await headrace_engine.journal(handle)
    assert [record.key for record in journal] == ["sleep#1", "charge#1", "signal:approval#1"]


async def test_a_failure_that_stays(headrace_engine):
    headrace_engine.fail_step("charge", times=5, error=ValueError("no"))
    with pytest.raises(RunFailed, match="ValueError"):
        await headrace_engine.start_and_wait(order, 7)
    assert headrace_engine.attempts("charge") == 5


async def test_time_stands_still_until_it_is_told_to_pass(headrace_engine):
    handle = await order.start(1)
    await headrace_engine.pass_time(days(3) + hours(1))
    assert await headrace_engine.ran(handle) == ["charge"]
    await handle.signal("approval", "ann")
    assert await handle.result() == "paid 1, ann, 01-04"
