"""What only the JetStream archive promises: several coordinators, rebuilds, space."""

import asyncio
import random

import pytest

from headrace.bus import ObjectBucket, connect
from headrace.coordinator.archive import ArchivedRun, Segment, index
from headrace.coordinator.archive.jetstream import JetStreamArchive, _delete_message
from headrace.coordinator.archive.records import (
    BUCKET,
    DATA,
    INDEX,
    INDEX_STREAM,
    STREAM,
    Archived,
    Piece,
)
from headrace.errors import Unavailable
from headrace.messages import ListRuns
from support.archives import NS, closed
from support.broker import broker, eventually, shared_broker

__all__ = ["broker", "shared_broker"]

pytestmark = pytest.mark.integration

LATER = 10**15


async def ids(archive):
    return [view.id for view in (await archive.list(NS, ListRuns(limit=1_000))).runs]


async def counts(bus):
    """Messages held in (data stream, index stream)."""
    return tuple(
        [(await bus.js.stream_info(name)).state.messages for name in (STREAM, INDEX_STREAM)]
    )


@pytest.fixture
async def two(archive_bus, shared_broker):
    async with await connect(shared_broker.url, name="second") as other:
        first = await JetStreamArchive.open(archive_bus)
        second = await JetStreamArchive.open(other)
        yield first, second
        await first.close()
        await second.close()


async def reopened(bus, tmp_path):
    return await JetStreamArchive.open(bus, projection_file=tmp_path / "again.db")


async def test_others_see_a_run_within_a_second(two):
    first, second = two
    assert await ids(second) == []
    await first.put([closed("a")])
    assert await ids(first) == ["a"]
    async with asyncio.timeout(20):
        while await second.get(NS, "a") is None:
            await asyncio.sleep(0.01)
    assert await second.history(NS, "a") == [Segment(1, b"a")]


async def test_news_wakes_the_others_without_a_poll(archive_bus, shared_broker, monkeypatch):
    monkeypatch.setattr("headrace.coordinator.archive.follower.POLL_S", 60.0)
    async with await connect(shared_broker.url, name="second") as other:
        first = await JetStreamArchive.open(archive_bus)
        second = await JetStreamArchive.open(other)
        try:
            assert await ids(second) == []
            await other.flush()
            await first.put([closed("a")])
            async with asyncio.timeout(30):
                while await second.get(NS, "a") is None:
                    await asyncio.sleep(0.01)
        finally:
            await first.close()
            await second.close()


async def test_two_coordinators_putting_the_same_run_make_one(two):
    first, second = two
    await asyncio.gather(first.put([closed("a", data=b"1")]), second.put([closed("a", data=b"2")]))
    assert await ids(first) == await ids(second) == ["a"]
    assert await first.history(NS, "a") == await second.history(NS, "a")


async def test_a_rebuilt_projection_is_the_same(two, archive_bus, tmp_path):
    first, _ = two
    await first.put_segment(NS, "r3", Segment(1, b"early"))
    for number in range(20):
        one = closed(f"r{number}", created_ms=number, finished_ms=number, data=b"x" * number)
        await first.put([msg_with_first(one, 50) if number == 3 else one])
    assert await first.expire(before_ms=3, limit=100) == 3
    third = await reopened(archive_bus, tmp_path)
    try:
        assert await ids(third) == await ids(first) == [f"r{n}" for n in range(19, 2, -1)]
        assert await third.history(NS, "r3") == [Segment(1, b"early"), Segment(50, b"xxx")]
        assert await third.history(NS, "r1") == []
    finally:
        await third.close()


def msg_with_first(one, first):
    return ArchivedRun(one.summary, [Segment(first, one.segments[0].data)])


async def test_expired_runs_free_their_space_and_stay_away(two, archive_bus, tmp_path):
    first, second = two
    await first.put([closed("a", finished_ms=1)])
    await first.put([closed("b", finished_ms=2)])
    assert await counts(archive_bus) == (2, 2)
    assert await first.expire(before_ms=2, limit=10) == 1
    # What remains: b's bytes and record, and the record that a has expired.
    assert await counts(archive_bus) == (1, 2)
    await eventually_gone(second, "a")
    third = await reopened(archive_bus, tmp_path)
    try:
        assert await ids(third) == ["b"]
    finally:
        await third.close()


