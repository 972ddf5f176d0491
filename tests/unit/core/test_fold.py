"""The fold: snapshots, takeover, quarantine of one run, what the log refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import (
    BadSnapshot,
    BrokenLog,
    Folder,
    Limits,
    ShardState,
    advance,
    batch_hash,
    decode_state,
    encode_state,
    evolve,
    explain,
    fold,
    state_hash,
    status,
)
from headrace.events import (
    BATCH_VERSION,
    Batch,
    RunQuarantined,
    SegmentArchived,
    StepCompleted,
    decode_batch,
    encode_batch,
    encode_chunk,
)
from support.core_golden import scenario
from support.corekit import BUILTIN, Kit, finish
from support.plans import group, job, loop, plan, task


def test_a_snapshot_is_the_state_and_nothing_but_the_state() -> None:
    kit = scenario()
    data = encode_state(kit.folder.state)
    again = decode_state(data, BUILTIN)
    assert encode_state(again) == data
    assert state_hash(again) == state_hash(kit.machine.state)


def test_the_machine_goes_on_equally_from_a_snapshot() -> None:
    """Two shards, the same commands; one of them is taken over from a snapshot in between."""
    plain, restored = scenario(), scenario()
    plain.kill()
    restored.kill(snapshot=True)
    for kit in (plain, restored):
        kit.resume("three")
        kit.advance(5_000)
        kit.complete("j/b", run="one")
        kit.signal("never", run="one")
        kit.cancelled("a", run="two")
        kit.complete("p", run="one")
        finish(kit, "three")
        finish(kit, "one")
    assert state_hash(plain.machine.state) == state_hash(restored.machine.state)
    assert [e for _, e in plain.log] == [e for _, e in restored.log]


def test_maps_keep_their_order_in_a_snapshot() -> None:
    kit = Kit()
    body = job("j", task("a"), task("b", inputs={"m": "${{ toJSON(matrix) }}"}))
    matrix = """${{ fromJSON('{"z": [1], "a": [2]}') }}"""
    kit.start(plan(loop("l", body, matrix, kind="matrix")))
    kit.kill(snapshot=True)
    kit.complete("l[1,2]/a")
    assert list(msgspec.json.decode(kit.inputs("l[1,2]/b")["m"])) == ["z", "a"]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\xff" * 40])
def test_a_torn_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(BadSnapshot):
        decode_state(data, BUILTIN)


def test_a_snapshot_of_a_newer_release_is_refused() -> None:
    image = msgspec.msgpack.decode(encode_state(ShardState(1)))
    image[0] = 99
    with pytest.raises(BadSnapshot, match="newer release"):
        decode_state(msgspec.msgpack.encode(image), BUILTIN)


def test_history_leaves_the_state_when_the_archive_has_it() -> None:
    kit = Kit()
    kit.start(plan(*(task(f"t{i}", needs=[f"t{i - 1}"] if i else []) for i in range(5))))
    for index in range(3):
        kit.complete(f"t{index}")
    run = kit.run()
    kept = len(run.history)
    kit.tick(lambda m: m.emit(run, SegmentArchived(3)))
    assert run.history_first == 3
    assert len(run.history) == kept, "one chunk left, the tick's own came"
    assert run.history_bytes == sum(map(len, run.history))
    kit.kill(snapshot=True)
    assert finish(kit) == "COMPLETED"


# --- takeover ----------------------------------------------------------------------------------


def test_a_tick_has_one_time_even_when_it_began_with_a_takeover() -> None:
    """What follows from taking over is appended with the first tick, at the time it was decided."""
    kit = Kit()
    digest = kit.store(plan(task("a", timeout_ms=60_000)))
    machine = kit.machine
    machine.begin(kit.now_ms)
    machine.request("default", _submit(digest, kit))
    machine.settle()
    kit.now_ms += 5_000
    kit.tick()
    assert kit.run().created_ms == kit.now_ms - 5_000
    (batch,) = [decode_batch(entry) for _, entry in kit.log[1:]]
    assert batch.time_ms == kit.now_ms - 5_000


def _submit(digest: str, kit: Kit) -> Any:
    from headrace.messages import SubmitRun

    return SubmitRun(run="r", plan=digest, request_id="q", not_after_ms=kit.now_ms + 60_000)


def test_logged_time_never_goes_back() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    kit.now_ms -= 60_000
    kit.complete("a")
    assert kit.run().finished_ms == kit.run().created_ms


def test_dispatched_steps_are_left_alone_at_a_takeover() -> None:
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"])))
    token = kit.task("a").token
    position = len(kit.log)
    kit.kill()
    assert len(kit.log) == position
    assert kit.task("a").token == token
    kit.complete("a")


def test_ended_runs_are_handed_to_the_archive_again() -> None:
    kit = Kit()
    kit.start(plan(group("empty")))
    assert [run.key for run in kit.ended] == ["default/r"]
    kit.kill()
    assert [run.key for run in kit.ended] == ["default/r"]


# --- quarantine --------------------------------------------------------------------------------


def two_runs() -> Kit:
    kit = Kit()
    digest = kit.store(plan(task("a"), task("b", needs=["a"])))
    kit.start(digest, "bad")
    kit.start(digest, "good")
    return kit


def folded_with(kit: Kit, chunk: bytes) -> ShardState:
    """Return what a follower makes of the log with one more chunk in it."""
    folder = Folder(ShardState(1, BUILTIN))
    for entry in kit.log:
        folder.fold(*entry)
    last = kit.log[-1][1]
    batch = Batch(
        BATCH_VERSION,
        "x",
        decode_batch(last).index + 1,
        0,
        batch_hash(last),
        1,
        kit.now_ms,
        False,
        [],
        [msgspec.Raw(chunk)],
        [],
    )
    folder.fold(len(kit.log) + 1, encode_batch(batch))
    return folder.state


POISON: dict[str, Callable[[int], bytes]] = {
    "a step that is not there": lambda first: encode_chunk(
        "default/bad", first, 1, [StepCompleted(99, 1, "w", 1, 2, msgspec.Raw(b"\x80"))]
    ),
    "an event of a newer release": lambda first: encode_chunk(
        "default/bad", first, 1, [[250, 1, 2], [4, 1, 1, "w.1", 1, 2, {}]]
    ),
    "fields of another type": lambda first: encode_chunk("default/bad", first, 1, [[4, "x"]]),
}


@pytest.mark.parametrize("name", POISON)
def test_a_poison_event_blocks_its_run_and_not_the_shard(name: str) -> None:
    kit = two_runs()
    first = kit.run("bad").events + 1
    state = folded_with(kit, POISON[name](first))
    bad, good = state.runs["default/bad"], state.runs["default/good"]
    assert f"event {first}" in bad.quarantined
    assert not good.quarantined
    assert bad.history[-1] == POISON[name](first), "the raw events are kept"
    assert explain(state, bad).reasons[0].state == "BLOCKED"

    other = Kit(watch=False)
    other.machine = other._lead(state)
    machine = other.machine
    machine.begin(kit.now_ms)
    machine.resume()
    machine.settle()
    results = [kit.result(task, 0) for task in kit.tasks.values()]
    refused = machine.results(_batch(results))
    assert [results[i].run for i in refused] == ["default/bad"]
    machine.settle()
    assert good.status[1] == status.COMPLETED
    for request in ("SignalRun", "PauseRun", "ResumeRun"):
        reply = machine.request("default", _mutation(request, kit))
        assert reply.code == "conflict"
        assert "blocked" in reply.message
    before = bad.events
    machine.lose("default/bad", 1, 1, worker="w", reason="x")
    machine.lose_worker("w", "x")
    machine.settle()
    assert bad.events == before
    machine.request("default", _mutation("CancelRun", kit))
    machine.settle()
    assert status.NAMES[bad.state] == "CANCELLED"
    assert [order.cancel.run for order in machine.orders] == ["default/bad"]
    data = encode_state(state)
    assert encode_state(decode_state(data, BUILTIN)) == data


def _batch(results: list[Any]) -> Any:
    from headrace.messages import ResultBatch

    return ResultBatch(1, "w", "1", results)


def _mutation(kind: str, kit: Kit) -> Any:
    from headrace import messages

    extra = {"name": "x"} if kind == "SignalRun" else {}
    options = {"request_id": kind, "not_after_ms": kit.now_ms + 1_000, **extra}
    return getattr(messages, kind)(run="bad", **options)


@pytest.mark.parametrize("place", ["deciding", "folding"])
def test_a_fault_of_ours_blocks_the_run_that_met_it(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leader and followers agree on it, and the other run goes on."""
    kit = two_runs()
    results = [kit.result(task, 0) for task in kit.tasks.values()]

    def broken(*args: Any, **_: Any) -> Any:
        if any(getattr(arg, "key", "") == "default/bad" for arg in args):
            raise ZeroDivisionError("planted")
        return original(*args)

    with monkeypatch.context() as patch:
        if place == "deciding":
            original: Any = advance.push_plain
            patch.setattr(advance, "push_plain", broken)
        else:
            original = evolve.EVOLVE[StepCompleted]
            patch.setitem(evolve.EVOLVE, StepCompleted, broken)
        machine = kit.machine
        machine.begin(kit.now_ms)
        machine.results(_batch(results))
        machine.settle()
        for entry in machine.finish(batch_id="z", epoch=1):
            kit.append(entry)
    assert "planted" in kit.run("bad").quarantined
    assert state_hash(machine.state) == state_hash(kit.folder.state)
    machine.begin(kit.now_ms)
    assert machine.schedule(next(iter(machine.ready.lanes)), 10, "x")[0].run == "default/good"


