"""Ticks that are decided while the one before is being appended."""

from __future__ import annotations

import asyncio

from headrace.coordinator.core import state_hash
from headrace.coordinator.shardlog.log import Fenced, LogFull
from headrace.messages import Explanation, GetExplanation, GetRun, decode
from support.broker import eventually
from support.ownerkit import ask, report, settled, store, submission, submit, view
from support.plans import chain


async def in_flight(kit, *requests):
    """Have an append wait that contains *requests*; return what was asked."""
    kit.log.gate.clear()
    asked = ask(kit.owners[-1], *requests)
    await eventually(lambda: kit.log.waiting)
    return asked


async def let_one_through(kit):
    """Let the append that waits end; the next one waits again."""
    stored = kit.store.last
    kit.log.gate.set()
    kit.log.gate.clear()
    await eventually(lambda: kit.store.last > stored)


async def test_what_was_decided_meanwhile_leaves_with_its_own_append(kit):
    async with kit.leading() as owner:
        digest = await store(owner, chain(2))
        first = await in_flight(kit, submission(owner, digest, "a"))
        second = ask(owner, submission(owner, digest, "b"))
        third = ask(owner, GetRun(run="b"))
        await eventually(lambda: "default/b" in owner.machine.state.runs)
        assert not owner.settled
        await let_one_through(kit)
        assert view(await first.reply()).id == "a"
        await eventually(lambda: kit.log.waiting)
        assert (second.answer, third.answer) == (None, None)
        assert {task.run for task in kit.dispatch.sent} == {"default/a"}
        kit.log.gate.set()
        assert view(await second.reply()).id == view(await third.reply()).id == "b"
        await eventually(lambda: owner.settled)
        assert {task.run for task in kit.dispatch.sent} == {"default/a", "default/b"}
        assert state_hash(owner.machine.state) == state_hash(kit.folded())


async def test_what_comes_later_does_not_bear_the_time_of_what_came_before(kit):
    async with kit.leading() as owner:
        digest = await store(owner, chain(2))
        first = await in_flight(kit, submission(owner, digest, "a"))
        second = ask(owner, submission(owner, digest, "b"))
        await eventually(lambda: "default/b" in owner.machine.state.runs)
        decided_ms = owner.machine.state.now_ms
        await eventually(lambda: kit.clock.now_ms() > decided_ms)
        came_ms = kit.clock.now_ms()
        third = ask(owner, submission(owner, digest, "c"))
        await asyncio.sleep(0.02)
        kit.log.gate.set()
        for asked in (first, second):
            await asked.reply()
        assert view(await third.reply()).created_ms >= came_ms > decided_ms


async def test_who_waits_for_an_end_hears_of_it_with_the_append_of_the_end(kit):
    async with kit.leading() as owner:
        await submit(owner, chain(1))
        digest = await store(owner, chain(2))
        first = await in_flight(kit, submission(owner, digest, "other"))
        waiting = ask(owner, GetRun(run="r", wait_ms=5_000))
        report(owner, kit.dispatch.sent[0])
        await eventually(lambda: owner.machine.state.runs["default/r"].finished_ms)
        await let_one_through(kit)
        await first.reply()
        await eventually(lambda: kit.log.waiting)
        assert waiting.answer is None
        kit.log.gate.set()
        assert view(await waiting.reply()).state == "COMPLETED"


async def test_an_answer_that_looks_at_the_state_sees_nothing_of_a_later_tick(kit):
    async with kit.leading() as owner:
        digest = await store(owner, chain(2))
        await submit(owner, chain(2))
        step = kit.dispatch.sent[0]
        asked = await in_flight(
            kit, submission(owner, digest, "other"), GetExplanation(run="r"), GetRun(run="r")
        )
        recorded = report(owner, step)
        await asyncio.sleep(0.02)
        await let_one_through(kit)
        _, explained, seen = await asked.replies()
        waits = decode(Explanation, bytes(explained.result)).reasons
        assert [wait.path for wait in waits] == [step.path]
        assert view(seen).state == "RUNNING"
        await eventually(lambda: kit.log.waiting)
        assert recorded.answer is None
        kit.log.gate.set()
        assert (await recorded.reply()).refused == []


async def test_a_snapshot_asked_for_during_an_append_holds_what_is_logged(kit):
    async with kit.leading() as owner:
        digest = await store(owner, chain(2))
        await in_flight(kit, submission(owner, digest, "a"))
        snapshot = asyncio.create_task(owner.snapshot())
        await asyncio.sleep(0.02)
        later = ask(owner, submission(owner, digest, "b"))
        kit.log.gate.set()
        await later.reply()
        async with asyncio.timeout(30):
            await snapshot
        wanted = state_hash(owner.machine.state)
        assert len(owner.machine.state.snapshots) == 1
    async with kit.leading() as owner:
        assert state_hash(owner.machine.state) == wanted == state_hash(kit.folded())


async def test_nothing_of_a_tick_ahead_of_a_failed_one_is_kept(kit):
    async with kit.leading() as owner:
        digest = await store(owner, chain(2))
        first = await in_flight(kit, submission(owner, digest, "a"))
        second = ask(owner, submission(owner, digest, "b"))
        await eventually(lambda: "default/b" in owner.machine.state.runs)
        kit.log.faults.append(LogFull("no room"))
        kit.log.gate.set()
        assert (await first.reply()).code == "unavailable"
        assert (await second.reply()).code == "busy"
        await eventually(lambda: len(kit.dispatch.adopted) == 2)
        assert (await ask(owner, GetRun(run="b")).reply()).code == "not-found"
        assert kit.dispatch.sent == []


async def test_a_fenced_owner_turns_away_what_it_decided_ahead(kit):
    owner = kit.owner()
    running = asyncio.create_task(owner.run())
    await settled(owner, running)
    await submit(owner, chain(2))
    digest = await store(owner, chain(2))
    first = await in_flight(kit, submission(owner, digest, "a"))
    second = ask(owner, submission(owner, digest, "b"))
    recorded = report(owner, kit.dispatch.sent[0])
    await eventually(lambda: "default/b" in owner.machine.state.runs)
    kit.log.faults.append(Fenced(0, epoch=9, owner="other"))
    kit.log.gate.set()
    await asyncio.wait((running,), timeout=5)
    assert isinstance(running.exception(), Fenced)
    assert first.answer is None
    assert (await second.reply()).code == "not-owner"
    assert (await recorded.reply()).retry_after_ms > 0
