"""Bytes of every release are read for ever; see `support.core_golden` for how they are made."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from headrace.coordinator.core import (
    Folder,
    ShardState,
    decode_state,
    encode_state,
    state_hash,
    status,
)
from headrace.events import RunEvent, ShardEvent, decode_batch, decode_chunk, encode_batch
from support.core_golden import (
    GOLDEN,
    RUN_EVENTS,
    SHARD_EVENTS,
    STATES,
    batch,
    known_to,
    readable,
    write,
)
from support.corekit import BUILTIN, Kit, finish

VERSIONS = sorted(
    (path for path in GOLDEN.glob("v*") if path.is_dir()), key=lambda path: int(path.name[1:])
)
NEWEST = VERSIONS[-1]
each = pytest.mark.parametrize("folder", VERSIONS, ids=lambda folder: folder.name)
CODE_SINCE = 10
"""The version whose scenario has a code-first run."""
EXAMPLES = {type(event).__name__: event for event in (*RUN_EVENTS, *SHARD_EVENTS)}


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def test_there_is_an_example_of_every_event() -> None:
    kinds = {kind.__name__ for kind in (*get_args(RunEvent), *get_args(ShardEvent))}
    assert kinds == set(EXAMPLES)
    assert kinds == {name for name, _ in lines(NEWEST / "events.txt")}


@each
def test_every_event_is_read(folder: Path) -> None:
    run_events, shard_events = known_to(folder.name)
    examples = {type(event).__name__: event for event in (*run_events, *shard_events)}
    for name, data in lines(folder / "events.txt"):
        example = examples[name]
        union = RunEvent if type(example) in get_args(RunEvent) else ShardEvent
        assert msgspec.msgpack.decode(bytes.fromhex(data), type=union) == example, name


def test_every_event_is_written_as_it_was() -> None:
    """A change here is a change of the log's format: write a new folder, keep the old ones."""
    for name, data in lines(NEWEST / "events.txt"):
        assert msgspec.msgpack.encode(EXAMPLES[name]).hex() == data, name


@each
def test_a_batch_is_read(folder: Path) -> None:
    found = decode_batch(bytes.fromhex((folder / "batch.txt").read_text()))
    # Events that came later are in the newer folders only.
    known = {name for name, _ in lines(folder / "events.txt")}
    run_events, shard_events = known_to(folder.name)
    assert decode_chunk(found.chunks[0]).events == _known(run_events, known)
    assert [*found.before, *found.after] == _known(shard_events, known)
    assert (found.batch_id, found.index, found.more) == ("b1.0", 7, True)


def _known(events: list[object], names: set[str]) -> list[object]:
    return [event for event in events if type(event).__name__ in names]


def test_a_batch_is_written_as_it_was() -> None:
    assert encode_batch(batch()).hex() == (NEWEST / "batch.txt").read_text().strip()


def folded(folder: Path) -> ShardState:
    reader = Folder(ShardState(1, BUILTIN))
    for position, (data,) in enumerate(lines(folder / "log.txt"), 1):
        reader.fold(position, bytes.fromhex(data))
    return reader.state


def restored(folder: Path) -> ShardState:
    return decode_state(bytes.fromhex((folder / "snapshot.txt").read_text()), BUILTIN)


@each
def test_an_old_log_and_an_old_snapshot_give_the_same_state(folder: Path) -> None:
    assert state_hash(folded(folder)) == state_hash(restored(folder))
    data = encode_state(restored(folder))
    assert encode_state(decode_state(data, BUILTIN)) == data


@each
@pytest.mark.parametrize("source", [folded, restored])
def test_an_old_state_goes_on(folder: Path, source: object) -> None:
    """A new release takes the shard over and ends every run in it."""
    state = source(folder)  # type: ignore[operator]
    kit = Kit(watch=False)
    kit.folder = Folder(decode_state(encode_state(state), BUILTIN))
    kit.machine = kit._lead(state)
    kit.now_ms = state.now_ms
    kit.machine.begin(kit.now_ms)
    kit.machine.resume()
    kit.machine.settle()
    kit.tick()
    one, two = kit.run("one"), kit.run("two")
    assert one.quarantined == two.quarantined == ""
    assert two.cancelling
    for run in (one, two):
        for step in list(run.tokens):
            kit.tick(
                lambda m, r=run, s=step: m.lose(
                    r.key, r.wire(s), r.attempt[s], worker="w.1", reason="from another age"
                )
            )
    assert kit.statuses("one")["p"] == "UNKNOWN"
    assert kit.state("two") == "CANCELLED"
    if int(folder.name[1:]) >= CODE_SINCE:
        kit.cancel("five", force=True)
    kit.resume("three")
    kit.signal("never", None, "one")
    assert finish(kit, "three") == "COMPLETED"
    assert finish(kit, "one") == "FAILED"
    assert all(status.is_final(run.state) for run in state.runs.values())
    assert state.keys == {}


def test_golden_files_are_never_written_over() -> None:
    with pytest.raises(FileExistsError):
        write(NEWEST)


@each
@pytest.mark.parametrize("source", [folded, restored])
def test_an_old_state_says_what_it_said_then(folder: Path, source: object) -> None:
    """In words: a new release may keep a state otherwise, but means the same by it."""
    wanted = (STATES / f"{folder.name}.txt").read_text()
    assert readable(source(folder)) == wanted  # type: ignore[operator]
