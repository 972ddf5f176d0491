"""A clock that was set back: what is logged, and what waits for a time."""

from __future__ import annotations

from headrace.coordinator.core import state_hash
from headrace.events import decode_batch
from support.corekit import Kit, finish
from support.plans import plan, sleep, task, wait


def test_logged_time_never_goes_back() -> None:
    kit = Kit()
    kit.start(plan(wait("w", "go"), task("a", needs=["w"])))
    begun = kit.now_ms
    kit.now_ms -= 1_000
    kit.signal("go")
    kit.complete("a")
    times = [decode_batch(entry).time_ms for _, entry in kit.log]
    assert times == sorted(times)
    assert times[-1] >= begun
    assert state_hash(kit.folder.state) == state_hash(kit.machine.state)


def test_a_timer_is_not_early_for_a_clock_that_was_set_back_and_on_again() -> None:
    kit = Kit()
    kit.start(plan(sleep("s", 60_000)))
    kit.now_ms -= 3_600_000
    kit.advance(59_000)
    assert kit.state() == "RUNNING"
    kit.now_ms += 3_600_000
    kit.advance(1_000)
    assert finish(kit) == "COMPLETED"
