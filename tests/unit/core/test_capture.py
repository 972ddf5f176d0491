"""A snapshot made piece by piece is the state of one moment, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import (
    BadSnapshot,
    Capture,
    capture,
    decode_state,
    encode_hashed,
    state_hash,
    verify,
)
from headrace.coordinator.core.pieces import array_head
from headrace.events import RunEvicted
from support.corekit import BUILTIN, Kit
from support.plans import key, plan, task


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "PIECE_RUNS", 2)
    monkeypatch.setattr(capture, "PIECE_ITEMS", 3)


def busy(runs: int = 12) -> Kit:
    """Runs, some waiting for a key; tombstones, requests, two plans."""
    kit = Kit()
    plain = kit.store(plan(task("a"), task("b", needs=["a"])))
    keyed = kit.store(plan(task("a"), concurrency=key("deploy"), name="keyed"))
    for number in range(runs):
        kit.start(keyed if number % 4 == 0 else plain, f"r{number * 7 % 12:02d}")
    for number in (3, 5, 6, 9):
        kit.cancel(f"r{number:02d}")
        kit.cancelled("a", run=f"r{number:02d}")
    for number in (3, 5, 6, 9):
        evict(kit, f"r{number:02d}")
    return kit


def evict(kit: Kit, name: str) -> None:
    run = kit.machine.state.runs[f"default/{name}"]
    event = RunEvicted(run.key, run.fingerprint, run.state, kit.now_ms + 60_000)
    kit.tick(lambda m: m.emit_shard(event))


def read(pieces: Iterator[Any]) -> str:
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return str(end.value)


def test_undisturbed_it_is_the_state_in_one_go() -> None:
    kit = busy()
    taken = Capture(kit.machine.state)
    count = sum(1 for _ in taken.pieces())
    assert count > 8, "in pieces"
    assert (taken.data, taken.hash) == encode_hashed(kit.machine.state)
    assert read(verify(taken.data, BUILTIN, taken.cuts)) == taken.hash
    assert (taken.shard, taken.position, taken.index) == (
        kit.machine.state.shard,
        kit.machine.state.batch_position,
        kit.machine.state.batch_index,
    )


def test_an_empty_state() -> None:
    kit = Kit()
    taken = Capture(kit.machine.state)
    read(taken.pieces())
    assert (taken.data, taken.hash) == encode_hashed(kit.machine.state)
    assert read(verify(taken.data, BUILTIN, taken.cuts)) == taken.hash


@pytest.mark.parametrize("wait", [0, 1, 3, 5, 7, 9])
def test_what_happens_meanwhile_is_not_in_it(wait: int) -> None:
    kit = busy()
    wanted = encode_hashed(kit.machine.state)
    taken = kit.machine.copying = Capture(kit.machine.state)
    pieces = taken.pieces()
    for _ in range(wait):
        next(pieces)
    # Steps end, runs come, end, leave and come again under their name, keys are passed on.
    names = [task.run.partition("/")[2] for task in kit.tasks.values() if task.path == "a"]
    assert len(names) > 3
    for name in names:
        kit.complete("a", run=name)
        next(pieces, None)
    kit.complete("b", run="r01")
    kit.cancel("r10")
    evict(kit, "r01")
    kit.advance(120_000)
    kit.start(plan(task("a"), name="other"), "r01")
    kit.start(plan(task("a"), concurrency=key("deploy"), name="late"), "r99")
    read(pieces)
    assert (taken.data, taken.hash) == wanted
    assert state_hash(decode_state(taken.data, BUILTIN)) == taken.hash
    assert encode_hashed(kit.machine.state)[1] != taken.hash


def test_what_reads_back_differently_is_noticed() -> None:
    kit = busy()
    taken = Capture(kit.machine.state)
    read(taken.pieces())
    data, digest, cuts = taken.data, taken.hash, taken.cuts
    image = msgspec.msgpack.decode(data)
    other = msgspec.msgpack.encode([*image[:4], image[4] + 1, *image[5:]])
    assert read(verify(other, BUILTIN, cuts)) != digest
    first, second = data[cuts[0] : cuts[1]], data[cuts[1] : cuts[2]]
    turned = data[: cuts[0]] + second + first + data[cuts[2] :]
    for bad in (turned, data[:-1], data[: cuts[0]] + data[cuts[1] :], data[: cuts[2]], b""):
        with pytest.raises(BadSnapshot):
            read(verify(bad, BUILTIN, cuts))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 65_535, 65_536])
def test_arrays_begin_as_msgpack_begins_them(length: int) -> None:
    assert array_head(length) + b"\xc0" * length == msgspec.msgpack.encode([None] * length)
