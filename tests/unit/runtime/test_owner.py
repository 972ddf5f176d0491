"""The owner: what leaves it, and when; failing appends; takeovers; those who wait."""

from __future__ import annotations

import asyncio

import pytest

from headrace.coordinator.core import BrokenLog, Limits, Loss, OutMessage, state_hash
from headrace.coordinator.runtime import answers, inbox
from headrace.coordinator.runtime import owner as owner_module
from headrace.coordinator.shardlog import Fenced, MemoryLog
from headrace.errors import Unavailable, Unreachable
from headrace.messages import (
    Claim,
    ClaimReply,
    GetRun,
    decode,
)
from support.broker import eventually
from support.ownerkit import (
    ask,
    cancel,
    get,
    report,
    settled,
    store,
    submission,
    submit,
    view,
)
from support.plans import chain, key, plan, task

ONE = plan(task("a"))


# -- nothing leaves before the append ---------------------------------------------------------


async def test_a_run_goes_its_way(kit):
    async with kit.leading() as owner:
        await submit(owner, chain(2))
        for _ in range(2):
            sent = kit.dispatch.sent.pop()
            assert (await report(owner, sent).reply()).refused == []
        await eventually(lambda: not owner.machine.state.runs)
    assert kit.dispatch.reserved == [1, 1]
    assert (await kit.archive.get("default", "r")).state == "COMPLETED"


async def test_nothing_leaves_before_the_append(kit):
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        kit.log.gate.clear()
        asked = ask(owner, submission(owner, digest), GetRun(run="r"))
        await eventually(lambda: kit.log.waiting)
        # The state knows the run; nobody else may.
        assert "default/r" in owner.machine.state.runs
        late = ask(owner, GetRun(run="r"))
        wait = ask(owner, GetRun(run="nobody"))
        # (housekeeping goes round meanwhile)
        await asyncio.sleep(owner_module.HOUSEKEEPING_S * 1.5)
        assert (asked.answer, late.answer, wait.answer) == (None, None, None)
        assert kit.dispatch.sent == []
        kit.log.gate.set()
        assert [view(reply).id for reply in await asked.replies()] == ["r", "r"]
        assert view(await late.reply()).id == "r"
        assert [task.path for task in kit.dispatch.sent] == ["a"]


