"""Heartbeats that are recorded: what an attempt after a loss knows of the one before."""

import asyncio

import msgspec
import pytest

from headrace.errors import InvalidRequest
from headrace.messages import EntryState, StepBeat
from headrace.sdk import App, Context, EffectUnknown, Retry, step_info
from support.journal_owner import JournalOwner
from support.machine_owner import MachineOwner
from support.turns import Worker, run_to_end

OWNERS = pytest.mark.parametrize("kind", [JournalOwner, MachineOwner])
WITHIN_S = 10.0


def said(owner):
    changes = [change for report in owner.reports for change in report]
    return [msgspec.msgpack.decode(c.details) for c in changes if isinstance(c, StepBeat)]


def value(owner):
    assert owner.end is not None
    return msgspec.msgpack.decode(owner.end.value)


async def lost_turn(workflow, owner, recorded):
    """Take a turn, and lose it once *recorded* heartbeats are in the journal."""
    worker = Worker(workflow, owner)
    told = asyncio.Event()
    turn = asyncio.create_task(worker.turn())
    while len(said(owner)) < recorded:
        await asyncio.sleep(0)
    told.set()
    owner.lose()
    turn.cancel()
    await asyncio.wait([turn])


@OWNERS
@pytest.mark.parametrize("how", ["async", "thread"])
async def test_the_attempt_after_a_loss_is_told_how_far_the_lost_one_was(kind, how):
    app, seen = App("beats"), []
    rest = asyncio.Event()

    @app.step(name="copy")
    async def copy() -> int:
        seen.append((step_info().attempt, step_info().last_details(int)))
        step_info().heartbeat(7)
        if len(seen) == 1:
            await rest.wait()
        return 1

    @app.step(name="copy-in-thread")
    def copy_in_thread() -> int:
        info = step_info()
        seen.append((info.attempt, info.last_details(int)))
        info.heartbeat(7)
        while len(seen) == 1 and not info.cancelled:
            pass
        return 1

    @app.workflow
    async def flow(ctx: Context) -> int:
        return await ctx.step(copy if how == "async" else copy_in_thread)

    owner = kind()
    await asyncio.wait_for(lost_turn(flow, owner, 1), WITHIN_S)
    await run_to_end(flow, owner)
    assert value(owner) == 1
    # The lost one was no failure: the attempt is the same one.
    assert seen == [(1, None), (1, 7)]


@OWNERS
async def test_a_claimed_effect_stays_unknown_however_far_it_was(kind):
    app = App("beats")

    @app.step(effect="at-most-once")
    async def pay() -> None:
        step_info().heartbeat("paying")
        await asyncio.Event().wait()

    @app.workflow
    async def flow(ctx: Context) -> str:
        try:
            await ctx.step(pay)
        except EffectUnknown:
            return "unknown"
        return "paid"

    owner = kind()
    await asyncio.wait_for(lost_turn(flow, owner, 1), WITHIN_S)
    await run_to_end(flow, owner)
    assert value(owner) == "unknown"


async def test_of_many_heartbeats_few_are_recorded_and_the_last_goes_with_a_failure():
    app, seen = App("beats"), []

    @app.step(retry=Retry(3, initial=1))
    async def busy() -> str:
        info = step_info()
        seen.append(info.last_details())
        if info.attempt == 2:
            raise OSError("it could not even begin")
        if info.attempt == 3:
            return "done"
        for n in range(2_000):
            info.heartbeat({"n": n})
            await asyncio.sleep(0)
        raise OSError("in the middle")

    @app.workflow
    async def flow(ctx: Context) -> str:
        return await ctx.step(busy)

    owner = await run_to_end(flow, JournalOwner())
    assert value(owner) == "done"
    # An attempt that has said nothing has undone nothing.
    assert seen == [None, {"n": 1_999}, {"n": 1_999}]
    assert 1 <= len(said(owner)) <= 20, "one a second, on however slow a machine"


async def test_what_cannot_be_recorded_is_refused_where_it_is_said():
    app = App("beats")

    @app.step
    async def odd() -> str:
        try:
            step_info().heartbeat(object())
        except InvalidRequest as error:
            return str(error)
        return ""

    @app.workflow
    async def flow(ctx: Context) -> str:
        return await ctx.step(odd)

    owner = await run_to_end(flow, JournalOwner())
    assert "cannot be kept in a journal" in value(owner)
    assert said(owner) == []


async def test_a_step_that_is_not_wanted_any_more_leaves_nothing_open():
    app = App("beats")

    @app.step
    async def slow() -> None:
        step_info().heartbeat(1)
        await asyncio.Event().wait()

    @app.step
    async def quick(owner_has_beats: object) -> str:
        while not said(owner):
            await asyncio.sleep(0)
        return "quick"

    @app.workflow
    async def flow(ctx: Context) -> list[object]:
        found: list[object] = await ctx.parallel([ctx.step(slow), ctx.step(quick, 1)], join="any")
        await ctx.sleep(5)
        return found

    owner = JournalOwner()
    await asyncio.wait_for(run_to_end(flow, owner), WITHIN_S)
    assert value(owner) == ["quick"]
    assert owner.journal["slow#1"].state == EntryState.CANCELLED
