"""Layout, inbox, archiver, closed runs, chosen ids."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.archive.store import Segment
from headrace.coordinator.core import Refusal
from headrace.coordinator.core import entries as core_entries
from headrace.coordinator.runtime import archiver as archiver_module
from headrace.coordinator.runtime import closed as closed_module
from headrace.coordinator.runtime.archiver import pack, unpack
from headrace.coordinator.runtime.closed import Pages, answer
from headrace.coordinator.runtime.explicit import check_explicit, needs_check
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of
from headrace.coordinator.runtime.layout import Layout
from headrace.coordinator.shardlog import MemoryLog, MemoryLogStore
from headrace.errors import Unavailable
from headrace.messages import (
    GetExplanation,
    GetHistory,
    GetPlan,
    GetRun,
    HistoryEntry,
    ListRuns,
    ReplyBatch,
    RunView,
    decode,
    subjects,
)
from support.archives import summary
from support.broker import eventually
from support.ownerkit import BUILTIN, ask, do, get, report, store, submission, submit
from support.plans import chain, loop, plan, task

ONE = plan(task("a"))


def read(result, kind):
    """Return a result as whoever asked gets it."""
    return msgspec.msgpack.decode(reply_of(result).result, type=kind)


# -- layout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("journal", [1, 2, 3, 5, 7, 8, 12, 100, 1_023, 1_024])
def test_slots_levels_and_homes_agree(journal, monkeypatch):
    layout = Layout(journal=journal, snapshot=2, memory=1)
    pairs = layout.slots()
    owners = [
        shard for shard, count in zip(pairs[::2], pairs[1::2], strict=True) for _ in range(count)
    ]
    assert len(owners) == subjects.SLOTS
    assert set(owners) == set(range(journal))
    for slot in range(subjects.SLOTS):
        monkeypatch.setattr(subjects, "slot_of", lambda key, slot=slot: slot)
        assert layout.home("any") == owners[slot]
    assert {layout.level(shard) for shard in owners} == {"journal"}
    assert layout.level_shards() == {"snapshot": [journal, journal + 1], "memory": [journal + 2]}
    for level, shards in layout.level_shards().items():
        assert [layout.level(shard) for shard in shards] == [level] * len(shards)
    assert list(layout.shards) == list(range(journal + 3))


# -- inbox ------------------------------------------------------------------------------------


def test_a_batch_is_answered_once_when_all_is_there():
    sent = []
    batch = PendingBatch("default", [GetRun(run="a"), GetRun(run="b")], sent.append, 10)
    batch.answer(1, reply_of("two"))
    assert sent == []
    batch.answer(0, reply_of("one"))
    batch.answer(0, reply_of("again"))
    batch.refuse(Refusal("busy", "no"))
    (data,) = sent
    replies = decode(ReplyBatch, data).replies
    assert [msgspec.msgpack.decode(reply.result) for reply in replies] == ["one", "two"]


def test_a_refusal_answers_what_is_open():
    sent = []
    batch = PendingBatch("default", [GetRun(run="a"), GetRun(run="b")], sent.append, 10)
    batch.answer(0, reply_of(1))
    batch.refuse(Refusal("busy", "no", 100))
    replies = decode(ReplyBatch, sent[0]).replies
    assert [(reply.code, reply.retry_after_ms) for reply in replies] == [("", 0), ("busy", 100)]


# -- the archive ------------------------------------------------------------------------------


class Flaky(MemoryArchive):
    """Fails as often as told, and for runs that it does not like."""

    def __init__(self):
        super().__init__()
        self.fail, self.poison, self.puts = 0, set(), []

    async def put(self, runs):
        self.puts.append([one.summary.run for one in runs])
        if self.fail:
            self.fail -= 1
            raise Unavailable("disk full")
        if self.poison & set(self.puts[-1]):
            raise Unavailable("this one is too large")
        await super().put(runs)


@pytest.fixture
def flaky(kit, monkeypatch):
    monkeypatch.setattr(archiver_module, "RETRY_S", 0.02)
    kit.archive = Flaky()
    return kit


async def finish(kit, owner, *runs):
    for run in runs:
        await submit(owner, ONE, run)
    await report(owner, *kit.dispatch.sent).reply()
    kit.dispatch.sent.clear()


async def test_nothing_is_evicted_before_the_archive_has_it(flaky):
    flaky.archive.fail = 3
    async with flaky.leading() as owner:
        await finish(flaky, owner, "r")
        await eventually(lambda: len(flaky.archive.puts) == 2)
        assert "default/r" in owner.machine.state.runs
        assert (await get(owner, "r")).state == "COMPLETED"
        await eventually(lambda: not owner.machine.state.runs)
        assert await flaky.archive.get("default", "r") is not None
        # The id is remembered for as long as its submit may be sent again.
        assert "default/r" in owner.machine.state.tombstones


async def test_one_run_that_cannot_be_archived_holds_up_no_other(flaky):
    flaky.archive.poison = {"r1"}
    async with flaky.leading() as owner:
        await finish(flaky, owner, "r0", "r1", "r2", "r3")
        await eventually(lambda: list(owner.machine.state.runs) == ["default/r1"])
        flaky.archive.poison = set()
        await eventually(lambda: not owner.machine.state.runs)


def test_pauses_of_the_archiver_double_up_to_a_limit():
    pauses, last_s = [], 0.0
    for _ in range(6):
        last_s = archiver_module.next_pause_s(last_s)
        pauses.append(last_s)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


async def test_a_crash_before_the_eviction_is_harmless(flaky):
    async with flaky.leading() as owner:
        flaky.archive.fail = 10**9
        await finish(flaky, owner, "r")
        run = owner.machine.state.runs["default/r"]
    # The archive had it, and the eviction was never logged.
    flaky.archive.fail = 0
    await flaky.archive.put([archiver_module.archived(run, 0)])
    async with flaky.leading() as owner:
        await eventually(lambda: not owner.machine.state.runs)
    assert await flaky.archive.get("default", "r") is not None


async def test_long_histories_leave_in_segments(kit, monkeypatch):
    monkeypatch.setattr(core_entries, "LONG_BYTES", 600)
    async with kit.leading() as owner:
        await submit(owner, chain(30))
        for _ in range(29):
            await eventually(lambda: kit.dispatch.sent)
            await report(owner, kit.dispatch.sent.pop()).reply()
        run = owner.machine.state.runs["default/r"]
        await eventually(lambda: run.history_first > 1)
        assert run.history_bytes < 1_200
        reply = await ask(owner, GetHistory(run="r", limit=10_000)).reply()
        entries = msgspec.msgpack.decode(reply.result, type=list[HistoryEntry])
        assert [entry.number for entry in entries] == list(range(1, run.events + 1))
        reply = await ask(owner, GetHistory(run="r", after=run.events - 1, limit=10)).reply()
        (last,) = msgspec.msgpack.decode(reply.result, type=list[HistoryEntry])
        assert last.number == run.events
        await eventually(lambda: kit.dispatch.sent)
        await report(owner, kit.dispatch.sent.pop()).reply()
        await eventually(lambda: not owner.machine.state.runs)
    told = await answer(kit.archive, BUILTIN, "default", GetHistory(run="r", limit=10_000))
    entries = read(told, list[HistoryEntry])
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert entries[-1].type == "RunEnded"
    told = await answer(kit.archive, BUILTIN, "default", GetRun(run="r", steps=True))
    view = read(told, RunView)
    assert len(view.steps) == 30
    assert [step.path for step in view.steps if not step.started_ms] == []


class Counted(MemoryArchive):
    """Counts what is read of histories."""

    read = 0

    async def history(self, namespace, run, **limits):
        found = await super().history(namespace, run, **limits)
        self.read += len(found)
        return found


async def test_a_segment_is_stored_without_reading_those_before_it(kit, monkeypatch):
    monkeypatch.setattr(core_entries, "LONG_BYTES", 200)
    kit.archive = Counted()
    async with kit.leading() as owner:
        await submit(owner, chain(60))
        run, stored = owner.machine.state.runs["default/r"], 0
        for _ in range(59):
            await eventually(lambda: kit.dispatch.sent)
            await report(owner, kit.dispatch.sent.pop()).reply()
        await eventually(lambda: run.history_bytes <= 400)
        stored = len(kit.archive._segments["default", "r"])
        assert stored >= 8
        # Each one is asked for, with the one before it, once or, if that was not told, again.
        assert kit.archive.read <= 3 * stored


async def test_a_page_of_a_long_history_reads_its_part(kit, monkeypatch):
    monkeypatch.setattr(core_entries, "LONG_BYTES", 200)
    kit.archive = Counted()
    async with kit.leading() as owner:
        await submit(owner, chain(60))
        run = owner.machine.state.runs["default/r"]
        for _ in range(59):
            await eventually(lambda: kit.dispatch.sent)
            await report(owner, kit.dispatch.sent.pop()).reply()
        await eventually(lambda: run.history_bytes <= 400)
        stored = len(kit.archive._segments["default", "r"])
        kit.archive.read, numbers = 0, []
        while len(numbers) < run.events:
            after = len(numbers)
            reply = await ask(owner, GetHistory(run="r", after=after, limit=10)).reply()
            page = msgspec.msgpack.decode(reply.result, type=list[HistoryEntry])
            numbers += [entry.number for entry in page]
        assert numbers == list(range(1, run.events + 1))
        pages = -(-run.events // 10)
        # At each end of a page one segment that two pages share.
        assert kit.archive.read <= stored + 2 * pages


async def test_a_segment_that_could_not_be_stored_is_tried_again(kit, monkeypatch):
    monkeypatch.setattr(core_entries, "LONG_BYTES", 150)
    monkeypatch.setattr(archiver_module, "RETRY_S", 0.02)

    class Once(MemoryArchive):
        failed = 0

        async def put_segment(self, namespace, run, segment):
            if not self.failed:
                self.failed += 1
                raise Unavailable("disk full")
            await super().put_segment(namespace, run, segment)

    kit.archive = Once()
    async with kit.leading() as owner:
        await submit(owner, chain(5))
        for _ in range(3):
            await eventually(lambda: kit.dispatch.sent)
            await report(owner, kit.dispatch.sent.pop()).reply()
        # No event comes to the run any more.
        run = owner.machine.state.runs["default/r"]
        await eventually(lambda: run.history_first > 1)
        assert kit.archive.failed == 1


def test_segments_are_their_chunks():
    chunks = [b"", b"a", b"bc" * 1_000]
    assert unpack(pack(chunks)) == chunks
    assert unpack(b"") == []


# -- closed runs ------------------------------------------------------------------------------


async def closed(kit, body, run="r"):
    async with kit.leading() as owner:
        await submit(owner, body, run)
        while owner.machine.state.runs:
            if kit.dispatch.sent:
                await report(owner, kit.dispatch.sent.pop()).reply()
            await asyncio.sleep(0.005)


async def test_questions_about_a_closed_run(kit):
    await closed(kit, plan(loop("each", task("one"), [1, 2, 3])))

    async def found(request):
        return await answer(kit.archive, BUILTIN, "default", request)

    view = read(await found(GetRun(run="r", steps=True)), RunView)
    assert (view.state, view.archived) == ("COMPLETED", True)
    assert len([step for step in view.steps if step.path.startswith("each[")]) == 3
    assert (await found(GetExplanation(run="r"))).summary
    assert isinstance(await found(GetPlan(run="r")), bytes)
    assert [run.id for run in (await found(ListRuns())).runs] == ["r"]
    for request in (GetRun(run="x"), GetHistory(run="x"), GetPlan(run="x")):
        assert (await found(request)).code == "not-found"
    assert (await found(submission_of("x"))).code == "invalid-request"


async def test_the_pages_of_a_closed_run_fold_it_once(kit, monkeypatch):
    monkeypatch.setattr(core_entries, "LONG_BYTES", 300)
    kit.archive = Counted()
    await closed(kit, chain(40))
    whole = len(kit.archive._segments["default", "r"])
    assert whole >= 4
    folds, pages, kit.archive.read = [], Pages(), 0
    fold = closed_module.refolding
    monkeypatch.setattr(
        closed_module, "refolding", lambda *given: folds.append(given) or fold(*given)
    )
    ended = await kit.archive.get("default", "r")
    numbers = []
    while True:
        request = GetHistory(run="r", after=len(numbers), limit=20)
        told = await answer(kit.archive, BUILTIN, "default", request, pages=pages)
        if not (page := read(told, list[HistoryEntry])):
            break
        numbers += [entry.number for entry in page]
    assert numbers == list(range(1, ended.events + 1))
    assert len(folds) == 1
    assert kit.archive.read <= 2 * whole + 2 * (-(-ended.events // 20))
    assert not pages._held, "the last page was read"


async def test_few_runs_are_held_for_their_next_pages(kit, monkeypatch):
    pages = Pages()
    summaries = [summary(name) for name in ("a", "b", "c")]
    for number, found in enumerate(summaries):
        pages.hold(found, number)
    assert [pages.take(found) for found in summaries] == [None, 1, 2], "the oldest has gone"
    assert pages.take(summaries[1]) is None
    pages.hold(summaries[0], 0)
    assert pages.take(msgspec.structs.replace(summaries[0], finished_ms=9)) is None, "another run"
    monkeypatch.setattr(closed_module, "HELD_S", 0.0)
    pages.hold(summaries[0], 0)
    await eventually(lambda: not pages._held)


def submission_of(run):
    from headrace.messages import SubmitRun

    return SubmitRun(run=run, plan="", request_id="q", not_after_ms=1)


async def test_a_record_that_cannot_be_read_is_one_refusal(kit):
    await closed(kit, ONE)
    kit.archive._segments["default", "r"] = {1: b"\x05\x00\x00\x00xx"}
    refusal = await answer(kit.archive, BUILTIN, "default", GetRun(run="r"))
    assert isinstance(refusal, Refusal)
    kit.archive._segments["default", "r"] = {}
    refusal = await answer(kit.archive, BUILTIN, "default", GetHistory(run="r"))
    assert isinstance(refusal, Refusal)


# -- chosen ids -------------------------------------------------------------------------------


async def checked(kit, owner, *requests):
    from support.ownerkit import Asked

    asked = Asked(*requests)
    assert needs_check(asked.batch)
    await check_explicit(kit.archive, owner, asked.batch)
    return asked


async def test_a_chosen_id_of_a_closed_run(kit):
    async with kit.leading() as owner:
        digest, other = await store(owner, ONE), await store(owner, chain(2))

        def chosen(digest, run="r"):
            return submission(owner, digest, run, explicit=True)

        await ask(owner, chosen(digest)).reply()
        await report(owner, *kit.dispatch.sent).reply()
        await eventually(lambda: not owner.machine.state.runs)
        # Its submit is forgotten; only the archive knows the id.
        await do(owner, lambda machine: machine.state.tombstones.clear())
        asked = await checked(kit, owner, chosen(digest), chosen(other), chosen(digest, "new"))
        codes = [reply.code if reply else None for reply in asked.batch._replies]
        assert codes == ["archived", "conflict", None]
        assert asked.batch.requests[:2] == [None, None]
        owner.post_requests(asked.batch)
        assert [reply.code for reply in await asked.replies()] == ["archived", "conflict", ""]
        assert not needs_check(PendingBatch("default", [submission(owner, digest)], print, 1))


async def test_an_archive_that_is_away_refuses_a_chosen_id(kit):
    async with kit.leading() as owner:
        digest = await store(owner, ONE)
        await kit.archive.close()
        asked = await checked(kit, owner, submission(owner, digest, explicit=True))
        assert (await asked.reply()).code == "unavailable"
        assert owner.machine.state.runs == {}


async def test_without_a_state_the_archive_is_asked_all_the_same(kit):
    owner = kit.owner()
    digest = "0" * 32
    await closed(kit, ONE)
    asked = await checked(kit, owner, submission(owner, digest, explicit=True))
    assert (await asked.reply()).code == "conflict"


# -- weak levels ------------------------------------------------------------------------------


async def test_a_log_in_memory_begins_where_it_is_told():
    log = MemoryLog(0, MemoryLogStore(bytes_kept=1_000, last=5_000))
    assert await log.take("o", lambda *_: None) == 5_001
    assert log.append_now(b"x") == 5_002
    assert Segment(1, b"").first == 1