def test_quarantine_is_an_event() -> None:
    kit = two_runs()
    run = kit.run("bad")
    kit.machine.begin(kit.now_ms)
    kit.machine.quarantine(run, ValueError("x"))
    for entry in kit.machine.finish(batch_id="z", epoch=1):
        kit.append(entry)
    assert kit.folder.state.runs["default/bad"].quarantined == "ValueError: x"
    assert isinstance(kit.fresh[-1][1], RunQuarantined)


# --- logs that cannot be read ------------------------------------------------------------------


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_hole_halts(missing: int) -> None:
    kit = two_runs()
    kit.complete("a", run="bad")
    kit.complete("a", run="good")
    folder = Folder(ShardState(1, BUILTIN))
    for position, entry in kit.log[: missing - 1]:
        folder.fold(position, entry)
    with pytest.raises(BrokenLog, match=f"batch {missing + 1} does not follow batch {missing - 1}"):
        folder.fold(*kit.log[missing])


def test_an_entry_of_another_line_of_events_halts() -> None:
    """The place fits, and what it builds on is not what we have."""
    mine, other = two_runs(), two_runs()
    mine.complete("a", run="bad")
    other.complete("a", run="good")
    other.complete("a", run="bad")
    folder = Folder(ShardState(1, BUILTIN))
    for position, entry in mine.log:
        folder.fold(position, entry)
    with pytest.raises(BrokenLog, match="does not follow"):
        folder.fold(*other.log[-1])


