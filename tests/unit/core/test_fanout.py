"""Ticks too large for one append: 10,000 steps, large items, many plans."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import BrokenLog, Folder, Machine, ShardState, state_hash
from headrace.coordinator.core.entries import PART_BYTES_MAX
from headrace.events import decode_batch
from headrace.messages import ResultStatus, StorePlan
from headrace.plan import encode_plan
from support.corekit import BUILTIN, Kit
from support.plans import group, loop, plan, task


def fan_out(count: int = 10_000) -> Kit:
    kit = Kit(watch=False)
    items = [{"name": f"item-{index:06}", "text": "x" * 60} for index in range(count)]
    kit.start(
        plan(loop("l", task("x", inputs={"n": "${{ item.name }}"}), "${{ inputs.items }}")),
        input={"items": items[: count // 2]},
    )
    return kit


def test_a_large_tick_is_split_into_parts() -> None:
    kit = Kit(watch=False)
    axis = {"a": list(range(16)), "b": [f"{i}{'y' * 9_000}" for i in range(16)]}
    kit.start(plan(loop("m", task("x"), axis, kind="matrix")))
    sizes = [len(entry) for _, entry in kit.log]
    batches = [decode_batch(entry) for _, entry in kit.log]
    parts = [batch for batch in batches if batch.batch_id.startswith("b1.")]
    assert len(parts) > 3
    assert [batch.more for batch in parts] == [True] * (len(parts) - 1) + [False]
    assert max(sizes) < PART_BYTES_MAX + 20_000
    numbers = [entry.number for entry in kit.history()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_ten_thousand_steps_and_their_join() -> None:
    kit = Kit(watch=False)
    kit.start(plan(loop("l", task("x"), list(range(10_000))), task("z", needs=["l"])))
    assert len(kit.tasks) == 10_000
    assert max(len(entry) for _, entry in kit.log) < PART_BYTES_MAX + 20_000
    results = [kit.result(task, ResultStatus.COMPLETED) for task in list(kit.tasks.values())]
    assert kit.report(*results) == []
    assert kit.dispatched() == ["z"]
    kit.kill(snapshot=True)
    kit.complete("z")
    assert kit.state() == "COMPLETED"


def test_many_plans_in_one_tick_are_split_too() -> None:
    kit = Kit()
    texts = [encode_plan(plan(task(f"t{i}"), description="d" * 200_000)) for i in range(6)]

    def store(machine: Machine) -> None:
        for data in texts:
            machine.request("default", StorePlan(plan=data))

    kit.tick(store)
    assert len(kit.log) == 3
    assert all(len(entry) < PART_BYTES_MAX + 1_000 for _, entry in kit.log)


def parts_of_one_tick() -> list[tuple[int, bytes]]:
    kit = fan_out(8_000)
    last = decode_batch(kit.log[-1][1]).batch_id.partition(".")[0]
    return [e for e in kit.log if decode_batch(e[1]).batch_id.startswith(f"{last}.")], kit


def test_an_incomplete_tick_does_not_count() -> None:
    """The owner died between its parts; the next one writes over them, so to say."""
    parts, kit = parts_of_one_tick()
    assert len(parts) > 1
    before = kit.log[: -len(parts)]
    torn = [*before, *parts[:-1]]
    folder = Folder(ShardState(1, BUILTIN))
    for entry in torn:
        folder.fold(*entry)
    assert folder.state.runs == {}
    assert folder.state.batch_position == before[-1][0]

    other = Kit(watch=False)
    other.log = list(torn)
    for entry in torn:
        other.folder.fold(*entry)
    other.kill()
    other.start(plan(group("g", task("a"))), "new")
    assert other.dispatched("new") == ["g/a"]
    assert state_hash(other.folded()) == state_hash(other.machine.state)


def test_a_standby_that_reads_the_torn_parts_again_does_not_mind() -> None:
    parts, kit = parts_of_one_tick()
    folder = Folder(ShardState(1, BUILTIN))
    before = kit.log[: -len(parts)]
    for entry in [*before, *parts[:-1], *parts]:
        folder.fold(*entry)
    assert state_hash(folder.state) == state_hash(kit.machine.state)


@pytest.mark.parametrize("change", ["hole", "twice", "swapped", "garbage"])
def test_a_log_that_is_not_whole_is_refused(change: str) -> None:
    kit = Kit()
    kit.start(plan(task("a"), task("b", needs=["a"])))
    kit.complete("a")
    kit.complete("b")
    entries = list(kit.log)
    if change == "hole":
        del entries[1]
    elif change == "twice":
        entries.insert(1, entries[1])
    elif change == "swapped":
        entries[1], entries[2] = entries[2], entries[1]
    else:
        entries[2] = (3, entries[2][1][:-1])
    folder = Folder(ShardState(1, BUILTIN))

    def fold_all() -> None:
        for entry in entries:
            folder.fold(*entry)

    with pytest.raises(BrokenLog):
        fold_all()