async def test_a_result_is_confirmed_once_it_is_logged(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
        kit.log.gate.clear()
        reported = report(owner, kit.dispatch.sent[0])
        await eventually(lambda: kit.log.waiting)
        assert reported.answer is None
        kit.log.gate.set()
        assert (await reported.reply()).refused == []


async def test_a_waiter_whose_time_is_over_hears_nothing_that_is_not_logged(kit):
    async with kit.leading() as owner:
        await submit(owner, chain(2))
        waiting = ask(owner, GetRun(run="r", wait_ms=1, steps=True))
        kit.log.gate.clear()
        report(owner, kit.dispatch.sent[0])
        await eventually(lambda: kit.log.waiting)
        await asyncio.sleep(owner_module.HOUSEKEEPING_S * 1.5)
        before = waiting.answer
        if before is not None:
            # It was answered before the result came.
            assert view(before[0]).steps[0].state != "COMPLETED"
        kit.log.gate.set()
        assert view(await waiting.reply()).id == "r"


async def test_a_fenced_owner_is_silent_about_the_tick_in_flight(kit):
    owner = kit.owner()
    running = asyncio.create_task(owner.run())
    await settled(owner, running)
    digest = await store(owner, ONE)
    kit.log.gate.clear()
    asked = ask(owner, submission(owner, digest))
    await eventually(lambda: kit.log.waiting)
    never_looked_at = ask(owner, GetRun(run="r"))
    kit.log.faults.append(Fenced(0, epoch=9, owner="other"))
    kit.log.gate.set()
    with pytest.raises(Fenced):
        await running
    assert asked.answer is None
    assert (await never_looked_at.reply()).code == "not-owner"
    # Whoever comes too late is not left waiting.
    assert (await ask(owner, GetRun(run="r")).reply()).code == "not-owner"
    late = report(owner, *kit.dispatch.sent)
    assert (await late.reply()).retry_after_ms > 0
    assert kit.dispatch.sent == []


# -- failing appends --------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
async def test_an_unknown_outcome_is_resolved(kit, stored):
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        kit.log.stored_all_the_same = stored
        kit.log.faults += [Unreachable("no answer")]
        epoch = kit.log.epoch
        assert view(await ask(owner, submission(owner, digest)).reply()).id == "r"
        await eventually(lambda: kit.dispatch.sent)
        assert kit.log.epoch > epoch
        # What goes out bears the new epoch: workers may have heard of one in between.
        assert kit.dispatch.epochs == [kit.log.epoch]
        assert len(kit.dispatch.adopted) == 1
        assert state_hash(owner.machine.state) == state_hash(kit.folded())


async def test_a_foreign_entry_in_between_rebuilds_the_state(kit):
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        kit.log.gate.clear()
        asked = ask(owner, submission(owner, digest, "mine"))
        await eventually(lambda: kit.log.waiting)
        first = kit.log
        # Another owner takes over, logs something and is gone.
        dispatch, peers = kit.dispatch, kit.peers
        async with kit.leading(MemoryLog(0, kit.store)) as other:
            await submit(other, ONE, "theirs")
        kit.log, kit.dispatch, kit.peers = first, dispatch, peers
        first.faults += [Unreachable("no answer")]
        first.gate.set()
        await eventually(lambda: len(kit.dispatch.adopted) == 2)
        assert asked.answer is None
        assert (await get(owner, "theirs")).id == "theirs"
        assert (await ask(owner, GetRun(run="mine")).reply()).code == "not-found"
        assert kit.dispatch.adopted[1][1] == [("default/theirs", 1, 1, "")]


async def test_a_broken_log_ends_the_owner(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
    del kit.store.positions[0], kit.store.payloads[0]
    owner = kit.owner()
    with pytest.raises(BrokenLog):
        await owner.run()
    assert owner.machine is None


async def test_a_crash_in_a_tick_ends_the_owner(kit):
    owner = kit.owner()
    running = asyncio.create_task(owner.run())
    await settled(owner, running)

    def bug(machine):
        raise RuntimeError("a bug")

    owner.post(bug)
    with pytest.raises(RuntimeError, match="a bug"):
        await running


# -- takeover ---------------------------------------------------------------------------------


async def test_a_new_owner_goes_on(kit):
    async with kit.leading() as owner:
        await submit(owner, chain(2))
    async with kit.leading() as owner:
        assert kit.dispatch.adopted == [(kit.log.epoch, [("default/r", 1, 1, "")])]
        assert kit.dispatch.sent == []
        kit.dispatch.losses.append(Loss("default/r", 1, 1, "w.1", "lost"))
        await eventually(lambda: kit.dispatch.sent)
        (again,) = kit.dispatch.sent
        assert (again.attempt, again.path) == (2, "t0")


async def test_orders_of_an_idle_shard_are_given_again_by_the_new_owner(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
        await ask(owner, cancel(owner)).reply()
        await eventually(lambda: kit.dispatch.orders)
    async with kit.leading():
        await eventually(lambda: kit.dispatch.orders)
        (order,) = kit.dispatch.orders
        assert (order.cancel.run, order.cancel.step) == ("default/r", 1)


async def test_runs_that_ended_just_before_are_archived_by_the_new_owner(kit):
    class Never:
        async def put_plan(self, digest, data):
            raise Unavailable("the archive is away")

    real, kit.archive = kit.archive, Never()
    async with kit.leading() as owner:
        await submit(owner, ONE)
        await report(owner, *kit.dispatch.sent).reply()
        assert (await get(owner)).state == "COMPLETED"
    kit.archive = real
    async with kit.leading() as owner:
        await eventually(lambda: not owner.machine.state.runs)
    assert (await real.get("default", "r")).state == "COMPLETED"


async def test_what_comes_before_leading_is_waited_for(kit):
    calls = []

    async def taken():
        calls.append(kit.log.epoch)
        if len(calls) == 1:
            raise Unreachable("purge not answered")

    async with kit.leading(taken=taken) as owner:
        assert owner.leading.is_set()
        assert calls == [kit.log.epoch] * 2
        assert kit.log.epoch > 0


# -- other shards -----------------------------------------------------------------------------


async def test_the_outbox_of_an_idle_shard_is_sent_again_until_it_is_cleared(kit, monkeypatch):
    monkeypatch.setattr(owner_module, "RESEND_OUTBOX_MS", 100)
    kit.home = lambda _key: 7
    async with kit.leading() as owner:
        await submit(owner, plan(task("a"), concurrency=key("deploy")))
        await eventually(lambda: len(kit.peers.sent) >= 3, within_s=3)
        assert {outgoing.message for outgoing, _ in kit.peers.sent} == {
            "acquire:default/deploy:default/r"
        }
        assert kit.peers.sent[0][0].shard == 7
        # Nothing heaps up behind it.
        assert owner.machine.outgoing == []
        outgoing, logged = kit.peers.sent[-1]
        logged(outgoing.message)
        await eventually(lambda: not owner.machine.state.outbox)
        count = len(kit.peers.sent)
        await asyncio.sleep(0.6)
        assert len(kit.peers.sent) == count


async def test_another_shard_is_told_logged_once_it_is(kit):
    answers = []
    async with kit.leading() as owner:
        kit.log.gate.clear()
        message = OutMessage("default/deploy", "acquire", ["deploy", "default/x", 1, 0, 3])
        owner.post_delivery("acquire:deploy:default/x", message, answers.append)
        await eventually(lambda: kit.log.waiting)
        assert answers == []
        kit.log.gate.set()
        await eventually(lambda: answers)
        assert owner.machine.state.keys["deploy"].holders == {"default/x": 3}
        # Sent again, it changes nothing and is confirmed all the same.
        owner.post_delivery("acquire:deploy:default/x", message, answers.append)
        await eventually(lambda: len(answers) == 2)


# -- the inbox --------------------------------------------------------------------------------


async def test_a_full_inbox_is_busy(kit):
    async with kit.leading(inbox_bytes_max=1_000) as owner:
        digest = await store(owner, ONE)
        kit.log.gate.clear()
        first = ask(owner, submission(owner, digest), size=100)
        await eventually(lambda: kit.log.waiting)
        second = ask(owner, GetRun(run="r"), size=900)
        third = ask(owner, GetRun(run="r"), size=200)
        reply = await third.reply()
        assert (reply.code, reply.retry_after_ms > 0) == ("busy", True)
        late = report(owner, *[])
        claims = []
        owner.post_claim(Claim(1, "w", "1", "default/r", 1, 1, 1), claims.append)
        assert late.answer is None
        kit.log.gate.set()
        await first.reply()
        await second.reply()
        await late.reply()
        assert claims == []
        assert owner.figures().inbox_bytes == 0


async def test_a_tick_takes_a_part_of_a_long_inbox(kit, monkeypatch):
    monkeypatch.setattr(inbox, "TICK_BYTES_MAX", 1_000)
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        kit.log.gate.clear()
        asked = [ask(owner, submission(owner, digest, f"r{n}"), size=600) for n in range(5)]
        await eventually(lambda: kit.log.waiting)
        # One in the append, and as many as fill a tick behind it.
        assert len(owner.machine.state.runs) <= 3
        kit.log.gate.set()
        for one in asked:
            await one.reply()
        assert len(owner.machine.state.runs) == 5
        assert owner.figures().inbox_bytes == 0


async def test_claims(kit):
    replies = []
    async with kit.leading() as owner:
        await submit(owner, plan(task("a", effect="at-most-once")))
        (sent,) = kit.dispatch.sent

        def claim(worker):
            owner.post_claim(
                Claim(1, worker, "1", sent.run, sent.step, sent.attempt, sent.token),
                lambda data: replies.append(decode(ClaimReply, data).granted),
            )

        for worker in ("w", "x", "w"):
            claim(worker)
        await eventually(lambda: len(replies) == 3)
        assert replies == [True, False, True]


# -- those who wait ---------------------------------------------------------------------------


async def test_a_waiter_is_answered_at_the_end(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
        waiting = ask(owner, GetRun(run="r", wait_ms=30_000))
        await get(owner)
        assert waiting.answer is None
        report(owner, *kit.dispatch.sent)
        assert view(await waiting.reply()).state == "COMPLETED"
        assert not owner._answers.waiting


async def test_a_waiter_is_answered_when_its_time_is_over(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
        waiting = ask(owner, GetRun(run="r", wait_ms=50))
        assert view(await waiting.reply(within_s=2)).state == "RUNNING"
        assert not owner._answers.waiting


async def test_a_wait_is_bounded(kit, monkeypatch):
    monkeypatch.setattr(answers, "WAIT_MS_MAX", 50)
    async with kit.leading() as owner:
        await submit(owner, ONE)
        waiting = ask(owner, GetRun(run="r", wait_ms=3_600_000))
        assert view(await waiting.reply(within_s=2)).state == "RUNNING"


async def test_waiters_are_refused_at_the_end_of_an_ownership(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
        waiting = ask(owner, GetRun(run="r", wait_ms=30_000))
        await get(owner)
    assert (await waiting.reply()).code == "not-owner"


async def test_one_batch_may_wait_for_several_runs(kit):
    async with kit.leading() as owner:
        for run in ("r1", "r2"):
            await submit(owner, ONE, run)
        waiting = ask(owner, *(GetRun(run=run, wait_ms=30_000) for run in ("r1", "r2")))
        first, second = kit.dispatch.sent
        await report(owner, first).reply()
        assert waiting.answer is None
        report(owner, second)
        assert [view(reply).id for reply in await waiting.replies()] == ["r1", "r2"]


# -- losses -----------------------------------------------------------------------------------


async def test_losses_and_lost_workers_reach_the_machine(kit):
    async with kit.leading() as owner:
        await submit(owner, ONE)
        kit.dispatch.losses.append(Loss("default/r", 1, 1, "w.1", "worker w is lost"))
        await eventually(lambda: len(kit.dispatch.sent) == 2)
        assert [task.attempt for task in kit.dispatch.sent] == [1, 2]
        stale = report(owner, kit.dispatch.sent[0])
        assert (await stale.reply()).refused == [0]
        assert (await report(owner, kit.dispatch.sent[1]).reply()).refused == []


async def test_no_credit_no_dispatch_until_there_is_some(kit):
    async with kit.leading() as owner:
        kit.dispatch.credits = 0
        await submit(owner, ONE)
        assert kit.dispatch.sent == []
        kit.dispatch.credits = 1
        # The housekeeping asks again by itself.
        await eventually(lambda: kit.dispatch.sent, within_s=2)


async def test_a_view_says_why_nothing_of_the_run_is_with_a_worker(kit):
    async with kit.leading() as owner:
        kit.dispatch.credits = 0
        await submit(owner, ONE)
        waits = view(await ask(owner, GetRun(run="r", steps=True)).reply())
        assert (waits.state, waits.reason) == (
            "RUNNING",
            "a: no worker is connected in namespace default",
        )
        kit.dispatch.credits = 1
        await eventually(lambda: kit.dispatch.sent, within_s=2)
        works = view(await ask(owner, GetRun(run="r", steps=True)).reply())
        assert (works.state, works.reason) == ("RUNNING", "")


# -- limits ----------------------------------------------------------------------------------


async def test_limits_are_the_machines(kit):
    async with kit.leading(limits=Limits(runs=1)) as owner:
        await submit(owner, ONE)
        digest = await store(owner, ONE)
        assert (await ask(owner, submission(owner, digest, "two")).reply()).code == "busy"