async def eventually_gone(archive, run):
    async with asyncio.timeout(20):
        while await archive.get(NS, run) is not None:
            await asyncio.sleep(0.01)


async def test_half_a_group_expires_and_a_rebuild_does_not_bring_it_back(
    two, archive_bus, tmp_path
):
    first, second = two
    # One message of bytes and one record for both.
    await first.put([closed("a", finished_ms=1), closed("b", finished_ms=5)])
    assert await counts(archive_bus) == (1, 1)
    assert await first.expire(before_ms=2, limit=10) == 1
    assert await counts(archive_bus) == (1, 2)
    third = await reopened(archive_bus, tmp_path)
    try:
        assert await ids(third) == ["b"]
        assert await third.history(NS, "b") == [Segment(1, b"b")]
    finally:
        await third.close()
    await eventually_gone(second, "a")
    # Another coordinator goes on where the first has stopped.
    assert await second.expire(before_ms=LATER, limit=10) == 1
    messages, _ = await counts(archive_bus)
    assert messages == 0
    await eventually_gone(first, "b")


async def test_deleting_what_another_has_deleted_is_fine(two):
    first, second = two
    await first.put([closed("a"), closed("b")])
    await first.expire(before_ms=LATER, limit=10)
    await eventually_gone(second, "a")
    # The second's projection still wants to delete the same messages.
    assert await second.expire(before_ms=LATER, limit=10) == 0
    await second.put([closed("c")])
    assert await second.history(NS, "c") == [Segment(1, b"c")]


async def test_deleting_an_absent_message_is_fine_and_other_failures_are_not(archive_bus):
    archive = await JetStreamArchive.open(archive_bus)
    await archive.put([closed("a")])
    stored = await archive_bus.js.get_last(STREAM, DATA)
    for sequence in (stored.seq, stored.seq, stored.seq + 98):
        await _delete_message(archive_bus, STREAM, sequence)
    await archive.close()
    with pytest.raises(Exception, match="stream not found"):
        await _delete_message(archive_bus, "NO_SUCH_STREAM", 1)


async def test_missing_bytes_are_said(archive_bus):
    archive = await JetStreamArchive.open(archive_bus)
    try:
        await archive.put([closed("a")])
        stored = await archive_bus.js.get_last(STREAM, DATA)
        await _delete_message(archive_bus, STREAM, stored.seq)
        with pytest.raises(Unavailable, match="missing"):
            await archive.history(NS, "a")
    finally:
        await archive.close()


async def test_large_segments_are_objects_and_go_with_their_run(archive_bus):
    archive = await JetStreamArchive.open(archive_bus)
    bucket = ObjectBucket(archive_bus, BUCKET)
    try:
        noise = random.Random(3).randbytes(1_500_000)
        await archive.put([closed("big", data=noise), closed("small")])
        assert len(await bucket.names()) == 1
        assert await archive.history(NS, "big") == [Segment(1, noise)]
        # Sent twice by one who did not know: the second object is nobody's, and goes first.
        again = closed("big", data=noise)
        piece = Piece(NS, "big", 1, noise)
        await archive._record(Archived([again.summary], await archive._store([piece])))
        assert len(await bucket.names()) == 2
        await archive.expire(before_ms=0, limit=10)
        assert len(await bucket.names()) == 1
        assert await archive.history(NS, "big") == [Segment(1, noise)]
        await archive.expire(before_ms=LATER, limit=10)
        assert await bucket.names() == []
    finally:
        await archive.close()


