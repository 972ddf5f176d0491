"""Retries, timeouts, losses: which attempt counts, when the next one begins, when it is over."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Limits
from headrace.events import StepFailed, StepQueued
from support.corekit import START_MS, Kit
from support.plans import group, plan, retry, task

# --- retries -----------------------------------------------------------------------------------


def test_fixed_backoff_until_the_attempts_are_used_up() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(3, initial_ms=2_000))))
    for attempt in (1, 2):
        assert kit.task("a").attempt == attempt
        kit.fail("a")
        assert kit.status("a") == "WAITING"
        kit.advance(1_999)
        assert kit.dispatched() == []
        kit.advance(1)
    kit.fail("a")
    assert kit.state() == "FAILED"
    assert len(kit.all_events(kind=StepFailed)) == 3


def test_exponential_backoff_has_a_cap() -> None:
    kit = Kit()
    policy = retry(6, backoff="exponential", initial_ms=1_000, factor=3.0, max_ms=10_000)
    kit.start(plan(task("a", retry=policy)))
    waits = []
    for _ in range(5):
        kit.fail("a")
        waits.append(kit.next_timer())
    assert waits == [1_000, 3_000, 9_000, 10_000, 10_000]


@pytest.mark.parametrize(
    ("chance", "options", "expected"),
    [
        (0.5, {"initial_ms": 1_000, "jitter": 0.2}, 900),
        (0.0, {"initial_ms": 1_000, "jitter": 0.2}, 1_000),
        (0.25, {"backoff": "random", "initial_ms": 1_000, "max_ms": 5_000}, 2_000),
    ],
)
def test_jitter_comes_from_the_machines_chance(
    chance: float, options: dict[str, object], expected: int
) -> None:
    kit = Kit(chance=lambda: chance)
    kit.start(plan(task("a", retry=retry(2, **options))))
    kit.fail("a")
    assert kit.next_timer() == expected


@pytest.mark.parametrize(
    ("options", "kind", "retryable"),
    [
        ({"not_on": ("bad-input",)}, "bad-input", True),
        ({"retry_on": ("timeout",)}, "exit-code", True),
        ({}, "exit-code", False),
    ],
)
def test_what_is_not_worth_another_attempt(
    options: dict[str, object], kind: str, retryable: bool
) -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(3, **options))))
    kit.fail("a", kind, retryable=retryable)
    assert kit.state() == "FAILED"


def test_max_elapsed_ends_the_retries() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(100, initial_ms=1_000, max_elapsed_ms=2_500))))
    kit.fail("a")
    kit.advance(1_000)
    kit.fail("a")
    kit.advance(1_000)
    kit.fail("a")
    assert kit.state() == "FAILED"


def test_losses_and_returns_do_not_count() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(2))))
    for _ in range(3):
        kit.lose("a")
        kit.hand_back("a")
    assert kit.task("a").attempt == 7
    kit.fail("a")
    assert kit.status("a") == "WAITING"
    kit.next_timer()
    kit.fail("a")
    assert kit.state() == "FAILED"


def test_a_step_that_loses_worker_after_worker_fails() -> None:
    """A poison step must not take down the fleet for ever; handing back is not losing."""
    kit = Kit(limits=Limits(losses=2))
    kit.start(plan(task("a")))
    for _ in range(10):
        kit.hand_back("a")
    kit.lose("a")
    kit.lose("a")
    assert kit.status("a") == "DISPATCHED"
    kit.lose("a")
    assert kit.state() == "FAILED"
    assert "2 workers were lost" in kit.run().ended_reason


def test_the_number_of_attempts_has_a_limit() -> None:
    kit = Kit(limits=Limits(attempts=3))
    kit.start(plan(task("a")))
    for _ in range(3):
        kit.hand_back("a")
    assert kit.state() == "FAILED"
    assert "attempts" in kit.run().ended_reason


def test_a_retrys_outcome_replaces_the_failed_attempts() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(2)), task("b")))
    result = kit.result(kit.task("a"), 1, output={"partial": 1})
    assert kit.report(result) == []
    kit.next_timer()
    kit.complete("a")
    assert kit.run().outputs == {}
    assert kit.run().errors == {}


def test_a_retry_survives_its_leader() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(2, initial_ms=60_000))))
    kit.fail("a")
    kit.kill(snapshot=True)
    kit.kill()
    assert kit.next_timer() > 59_000
    assert kit.dispatched() == ["a"]


# --- timeouts ----------------------------------------------------------------------------------


def test_the_worker_is_told_the_shorter_of_both_limits() -> None:
    kit = Kit()
    kit.start(plan(task("a", timeout_ms=10_000, attempt_timeout_ms=4_000, retry=retry(9))))
    options = kit.task("a").options
    assert options is not None
    assert options.timeout_ms == 4_000
    kit.now_ms += 7_000
    kit.fail("a", "timeout")
    kit.next_timer()
    options = kit.task("a").options
    assert options is not None
    assert options.timeout_ms == 2_000, "8 s of 10 are over"


def test_no_attempt_begins_when_the_whole_time_is_over() -> None:
    kit = Kit()
    kit.start(plan(task("a", timeout_ms=5_000, retry=retry(9))))
    kit.now_ms += 4_500
    kit.fail("a", "timeout")
    assert kit.state() == "FAILED"


def test_an_expression_gives_minutes_as_on_github() -> None:
    kit = Kit()
    kit.start(plan(task("a", timeout_ms="${{ inputs.m }}")), input={"m": 2})
    options = kit.task("a").options
    assert options is not None
    assert options.timeout_ms == 120_000


def test_a_groups_timeout_stops_what_is_in_it() -> None:
    kit = Kit()
    kit.start(
        plan(
            group("g", task("a"), task("b", needs=["a"]), timeout_ms=5_000),
            task("c", needs=["g"], condition="always()"),
        )
    )
    kit.advance(5_000)
    assert kit.statuses() == {
        "g": "FAILED",
        "g/a": "DISPATCHED",
        "g/b": "CANCELLED",
        "c": "DISPATCHED",
    }
    assert [order.cancel.run for order in kit.orders] == ["default/r"]
    kit.complete("c")
    kit.cancelled("g/a")
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "g: timeout: its timeout passed"


def test_a_runs_timeout_fails_it() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b", needs=["a"]),
            task("clean", needs=["a"], condition="always()"),
            timeout_ms=9_000,
        )
    )
    kit.advance(9_000)
    kit.kill()
    assert kit.machine.timers.next_ms() == 0, "it fires once"
    kit.cancelled("a")
    assert kit.dispatched() == ["clean"]
    kit.complete("clean")
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "the run's timeout passed"


def test_schedule_to_start_runs_while_nobody_takes_it() -> None:
    kit = Kit(credit=0)
    kit.start(plan(task("a", schedule_timeout_ms=10_000), task("b")))
    assert kit.names()[-1] == "StepQueued a"
    kit.advance(9_999)
    assert kit.status("a") == "PENDING"
    kit.advance(1)
    assert kit.status("a") == "FAILED"
    assert kit.run().errors[kit.instance("a")].type == "schedule-timeout"


def test_schedule_to_start_is_not_prolonged_by_a_takeover() -> None:
    kit = Kit(credit=0)
    kit.start(plan(task("a", schedule_timeout_ms=10_000)))
    for _ in range(3):
        kit.advance(3_000)
        kit.kill()
    assert kit.machine.timers.next_ms() == START_MS + 10_000
    assert len(kit.all_events(kind=StepQueued)) == 1


def test_schedule_to_start_begins_anew_with_each_wait() -> None:
    """A step that was taken, and came back, has its whole time again."""
    kit = Kit()
    kit.start(plan(task("a", schedule_timeout_ms=10_000, retry=retry(3))))
    kit.advance(9_000)
    kit.credit = 0
    kit.lose("a")
    kit.advance(9_000)
    assert kit.status("a") == "PENDING"
    kit.credit = 1
    kit.tick()
    kit.credit = 0
    kit.fail("a")
    kit.next_timer()
    assert kit.status("a") == "PENDING", "its retry is due, and waits for a worker"
    kit.advance(9_999)
    assert kit.status("a") == "PENDING"
    kit.advance(1)
    assert kit.state() == "FAILED"


def test_time_in_a_pause_is_not_waiting_for_a_worker() -> None:
    kit = Kit(credit=0)
    kit.start(plan(task("a", schedule_timeout_ms=10_000)))
    kit.pause()
    kit.advance(60_000)
    kit.resume()
    assert kit.status("a") == "PENDING"
    kit.advance(10_000)
    assert kit.state() == "FAILED"


def test_timers_fire_in_portions() -> None:
    kit = Kit(limits=Limits(timers=2))
    kit.start(plan(*(task(f"t{i}", retry=retry(2)) for i in range(5))))
    for i in range(5):
        kit.fail(f"t{i}")
    kit.advance(1_000)
    assert len(kit.dispatched()) == 2
    kit.tick()
    kit.tick()
    assert len(kit.dispatched()) == 5
