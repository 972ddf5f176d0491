"""Runs that only wait are held as bytes; nobody can tell, whatever they wait for."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import (
    Capture,
    Machine,
    Parking,
    ParkingPolicy,
    Run,
    ShardState,
    decode_state,
    encode_hashed,
    encode_state,
    loading,
    state_hash,
    verify,
)
from headrace.coordinator.core.outline import Outline, outline, parkable
from headrace.coordinator.core.parking import park_all
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.core.snapshot import RunImage, encode_run
from headrace.messages import ListRuns, StorePlan, SubmitRun
from headrace.plan import encode_plan
from support.corekit import BUILTIN, DAY_MS, NAMESPACE, START_MS, Kit, finish
from support.plans import child, group, job, key, loop, plan, retry, sleep, task, wait

EAGER = ParkingPolicy(free=0, round_ms=0, near_ms=0)
INNER = plan(task("x"), name="inner")


def parked(kit: Kit, run: str = "r") -> bool:
    return f"{NAMESPACE}/{run}" in kit.machine.state.runs.parked


def park(kit: Kit, run: str = "r") -> None:
    """Park what waits; *run* is one of that, and nothing else is different."""
    before, data = state_hash(kit.machine.state), encode_state(kit.machine.state)
    kit.park()
    assert parked(kit, run)
    assert state_hash(kit.machine.state) == before
    assert encode_state(kit.machine.state) == data


# --- what waits, and what brings it back ------------------------------------------------------


def test_a_timer_brings_a_run_back() -> None:
    kit = Kit()
    kit.start(plan(sleep("s", 60_000), task("after", needs=["s"])))
    park(kit)
    kit.advance(59_999)
    assert parked(kit)
    kit.advance(1)
    assert kit.dispatched() == ["after"]
    assert finish(kit) == "COMPLETED"


def test_so_it_does_for_the_next_owner() -> None:
    kit = Kit()
    kit.start(plan(sleep("s", 60_000), task("after", needs=["s"]), timeout_ms=DAY_MS))
    kit.kill()
    kit.park()
    kit.machine.resume()
    assert parked(kit)
    kit.advance(60_000)
    assert kit.dispatched() == ["after"]


def test_a_signal_brings_it_back() -> None:
    kit = Kit()
    kit.start(plan(wait("go"), task("after", needs=["go"])))
    park(kit)
    kit.signal("go", {"n": 1})
    assert kit.dispatched() == ["after"]
    assert finish(kit) == "COMPLETED"


def test_the_end_of_a_child_brings_it_back() -> None:
    kit = Kit()
    kit.start(plan(child("c", INNER), task("after", needs=["c"])))
    family = kit.run().family
    assert family is not None
    (name,) = family.children.values()
    park(kit)
    kit.complete("x", run=name)
    assert kit.dispatched() == ["after"]
    assert finish(kit) == "COMPLETED"


def test_a_key_brings_it_back() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), concurrency=key("deploy")))
    kit.start(digest, "one")
    kit.start(digest, "two")
    park(kit, "two")
    assert not parked(kit, "one"), "a worker has its step"
    kit.complete("a", run="one")
    assert kit.dispatched("two") == ["a"]


def test_a_retry_waits_too() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(3, initial_ms=30_000))))
    kit.fail("a")
    park(kit)
    kit.advance(30_000)
    assert kit.dispatched() == ["a"]


def test_iterations_of_a_loop_wait_too() -> None:
    kit = Kit()
    body = group("body", wait("go"), task("x", needs=["go"]))
    kit.start(plan(loop("each", body, items=[1, 2, 3]), task("end", needs=["each"])))
    park(kit)
    kit.signal("go")
    assert kit.dispatched() == ["each[0]/x"]
    assert not parked(kit)


@pytest.mark.parametrize("ask", ["view", "explain", "history", "cancel", "pause"])
def test_whoever_asks_for_it_gets_it(ask: str) -> None:
    kit = Kit()
    kit.start(plan(wait("go"), name="waits"))
    park(kit)
    if ask == "view":
        assert kit.view().conditions == ["WAITING"]
    elif ask == "explain":
        assert kit.explain().summary == "go: waiting for signal go"
    elif ask == "history":
        assert [entry.type for entry in kit.history()] == ["RunCreated", "WaitStarted"]
    elif ask == "cancel":
        kit.cancel()
        assert kit.state() == "CANCELLED"
    else:
        kit.pause()
        kit.park()
        assert not parked(kit), "one that is paused is left alone"


# --- what does not only wait -------------------------------------------------------------------


def test_what_is_ready_is_at_hand() -> None:
    kit = Kit(credit=0)
    kit.start(plan(task("a"), wait("go")))
    assert kit.park() == 0


def test_what_a_worker_has_is_at_hand() -> None:
    kit = Kit()
    kit.start(plan(task("a"), wait("go")))
    assert kit.park() == 0
    kit.complete("a")
    assert kit.park() == 1


def test_a_job_with_a_workspace_is_at_hand() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), wait("go", needs=["a"])), dialect="jobs"))
    kit.complete("j/a", worker="w")
    assert kit.statuses()["j/go"] == "WAITING"
    assert kit.park() == 0, "the loss of the worker would begin it anew"
    kit.lose_worker("w")


def test_an_old_entry_of_a_queue_means_nothing() -> None:
    """A record that was parked may still be named in a ready queue: nothing of it is ready."""
    kit = Kit()
    kit.start(plan(task("a", retry=retry(3, initial_ms=1_000))))
    kit.fail("a")
    old = kit.run()
    lane = next(iter(kit.machine.ready.lanes.values()))
    lane.push(old, kit.instance("a"), kit.now_ms, 0)
    kit.machine.ready.filled[lane.name] = None
    park(kit)
    events = old.events
    kit.now_ms += 1_000
    kit.machine.begin(kit.now_ms)
    assert kit.machine.schedule(lane.name, 10, lane.name) == []
    assert old.events == events
    kit.tick()
    assert kit.dispatched() == ["a"], "its record of now has a timer"


# --- lists, snapshots, loading -------------------------------------------------------------------


def many(count: int = 40) -> Kit:
    """Runs of three workflows that wait, some of them in other states."""
    kit = Kit()
    digests = [
        kit.store(plan(wait("go"), task("x", needs=["go"]), name=f"w{number}"))
        for number in range(3)
    ]
    for number in range(count):
        labels = {"team": f"t{number % 4}"}
        kit.start(digests[number % 3], f"r{number * 7 % count:03d}", labels=labels)
        kit.now_ms += number % 3
    for number in (3, 5):
        kit.signal("go", run=f"r{number:03d}")
    kit.pause(run="r007")
    return kit


QUERIES = [
    ListRuns(limit=7),
    ListRuns(workflow="w1", limit=5),
    ListRuns(labels={"team": "t2"}),
    ListRuns(states=["WAITING"]),
    ListRuns(states=["PAUSED"]),
    ListRuns(states=["RUNNING"], limit=9),
    ListRuns(states=["COMPLETED"]),
    ListRuns(since_ms=START_MS + 20, limit=4),
]


def pages(kit: Kit, query: ListRuns) -> list[Any]:
    found: list[Any] = []
    for _ in range(100):
        page = kit.tick(lambda m, query=query: m.request(NAMESPACE, query))
        found += page.runs
        if not page.cursor:
            return found
        query = msgspec.structs.replace(query, cursor=page.cursor)
    raise AssertionError("no end")


@pytest.mark.parametrize("query", QUERIES)
def test_lists_are_the_same(query: ListRuns) -> None:
    kit = many()
    before = pages(kit, query)
    kit.park()
    at_hand = kit.machine.state.runs.at_hand
    assert at_hand == 3
    assert pages(kit, query) == before
    assert kit.machine.state.runs.at_hand == at_hand, "a list brings nothing back"
    kit.kill()
    park_all(kit.machine.state)
    kit.machine.resume()
    assert pages(kit, query) == before, "a new owner lists what came parked"


def test_a_page_with_parked_runs_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is made to be shown: an answer makes no more than it can in some ms."""
    kit = many()
    kit.park()
    monkeypatch.setattr("headrace.coordinator.core.views.SCANNED_MAX", 60)
    page = kit.tick(lambda m: m.request(NAMESPACE, ListRuns(limit=1_000)))
    assert 1 < len(page.runs) < 10
    assert page.cursor


