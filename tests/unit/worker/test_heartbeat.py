from __future__ import annotations

import msgspec

from headrace.messages import ResultStatus, StepResult, WorkerHeartbeat, decode, encode
from headrace.worker.core import Assignments, Identity, Origin, Outbox, heartbeat
from headrace.worker.core.heartbeat import DETAILS_ROOM, HELD_FULL_MAX
from support.worker_owner import make_task

WHO = Identity(id="w", incarnation="i", namespace="default", capabilities=("linux",))


def beat(held: Assignments, box: Outbox, **settings):
    return heartbeat(WHO, held, box, now_ms=10_000, lanes=["l"], handlers={}, **settings)


def sent(said: WorkerHeartbeat) -> WorkerHeartbeat:
    return decode(WorkerHeartbeat, encode(said))


def boxed(count: int = 0) -> Outbox:
    box = Outbox(bytes_max=10**9, batch_bytes_max=10**6)
    for step in range(count):
        raw = msgspec.Raw(b"\x80")
        box.add(("d", 3), StepResult("d/done", step, 1, 1, ResultStatus.COMPLETED, raw, 0, 0))
    return box


def test_says_what_is_held_by_shard_and_in_which_state() -> None:
    held = Assignments(slots=1, queue_max=9)
    held.admit(make_task("d/a", 1, token=1), Origin(0, "d"), 0)
    held.admit(make_task("d/b", 2, token=2), Origin(1, "d"), 0)
    first = held.next()
    assert first is not None
    held.occupy(first)
    first.details = msgspec.Raw(msgspec.msgpack.encode({"done": 3}))
    said = beat(held, boxed(1))
    assert [(h.run, h.running, h.details) for h in sent(said).held[0]] == [
        ("d/a", True, {"done": 3})
    ]
    assert [(h.run, h.running) for h in said.held[1]] == [("d/b", False)]
    assert [(h.run, h.running) for h in said.held[3]] == [("d/done", True)]
    assert (said.slots, said.free, said.held_since_ms, said.lanes) == (1, 0, 0, ["l"])


def test_details_of_all_steps_together_leave_room_in_the_message() -> None:
    held = Assignments(slots=1_000, queue_max=1_000)
    for step in range(500):
        held.admit(make_task("d/a", step, token=step), Origin(0, "d"), 0)
    for assignment in held:
        assignment.details = msgspec.Raw(msgspec.msgpack.encode("x" * 4_000))
    said = beat(held, boxed())
    assert len(said.held[0]) == 500
    assert [bool(h.details) for h in said.held[0]].index(False) == DETAILS_ROOM // 4_003
    assert len(encode(said)) < DETAILS_ROOM + 64 * 1024


def test_many_leave_out_only_what_was_taken_just_now() -> None:
    held = Assignments(slots=1, queue_max=9)
    held.admit(make_task("d/old", token=1), Origin(0, "d"), 9_000)
    held.admit(make_task("d/new", token=2), Origin(0, "d"), 9_999)
    box = boxed(HELD_FULL_MAX)
    regular, complete = beat(held, box), beat(held, box, complete=True)
    assert [h.run for h in regular.held[0]] == ["d/old"]
    assert regular.held_since_ms == 500
    assert len(regular.held[3]) == HELD_FULL_MAX
    assert [h.run for h in complete.held[0]] == ["d/old", "d/new"]
    assert complete.held_since_ms == 0


def test_draining_offers_no_slots() -> None:
    held = Assignments(slots=5, queue_max=9)
    assert beat(held, boxed()).free == 5
    said = beat(held, boxed(), draining=True, stopped=True)
    assert (said.free, said.draining, said.stopped) == (0, True, True)
