"""Long answers are made in pieces, beside everything else, from the run as it was when asked."""

import asyncio

import msgspec
import pytest

from headrace.coordinator.core import pieces
from headrace.coordinator.runtime import answers as answers_module
from headrace.coordinator.runtime import slices as slices_module
from headrace.coordinator.runtime.slices import Slices
from headrace.errors import Unavailable
from headrace.messages import GetEvidence, GetHistory, GetRun, HistoryEntry, RunView
from support.broker import eventually
from support.ownerkit import ask, get, report, store, submission, submit
from support.plans import loop, plan, task

WIDTH = 60


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 5)
    monkeypatch.setattr(pieces, "UNIT_BYTES", 1_000_000)
    monkeypatch.setattr(answers_module, "PIECE", 5)
    monkeypatch.setattr(answers_module, "SHORT_BYTES", 500)
    monkeypatch.setattr(slices_module, "PAUSE_S", 0.0)


def view_of(reply):
    assert not reply.code, reply
    return msgspec.msgpack.decode(reply.result, type=RunView)


async def start(kit, owner):
    """A run whose steps are all with workers."""
    await submit(owner, plan(loop("each", task("do"), items=list(range(WIDTH)))))
    await eventually(lambda: len(kit.dispatch.sent) == WIDTH)


async def turns(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_other_requests_are_answered_while_a_long_answer_is_made(kit):
    slices = Slices()
    async with kit.leading(slices=slices) as owner:
        await start(kit, owner)
        one = await store(owner, plan(task("a")))
        began = slices.made
        async with slices._turn:
            long = ask(owner, GetRun(run="r", steps=True))
            short = ask(owner, submission(owner, one, "other"))
            assert view_of(await short.reply()).id == "other"
            assert long.answer is None
        view = view_of(await long.reply())
        assert len(view.steps) == WIDTH + 1
        assert slices.made - began >= WIDTH // 5


async def test_of_all_long_answers_one_piece_is_made_at_a_time(kit):
    slices = Slices()
    async with kit.leading(slices=slices) as owner:
        await start(kit, owner)
        asked = [ask(owner, GetRun(run="r", steps=True)) for _ in range(3)]
        await eventually(lambda: slices.made)
        while not all(one.answer for one in asked):
            before = slices.made
            await asyncio.sleep(0)
            assert slices.made <= before + 1
        assert len({bytes(one.answer[0].result) for one in asked}) == 1


async def test_a_long_answer_shows_the_run_as_it_was_when_asked(kit):
    slices = Slices()
    async with kit.leading(slices=slices) as owner:
        await start(kit, owner)
        async with slices._turn:
            long = ask(owner, GetRun(run="r", steps=True))
            await eventually(lambda: owner._answers._making)
            # Decided behind it, and in the log before the answer is made.
            await report(owner, *kit.dispatch.sent[1:]).reply()
        before = view_of(await long.reply())
        assert {step.state for step in before.steps if step.kind == "task"} == {"DISPATCHED"}
        after = await get(owner, "r", steps=True)
        assert {s.state for s in after.steps if s.kind == "task"} == {"COMPLETED", "DISPATCHED"}
        assert after.events > before.events


async def test_the_end_of_a_long_run_is_told_with_all_its_steps(kit):
    async with kit.leading() as owner:
        await start(kit, owner)
        waits = ask(owner, GetRun(run="r", wait_ms=60_000, steps=True))
        await turns(5)
        await report(owner, *kit.dispatch.sent).reply()
        view = view_of(await waits.reply())
        assert (view.state, len(view.steps)) == ("COMPLETED", WIDTH + 1)


async def test_histories_and_pasts_are_told_behind_the_ticks(kit):
    slices = Slices()
    async with kit.leading(slices=slices) as owner:
        await start(kit, owner)
        run = owner.machine.state.runs["default/r"]
        told = await ask(owner, GetHistory(run="r")).reply()
        entries = msgspec.msgpack.decode(told.result, type=list[HistoryEntry])
        assert [entry.number for entry in entries] == list(range(1, run.events + 1))
        made = slices.made
        assert made >= run.events // 5
        past = view_of(await ask(owner, GetRun(run="r", at_event=run.events, steps=True)).reply())
        assert (past.events, len(past.steps)) == (run.events, WIDTH + 1)
        assert slices.made > made + WIDTH // 5
        refused = await ask(owner, GetRun(run="r", at_event=10_000)).reply()
        assert (refused.code, "no event 10000" in refused.message) == ("invalid-request", True)


async def test_more_long_answers_than_there_may_be_are_busy(kit, monkeypatch):
    monkeypatch.setattr(answers_module, "LONG_MAX", 2)
    async with kit.leading() as owner:
        await start(kit, owner)
        asked = [ask(owner, GetRun(run="r", steps=True)) for _ in range(4)]
        codes = sorted([(await one.reply()).code for one in asked])
        assert codes == ["", "", "busy", "busy"]
        assert not (await ask(owner, GetRun(run="r", steps=True)).reply()).code


async def test_who_waits_for_a_long_answer_is_told_of_the_owners_end(kit):
    slices = Slices()
    async with slices._turn, kit.leading(slices=slices) as owner:
        await start(kit, owner)
        long = ask(owner, GetRun(run="r", steps=True))
        await eventually(lambda: owner._answers._making)
    assert (await long.reply()).code == "not-owner"
    await eventually(lambda: not owner._answers._making)


async def test_what_cannot_be_told_is_one_refusal(kit, monkeypatch):
    async with kit.leading() as owner:
        await start(kit, owner)

        async def broken(*_):
            raise Unavailable("the archive is away")

        monkeypatch.setattr(owner._archiver, "evidence", broken)
        reply = await ask(owner, GetEvidence(run="r")).reply()
        assert (reply.code, reply.message) == ("unavailable", "the archive is away")

        async def wrong(*_):
            raise ValueError("odd bytes")

        monkeypatch.setattr(owner._archiver, "evidence", wrong)
        reply = await ask(owner, GetEvidence(run="r")).reply()
        assert (reply.code, "odd bytes" in reply.message) == ("unavailable", True)
        assert (await get(owner, "r")).state == "RUNNING"