def test_a_snapshot_of_parked_runs_while_they_change() -> None:
    kit = many()
    kit.park()
    state = kit.machine.state
    data, digest = encode_hashed(state)
    taken = kit.machine.copying = Capture(state)
    pieces = taken.pieces()
    next(pieces)
    # All come back and change, before and behind their turn.
    for number in range(40):
        kit.signal("other", run=f"r{number:03d}")
        next(pieces, None)
    for _ in pieces:
        pass
    kit.machine.copying = None
    assert (taken.data, taken.hash) == (data, digest)
    reading = verify(data, BUILTIN, taken.cuts)
    assert drained(reading) == digest


def drained(pieces: Any) -> Any:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def test_a_state_comes_parked_from_its_snapshot() -> None:
    kit = many()
    data = encode_state(kit.machine.state)
    state = drained(loading(data, BUILTIN))
    assert state.runs.at_hand == 3
    assert state.runs.tally == {"waiting": 37}
    assert encode_state(state) == data
    assert state.plan_uses == kit.machine.state.plan_uses
    park_all(state)
    assert state.runs.at_hand == 3, "loading parks what `only_waits` says of plain runs"


def test_bytes_of_another_release_are_read_and_written_anew() -> None:
    """They are hashed as they are: with other fields they would not be what replicas have."""
    kit = Kit()
    run = kit.start(plan(wait("go")))
    data = encode_run(run)
    assert parkable(kit.machine.state, data) is not None
    fields = msgspec.msgpack.decode(data)
    for other in (fields[:-1], [*fields, []]):
        assert parkable(kit.machine.state, msgspec.msgpack.encode(other)) is None