def test_a_tick_whose_last_part_never_came_does_not_count() -> None:
    kit = Kit(limits=Limits(append_bytes=2_000))
    digest = kit.store(plan(loop("each", task("a"), items=list(range(300)))))
    folder = Folder(ShardState(1, BUILTIN))
    for entry in kit.log:
        folder.fold(*entry)
    before = state_hash(folder.state)
    machine = kit.machine
    machine.begin(kit.now_ms)
    machine.request("default", _submit(digest, kit))
    machine.settle()
    (lane,) = machine.ready.filled
    machine.schedule(lane, 300, lane)
    parts = machine.finish(batch_id="lost", epoch=1)
    assert len(parts) > 2
    for position, part in enumerate(parts[:-1], len(kit.log) + 1):
        folder.fold(position, part)
        assert state_hash(folder.state) == before
    # The next owner never knew of it, and goes on from what counts.
    known = len(kit.log)
    kit.machine = kit._lead(kit.folded())
    kit.start(digest)
    for position, entry in kit.log[known:]:
        folder.fold(position + len(parts), entry)
    assert state_hash(folder.state) == state_hash(kit.machine.state)


def test_a_chunk_of_a_run_that_is_not_there_halts() -> None:
    kit = two_runs()
    with pytest.raises(BrokenLog, match="no run"):
        folded_with(
            kit,
            encode_chunk("default/x", 1, 1, [StepCompleted(1, 1, "", 1, 1, msgspec.Raw(b"\x80"))]),
        )
    with pytest.raises(BrokenLog, match="begins unreadably"):
        folded_with(kit, encode_chunk("default/x", 1, 1, [[250]]))
    with pytest.raises(BrokenLog, match="unreadable chunk"):
        folded_with(kit, msgspec.msgpack.encode("what?"))


def test_a_run_of_a_plan_that_is_not_there_halts() -> None:
    kit = two_runs()
    created = [1, "wf", "f" * 32, {}, "q", 1, ""]
    with pytest.raises(BrokenLog, match="names plan"):
        folded_with(kit, encode_chunk("default/x", 1, 1, [created]))


def test_an_entry_of_a_newer_release_halts() -> None:
    entry = encode_batch(Batch(99, "x", 1, 0, b"", 1, 1, False, [], [], []))
    with pytest.raises(BrokenLog, match="newer release"):
        Folder(ShardState(1)).fold(1, entry)


def test_hashes_leave_out_the_clock_and_the_place_in_the_log() -> None:
    kit = two_runs()
    before = state_hash(kit.machine.state)
    kit.machine.begin(kit.now_ms + 5)
    kit.machine.state.batch_position = 99
    assert state_hash(kit.machine.state) == before
    assert fold.batch_hash(b"x") != fold.batch_hash(b"y")
