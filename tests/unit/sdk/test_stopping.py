"""Steps that are cancelled: time to clean up, and what becomes of those that take none of it."""

import asyncio
import contextlib
import logging
import os
from pathlib import Path

import msgspec
import pytest

from headrace.messages import TurnOutcome
from headrace.sdk import App, Context, _turn, step_info
from support.journal_owner import JournalOwner
from support.turns import Worker

WITHIN_S = 20.0
app = App("stopping")
begun, go = asyncio.Event(), asyncio.Event()
done: list[str] = []


@pytest.fixture(autouse=True)
def _clean():
    global begun, go
    begun, go = asyncio.Event(), asyncio.Event()
    done.clear()


@app.step
async def tidy() -> None:
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        done.append("tidy")


@app.step
async def deaf() -> None:
    begun.set()
    while not go.is_set():
        with contextlib.suppress(asyncio.CancelledError):
            await go.wait()
    done.append("deaf")


def spin() -> None:
    step_info().heartbeat(os.getpid())
    while True:
        pass


forever = app.step(name="forever", kind="process")(spin)


async def cancelled(step, when=begun):
    """Run a function with *step*, cancel it in the middle; return its owner."""

    @App("stopping").workflow(name="flow")
    async def flow(ctx: Context) -> None:
        await ctx.step(step)

    owner = JournalOwner()
    worker = Worker(flow, owner)
    turn = asyncio.create_task(worker.turn())
    if step is forever:
        while not owner.reports:
            await asyncio.sleep(0.01)
    else:
        await begun.wait()
    owner.cancel()
    worker.run.wake()
    await turn
    return owner


async def test_a_step_cleans_up_before_the_run_is_cancelled():
    async with asyncio.timeout(WITHIN_S):
        owner = await cancelled(tidy)
    assert owner.end.outcome == TurnOutcome.CANCELLED
    assert done == ["tidy"]


async def test_a_step_that_does_not_let_go_is_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(_turn, "STOP_S", 0.05)
    async with asyncio.timeout(WITHIN_S):
        with caplog.at_level(logging.WARNING):
            owner = await cancelled(deaf)
        assert owner.end.outcome == TurnOutcome.CANCELLED
        assert "goes on after it was cancelled" in caplog.text
        (left,) = _turn._abandoned
        assert (left.get_name(), done) == ("step deaf#1", [])
        reports = len(owner.reports)
        go.set()
        await asyncio.wait([left])
    assert done == ["deaf"]
    assert len(owner.reports) == reports
    assert not _turn._abandoned


async def test_the_process_of_a_step_is_killed_and_nothing_is_left_of_it():
    async with asyncio.timeout(WITHIN_S):
        owner = await cancelled(forever)
        assert owner.end.outcome == TurnOutcome.CANCELLED
        pid = msgspec.msgpack.decode(owner.journal["forever#1"].details)
        while Path(f"/proc/{pid}").exists():
            await asyncio.sleep(0.01)