def test_an_outline_has_the_fields_of_the_image() -> None:
    assert Outline.__struct_fields__ == RunImage.__struct_fields__
    kit = many(3)
    run = kit.run("r000")
    found = outline(encode_run(run))
    assert (found.key, found.created_ms, found.labels) == (run.key, run.created_ms, run.labels)


# --- when ----------------------------------------------------------------------------------------


def waiting(count: int, *nodes: Any) -> Machine:
    """A machine with *count* runs that wait."""
    machine = Machine(ShardState(0, BUILTIN), chance=random.random, home=lambda _key: 0)
    data = encode_plan(plan(*(nodes or (wait("go"), task("x", needs=["go"]))), name="w"))
    tick(machine, StorePlan(plan=data))
    digest = next(iter(machine.state.plans))
    for first in range(0, count, 500):
        some = range(first, min(first + 500, count))
        tick(machine, *(submit(f"{number:026d}", digest) for number in some))
    return machine


def submit(name: str, digest: str) -> SubmitRun:
    return SubmitRun(run=name, plan=digest, request_id=name, not_after_ms=START_MS + 60_000)


def tick(machine: Machine, *requests: Any) -> None:
    machine.begin(START_MS)
    for request in requests:
        machine.request(NAMESPACE, request)
    machine.settle()
    if machine.dirty:
        machine.finish(batch_id="b", epoch=1)
        machine.effects({})


def rounds(parking: Parking, now_ms: int = START_MS) -> int:
    """Sweep until there is nothing more to do at once; return how many calls that took."""
    calls = 1
    while parking.sweep(now_ms):
        calls += 1
    return calls


