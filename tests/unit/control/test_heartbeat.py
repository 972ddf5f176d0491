import msgspec
import pytest

from headrace.coordinator.control import heartbeat
from headrace.coordinator.control.heartbeat import (
    FORGET_S,
    CoordinatorHeartbeat,
    HeartbeatTable,
    decode_heartbeat,
    encode_heartbeat,
    membership_digest,
)


def beat(name="c0", life="1", started_ms=1, **changes):
    return CoordinatorHeartbeat(
        version=1, id=name, incarnation=life, started_ms=started_ms, sent_ms=1,
        membership="m", members=1, **changes,
    )  # fmt: skip


def test_encoding_round_trip_and_garbage():
    sent = beat(owned={3: 17}, backlog=4, controller=True, view=9, view_hash="ab")
    assert decode_heartbeat(encode_heartbeat(sent)) == sent
    for garbage in (b"", b"\xc1", msgspec.msgpack.encode({"id": 3})):
        with pytest.raises(msgspec.MsgspecError):
            decode_heartbeat(garbage)


def test_digest_does_not_depend_on_order_and_differs_by_members():
    assert membership_digest(["a", "b"]) == membership_digest(["b", "a"])
    assert membership_digest(["a", "b"]) != membership_digest(["ab"])


def test_hear_tells_what_is_new():
    table = HeartbeatTable()
    assert table.hear(beat(), 1.0)
    assert not table.hear(beat(backlog=1), 1.1)
    assert table.hear(beat(life="2", started_ms=2), 1.2)
    assert table.hear(beat(life="2", started_ms=2, stopped=True), 1.3)


def test_an_older_life_does_not_take_turns_with_a_younger():
    table = HeartbeatTable(settle_s=3.0)
    table.hear(beat(life="young", started_ms=2), 1.0)
    assert not table.hear(beat(life="old", started_ms=1), 2.0)
    assert table.get("c0").beat.incarnation == "young"
    assert table.hear(
        beat(life="old", started_ms=1), 4.1
    )  # a clock set back is no reason to be deaf


def test_a_stopped_life_does_not_come_back_but_the_next_does():
    table = HeartbeatTable()
    table.hear(beat(stopped=True), 1.0)
    assert not table.hear(beat(), 1.1)
    assert list(table.fresh(1.1, 9)) == []
    assert table.hear(beat(life="2", started_ms=0), 1.2)
    assert len(list(table.fresh(1.2, 9))) == 1


def test_silence_counts_from_when_we_could_hear():
    table = HeartbeatTable()
    table.hear(beat(), 10.0)
    assert table.silence_s("c0", 14.0) == 4.0
    table.deaf(13.0)
    assert table.silence_s("c0", 14.0) == 1.0
    assert table.silence_s("never heard", 14.0) == 1.0


def test_the_table_is_bounded(monkeypatch):
    monkeypatch.setattr(heartbeat, "NODES_MAX", 2)
    table = HeartbeatTable()
    assert table.hear(beat("a"), 1.0)
    assert table.hear(beat("b"), 1.0)
    assert not table.hear(beat("c"), 2.0)
    assert table.hear(beat("c"), 2.0 + FORGET_S)
    assert {heard.beat.id for heard in table} == {"c"}
    assert len(table) == 1
