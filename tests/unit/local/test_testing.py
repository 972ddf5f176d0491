"""The test kit: virtual time, injected failures, histories."""

import subprocess
import sys
import time
from pathlib import Path

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


async def test_a_failure_may_be_a_class(headrace_engine):
    headrace_engine.fail_step("charge", times=9, error=ConnectionError)
    with pytest.raises(RunFailed, match="ConnectionError"):
        await headrace_engine.start_and_wait(order, 5)


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


USERS_TEST = """
from headrace.sdk import App, Context

app = App("mine")

@app.workflow
async def one(ctx: Context) -> int:
    return 1

async def test_mine(headrace_engine):
    assert await headrace_engine.start_and_wait(one) == 1
"""


def test_a_users_test_needs_no_settings_of_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(USERS_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, timeout=110
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
