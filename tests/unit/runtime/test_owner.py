"""The owner: what leaves it, and when; failing appends; takeovers; a full log; those who wait."""

from __future__ import annotations

import asyncio

import pytest

from headrace.coordinator.core import BrokenLog, Limits, Loss, OutMessage, state_hash
from headrace.coordinator.runtime import answers, room
from headrace.coordinator.runtime import owner as owner_module
from headrace.coordinator.runtime.room import Room
from headrace.coordinator.shardlog import Fenced, LogFull, MemoryLog
from headrace.coordinator.shardlog.log import LogStatus
from headrace.errors import Unavailable, Unreachable
from headrace.messages import (
    CancelRun,
    Claim,
    ClaimReply,
    GetHistory,
    GetRun,
    ListRuns,
    decode,
)
from support.broker import eventually
from support.ownerkit import (
    Kit,
    ask,
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


@pytest.fixture
def kit():
    return Kit()


def cancel(owner, run="r"):
    now_ms = owner._clock.now_ms()
    return CancelRun(run=run, request_id=f"c-{run}-{now_ms}", not_after_ms=now_ms + 60_000)


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
        assert owner.inbox_bytes == 0


async def test_a_tick_takes_a_part_of_a_long_inbox(kit, monkeypatch):
    monkeypatch.setattr(owner_module, "TICK_BYTES_MAX", 1_000)
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        kit.log.gate.clear()
        asked = [ask(owner, submission(owner, digest, f"r{n}"), size=600) for n in range(5)]
        await eventually(lambda: kit.log.waiting)
        assert len(owner.machine.state.runs) == 1
        kit.log.gate.set()
        for one in asked:
            await one.reply()
        assert len(owner.machine.state.runs) == 5
        assert owner.inbox_bytes == 0


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


# -- a full log -------------------------------------------------------------------------------


def status(used, most=1_000):
    return LogStatus(
        level="journal", first=1, last=9, entries=9, bytes=used, bytes_max=most, synced=True
    )


def test_room_by_its_figures():
    found = Room()
    assert found.to_measure(0)
    found.measured(status(700), 5)
    assert (found.nearly_full, found.full, found.to_measure(10_000)) == (False, False, False)
    found.appended(101 - room.ENTRY_OVERHEAD_BYTES)
    assert (found.nearly_full, found.full) == (True, False)
    assert found.to_measure(2_000)
    assert found.to_snapshot(10_000)
    assert not found.to_snapshot(10_000 + room.SNAPSHOT_MS - 1)
    assert found.to_snapshot(10_000 + room.SNAPSHOT_MS)
    found.measured(status(950), 20_000)
    assert found.full
    found.measured(status(100), 30_000)
    assert not found.nearly_full


def test_room_without_a_known_limit():
    found = Room()
    found.measured(status(10**12, 0), 5)
    assert not found.nearly_full
    found.refused()
    assert (found.nearly_full, found.full) == (True, True)
    found.appended(1)
    assert not found.nearly_full


async def fill(kit, owner, digest, share):
    """Submit until the log is as full as that."""
    for number in range(2_000):
        if kit.store.bytes > kit.store.bytes_max * share:
            return
        await ask(owner, submission(owner, digest, f"f{number}")).reply()
    raise AssertionError("it does not fill")


@pytest.fixture
def small(kit, monkeypatch):
    """A log of 100 KB; figures of plain bytes."""
    monkeypatch.setattr(room, "ENTRY_OVERHEAD_BYTES", 0)
    monkeypatch.setattr(room, "SNAPSHOT_MS", 100)
    kit.store.bytes_max = 100_000
    kit.every_touches = 1_000_000
    return kit


async def test_submits_are_refused_early_and_everything_else_goes_on(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await eventually(lambda: owner._room.bytes_max, within_s=2)
        # No snapshot makes room for now.
        owner._keeper.room._snapshot_ms = owner._clock.now_ms() + 3_600_000
        await fill(small, owner, digest, 0.8)
        refused = await ask(owner, submission(owner, digest, "one-too-many")).reply()
        assert (refused.code, refused.retry_after_ms > 0) == ("unavailable", True)
        assert (await get(owner, "f0")).state == "RUNNING"
        assert (await report(owner, small.dispatch.sent[0]).reply()).refused == []


async def test_a_log_that_gets_full_is_made_smaller_and_goes_on(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await eventually(lambda: owner._room.bytes_max, within_s=2)
        await fill(small, owner, digest, 0.8)
        # Two snapshots later there is room: they are taken because of the log's size alone.
        await eventually(lambda: small.store.bytes < 50_000, within_s=10)
        await eventually(lambda: not owner._room.nearly_full, within_s=5)
        assert view(await ask(owner, submission(owner, digest, "again")).reply()).id == "again"
    async with small.leading() as owner:
        assert (await get(owner, "again")).state == "RUNNING"


async def test_a_full_log_answers_questions_and_recovers(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await eventually(lambda: owner._room.bytes_max, within_s=2)
        await fill(small, owner, digest, 0.75)
        sent = list(small.dispatch.sent)
        # The store itself says no, whatever the figures say.
        small.log.faults += [LogFull("no space left")]
        results = report(owner, sent[0])
        turned_away = await results.reply()
        assert turned_away.retry_after_ms > 0
        await eventually(lambda: len(small.dispatch.adopted) == 2)
        if owner._room.full:
            refused = await ask(owner, cancel(owner, "f1"), GetRun(run="f1")).replies()
            assert [reply.code for reply in refused] == ["unavailable", ""]
            listed = await ask(owner, ListRuns(limit=5), GetHistory(run="f1")).replies()
            assert [reply.code for reply in listed] == ["", ""]
        # A snapshot's registration goes through, and everything goes on.
        await eventually(lambda: not owner._room.full, within_s=5)
        assert (await report(owner, sent[0]).reply()).refused == []
        assert view(await ask(owner, cancel(owner, "f1")).reply()).id == "f1"


async def test_an_owner_of_a_full_log_does_not_spin(small):
    async with small.leading() as owner:
        digest = await store(owner, ONE)
        await submit(owner, plan(task("a", schedule_timeout_ms=1)), "timed")
        small.log.faults += [LogFull("no space left")] * 3
        asked = ask(owner, submission(owner, digest, "x"))
        assert (await asked.reply()).code == "unavailable"
        await eventually(lambda: not owner._room.full, within_s=5)
        # Each failed append costs one rebuild, and the tries are a while apart.
        assert 2 <= len(small.dispatch.adopted) <= 5


# -- snapshots --------------------------------------------------------------------------------


async def test_snapshots_are_taken_and_the_log_is_purged_to_the_older_one(kit):
    kit.every_touches = 3
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        for number in range(12):
            await ask(owner, submission(owner, digest, f"r{number}")).reply()
            if number % 3 == 2:
                count = len(owner.machine.state.snapshots)
                kept = [name for _, name, _ in owner.machine.state.snapshots]
                await eventually(
                    lambda kept=kept, count=count: (
                        count < len(owner.machine.state.snapshots)
                        or kept != [name for _, name, _ in owner.machine.state.snapshots]
                    ),
                    within_s=3,
                )
        older = owner.machine.state.snapshots[0][0]
        await eventually(lambda: kit.store.positions[0] > older, within_s=3)
        assert len(await kit.snapshot_store.names(0)) == 2
        wanted = state_hash(owner.machine.state)
    async with kit.leading() as owner:
        assert state_hash(owner.machine.state) == wanted


async def test_the_log_is_not_purged_before_the_registration_is_logged(kit):
    kit.every_touches = 2
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        for number in range(4):
            await ask(owner, submission(owner, digest, f"a{number}")).reply()
            if number % 2:
                want = (number + 1) // 2
                await eventually(
                    lambda want=want: len(owner.machine.state.snapshots) == want, within_s=3
                )
        await eventually(lambda: kit.store.positions[0] > 1, within_s=3)
        first = kit.store.positions[0]
        names = set(await kit.snapshot_store.names(0))
        for number in range(2):
            await ask(owner, submission(owner, digest, f"b{number}")).reply()
        kit.log.gate.clear()
        await eventually(lambda: kit.log.waiting, within_s=3)
        await asyncio.sleep(0.3)
        # The third one is stored and read back, but the log does not know it yet.
        assert len(await kit.snapshot_store.names(0)) == 3
        assert names < set(await kit.snapshot_store.names(0))
        assert kit.store.positions[0] == first
        kit.log.gate.set()
        await eventually(lambda: kit.store.positions[0] > first, within_s=3)


async def test_a_store_that_is_away_stops_nothing_else(kit):
    class Slow:
        def __init__(self):
            self.asked = asyncio.Event()

        async def names(self, shard):
            return []

        async def put(self, shard, position, data):
            self.asked.set()
            await asyncio.Event().wait()

    kit.snapshot_store = Slow()
    kit.every_touches = 1
    async with kit.leading() as owner:
        await submit(owner, ONE)
        async with asyncio.timeout(3):
            await kit.snapshot_store.asked.wait()
        # Leases are judged and waiters answered all the same.
        kit.dispatch.losses.append(Loss("default/r", 1, 1, "w.1", "lost"))
        await eventually(lambda: len(kit.dispatch.sent) == 2, within_s=2)
        assert view(await ask(owner, GetRun(run="r", wait_ms=1)).reply(within_s=2)).id == "r"


async def test_limits_are_the_machines(kit):
    async with kit.leading(limits=Limits(runs=1)) as owner:
        await submit(owner, ONE)
        digest = await store(owner, ONE)
        assert (await ask(owner, submission(owner, digest, "two")).reply()).code == "busy"