@pytest.mark.parametrize(("kept_ms", "left"), [(None, 2), (-60_000, 1)])
async def test_bytes_without_a_record_are_nobodys_and_go_once_old(
    archive_bus, monkeypatch, kept_ms, left
):
    if kept_ms is not None:
        monkeypatch.setattr("headrace.coordinator.archive.jetstream.ORPHANS_KEPT_MS", kept_ms)
    archive = await JetStreamArchive.open(archive_bus)
    try:
        await archive.put([closed("a", finished_ms=1)])
        await archive_bus.js.publish(DATA, b"\x01orphan", timeout_s=5)
        await archive.put([closed("b", finished_ms=2)])
        await archive.put([closed("c", finished_ms=3)])
        assert await archive.expire(before_ms=3, limit=10) == 2
        # A young orphan may be another coordinator's, whose record is about to be written.
        assert (await counts(archive_bus))[0] == left
        assert await ids(archive) == ["c"]
        assert await archive.history(NS, "c") == [Segment(1, b"c")]
    finally:
        await archive.close()


async def test_an_unreadable_record_hides_no_other(archive_bus, caplog):
    archive = await JetStreamArchive.open(archive_bus)
    try:
        await archive.put([closed("a")])
        for payload in (b"", b"\x02newer", b"\x01damaged"):
            await archive_bus.js.publish(INDEX, payload, timeout_s=5)
        await archive.put([closed("b")])
        assert await ids(archive) == ["b", "a"]
        assert caplog.text.count("archive index record is unreadable") == 3
    finally:
        await archive.close()


async def test_a_record_deleted_before_it_was_read_is_not_waited_for(archive_bus):
    archive = await JetStreamArchive.open(archive_bus)
    try:
        await archive.put([closed("a")])
        await ids(archive)
        archive._follower.expect(archive._follower._applied + 77)
        async with asyncio.timeout(20):
            assert await ids(archive) == ["a"]
    finally:
        await archive.close()


async def test_broker_away_and_back(broker):
    async with await connect(broker.url, name="archive") as bus:
        archive = await JetStreamArchive.open(bus)
        try:
            await archive.put([closed("a")])
            await broker.kill()
            with pytest.raises(Unavailable):
                await archive.put([closed("b")])
            await broker.start()
            await eventually(lambda: bus.connected, within_s=10)
            async with asyncio.timeout(30):
                while True:
                    try:
                        await archive.put([closed("b")])
                        break
                    except Unavailable:
                        await asyncio.sleep(0.02)
            assert await ids(archive) == ["b", "a"]
            assert await archive.history(NS, "a") == [Segment(1, b"a")]
        finally:
            await archive.close()


async def test_streams_that_are_gone_after_a_reconnect_are_made_again(broker, caplog):
    async with await connect(broker.url, name="archive") as bus:
        archive = await JetStreamArchive.open(bus)
        try:
            await archive.put_plan("p1", b"plan")
            await archive.put([closed("a")])
            assert await ids(archive) == ["a"]
            for stream in (STREAM, INDEX_STREAM):
                await bus.js.delete_stream(stream)
            await broker.stop()
            await broker.start()
            async with asyncio.timeout(30):
                while True:
                    try:
                        await archive.put([closed("b")])
                        break
                    except Unavailable:
                        await asyncio.sleep(0.02)
            async with asyncio.timeout(30):
                while await ids(archive) != ["b"]:
                    await asyncio.sleep(0.02)
            assert "archive index starts anew" in caplog.text
            await archive.put_plan("p1", b"plan")
            assert await archive.plan("p1") == b"plan"
        finally:
            await archive.close()


async def test_a_follower_that_was_away_too_long_starts_anew(archive_bus):
    archive = await JetStreamArchive.open(archive_bus)
    try:
        await archive.put([closed("a")])
        assert await ids(archive) == ["a"]
        # A row that no record stands for, as after missing what deleted it.
        await archive._database.write(index.add, [closed("ghost").summary])
        async with asyncio.timeout(30):
            while True:
                try:
                    if await ids(archive) == ["a"]:
                        break
                    # Again when a read was under way and said that all is well.
                    archive._follower._read_s -= 10_000
                    archive._follower._wake.set()
                except Unavailable:
                    await asyncio.sleep(0.01)
    finally:
        await archive.close()


async def test_a_projection_file_is_not_shared(archive_bus, tmp_path):
    archive = await reopened(archive_bus, tmp_path)
    with pytest.raises(Unavailable, match="open in another process"):
        await reopened(archive_bus, tmp_path)
    await archive.close()
    again = await reopened(archive_bus, tmp_path)
    await again.close()