def test_a_run_is_parked_once_nothing_came_for_a_round() -> None:
    machine = waiting(10)
    runs = machine.state.runs
    parking = Parking(machine.state, EAGER)
    rounds(parking)
    assert not runs.parked, "seen for the first time"
    machine.begin(START_MS)
    rounds(parking)
    assert len(runs.parked) == 10
    assert (runs.at_hand, len(runs), runs.tally) == (0, 10, {"waiting": 10})


def test_one_with_news_waits_for_the_next_round() -> None:
    kit = Kit()
    kit.start(plan(wait("go")), "quiet")
    kit.start(plan(wait("go")), "loud")
    parking = Parking(kit.machine.state, EAGER)
    rounds(parking)
    kit.signal("other", run="loud")
    rounds(parking)
    assert (parked(kit, "quiet"), parked(kit, "loud")) == (True, False)
    rounds(parking)
    assert parked(kit, "loud")


def test_rounds_take_their_time_and_small_shards_none() -> None:
    machine = waiting(10)
    parking = Parking(machine.state, ParkingPolicy(free=0, round_ms=2_000))
    rounds(parking, START_MS)
    rounds(parking, START_MS + 1_999)
    assert not machine.state.runs.parked
    rounds(parking, START_MS + 2_000)
    assert len(machine.state.runs.parked) == 10
    small = waiting(10)
    parking = Parking(small.state, ParkingPolicy(free=10, round_ms=0))
    assert [rounds(parking) for _ in range(3)] == [1, 1, 1]
    assert not small.state.runs.parked


def test_a_call_does_only_so_much() -> None:
    machine = waiting(50)
    parking = Parking(machine.state, EAGER._replace(parks=10, visits=25))
    assert rounds(parking) == 2, "by what it looks at"
    assert rounds(parking) == 5, "by what it parks"
    assert len(machine.state.runs.parked) == 50


def test_who_will_be_needed_soon_is_left_alone() -> None:
    machine = waiting(5, sleep("s", 4_000))
    parking = Parking(machine.state, EAGER._replace(near_ms=5_000))
    rounds(parking)
    rounds(parking)
    assert not machine.state.runs.parked


def test_nothing_is_parked_while_decisions_are_open() -> None:
    machine = waiting(5)
    parking = Parking(machine.state, EAGER)
    rounds(parking)
    machine.state.agenda.append((machine.state.runs.records()[0], 0))
    rounds(parking)
    assert not machine.state.runs.parked


# --- what it costs -------------------------------------------------------------------------------


def test_a_lookup_of_a_run_at_hand_is_the_dictionarys_own() -> None:
    """Each result is looked up: nothing of ours may stand in between."""
    assert Runs.get is dict.__getitem__  # type: ignore[comparison-overlap]
    runs: Runs[Run] = Runs()
    assert runs.get("none") is None
    assert "none" not in runs
    assert runs.pop("none") is None


@pytest.mark.parametrize("nodes", [(wait("go"), task("x", needs=["go"])), (sleep("s", DAY_MS),)])
def test_a_million_waiting_runs_fit_into_the_budget(nodes: tuple[Any, ...]) -> None:
    """Design: 1.5 GB. Counted for 3,000 of them, with their timers and their places in lists."""
    count = 3_000
    waiting(10, *nodes)
    tracemalloc.start()
    try:
        machine = waiting(count, *nodes)
        park_all(machine.state)
        machine.listing.order_fresh()
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(machine.state.runs.parked) == count
    assert size / count < 1_200, f"{size / count:.0f} bytes a run"


def test_a_state_in_pieces() -> None:
    """Neither loading nor taking over holds the loop up: both stop every few hundred runs."""
    machine = waiting(3_000)
    data = encode_state(machine.state)
    pieces = loading(data, BUILTIN)
    assert _steps(pieces) >= 6
    state = decode_state(data, BUILTIN)
    again = Machine(state, chance=random.random, home=lambda _key: 0)
    assert _steps(again.resuming()) >= 6
    assert again.listing.size == 3_000


def _steps(pieces: Any) -> int:
    return sum(1 for _ in pieces)
