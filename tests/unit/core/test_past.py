"""A run as it was equals the run as it was seen then."""

from __future__ import annotations

import msgspec
import pytest

from headrace.coordinator.core.past import past_view
from headrace.errors import InvalidRequest, Unavailable
from headrace.events import SegmentArchived, decode_chunk, encode_chunk
from headrace.messages import GetRun, RunView
from support.corekit import Kit
from support.plans import loop, plan, retry, task, wait


def seen_then() -> tuple[Kit, list[tuple[int, RunView]]]:
    """A run with a retry, a loop and a wait; and what was seen of it, when."""
    kit = Kit()
    seen = []

    def look() -> None:
        seen.append((kit.now_ms, kit.view()))
        kit.advance(1_000)

    kit.start(
        plan(
            task("a", retry=retry(2)),
            loop("each", task("do"), items=["x", "y"], needs=["a"]),
            wait("w", "go", needs=["each"]),
            task("z", needs=["w"]),
        )
    )
    look()
    kit.fail("a")
    look()
    kit.complete("a", output={"n": 1})
    look()
    for path in sorted(kit.dispatched()):
        kit.complete(path)
        look()
    kit.signal("go", {"by": "ada"})
    look()
    kit.complete("z")
    look()
    return kit, seen


def past(kit: Kit, **asked: int) -> RunView:
    run = kit.run()
    request = GetRun(run="r", **asked)  # type: ignore[arg-type]
    return past_view(run.key, run.programs(), run.history, request, shard=kit.shard)


def test_each_event_and_each_time_gives_what_was_seen_then() -> None:
    kit, seen = seen_then()
    assert len({view.events for _, view in seen}) == len(seen)
    for when_ms, view in seen:
        for asked in ({"at_event": view.events}, {"at_ms": when_ms}, {"at_ms": when_ms + 400}):
            found = past(kit, **asked)
            assert found.as_of_ms
            found.as_of_ms = 0
            assert found == view


def test_an_event_in_the_middle_of_a_tick_is_a_place_too() -> None:
    kit, _ = seen_then()
    chunk = decode_chunk(kit.run().history[0])
    assert len(chunk.events) > 1
    first = past(kit, at_event=1)
    assert (first.events, first.state, first.as_of_ms) == (1, "RUNNING", chunk.time_ms)
    assert {step.state for step in first.steps} <= {"PENDING", "READY"}
    assert past(kit, at_event=kit.run().events).state == "COMPLETED"


def test_looking_back_changes_nothing() -> None:
    kit, _ = seen_then()
    before = msgspec.msgpack.encode(kit.view())
    past(kit, at_event=3)
    assert msgspec.msgpack.encode(kit.view()) == before
    kit.check()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"at_event": 0}, "run r has no event 0: its history goes from 1 to"),
        ({"at_event": 10_000}, "run r has no event 10000: its history goes from 1 to"),
        ({"at_ms": 1}, "run r did not exist yet at that time"),
    ],
)
def test_what_the_history_does_not_reach_is_refused(asked: dict[str, int], message: str) -> None:
    kit, _ = seen_then()
    with pytest.raises(InvalidRequest, match=message):
        past(kit, **asked)


def test_a_history_that_overlaps_counts_once_and_one_with_a_hole_is_refused() -> None:
    kit, seen = seen_then()
    run = kit.run()
    request = GetRun(run="r", at_event=run.events)
    twice = [*run.history[:2], *run.history]
    found = past_view(run.key, run.programs(), twice, request, shard=kit.shard)
    assert found.steps == seen[-1][1].steps
    with pytest.raises(Unavailable, match="has no event"):
        past_view(run.key, run.programs(), run.history[1:], request, shard=kit.shard)
    with pytest.raises(Unavailable, match="cannot be read"):
        past_view(run.key, run.programs(), [b"\xc1"], request, shard=kit.shard)


def test_times_of_steps_outlive_a_segment_that_went_to_the_archive() -> None:
    kit, seen = seen_then()
    run = kit.run()
    number, following = run.events + 1, decode_chunk(run.history[-1]).first
    moved = encode_chunk(run.key, number, kit.now_ms, [SegmentArchived(following)])
    request = GetRun(run="r", at_event=number)
    found = past_view(run.key, run.programs(), [*run.history, moved], request, shard=kit.shard)
    assert found.steps == seen[-1][1].steps
