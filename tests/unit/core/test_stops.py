"""`cancel` of background steps, and the time that a job has after a cancel."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.events import StepsStopped
from headrace.messages import ResultStatus, StepError
from support.corekit import Kit, finish
from support.patchkit import patched
from support.plans import Spec, child, group, job, loop, plan, sleep, task

MINUTE = 60_000


def stop(name: str, *targets: str, **options: Any) -> Spec:
    return group(name, cancels=targets, **options)


def started(*steps: Spec, **options: Any) -> Kit:
    kit = Kit()
    kit.start(plan(job("j", task("up"), *steps, **options), dialect="jobs"))
    kit.complete("j/up")
    if "j/mid" in kit.statuses():
        kit.complete("j/mid")
    return kit


def test_it_stops_a_step_waits_until_it_is_dead_and_nothing_has_failed() -> None:
    kit = started(task("server", background=True), task("test"), stop("c", "server"), task("end"))
    kit.complete("j/test")
    assert [order.cancel.step for order in kit.orders] == [kit.instance("j/server")]
    assert kit.dispatched() == ["j/server"]
    assert kit.status("j/c") == "RUNNING"
    assert kit.explain().reasons[-1].reason == "waits until j/server is dead"
    kit.cancelled("j/server")
    assert kit.dispatched() == ["j/end"]
    kit.complete("j/end")
    assert kit.state() == "COMPLETED"
    assert kit.status("j/server") == "CANCELLED"
    assert kit.status("j") == "COMPLETED"


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_in_the_middle(snapshot: bool) -> None:
    kit = started(task("server", background=True), task("mid"), stop("c", "server"), task("end"))
    kit.orders.clear()
    kit.kill(snapshot=snapshot)
    assert len(kit.orders) == 1
    kit.cancelled("j/server")
    kit.kill(snapshot=snapshot)
    kit.complete("j/end")
    assert kit.state() == "COMPLETED"


def test_one_that_fails_while_it_is_stopped_is_cancelled() -> None:
    kit = started(task("server", background=True), task("mid"), stop("c", "server"), task("end"))
    error = StepError("exit-code", "143", True)
    kit.report(kit.result(kit.task("j/server"), ResultStatus.FAILED, error=error))
    assert kit.status("j/server") == "CANCELLED"
    assert finish(kit) == "COMPLETED"


def test_one_that_completes_in_spite_of_it_has_completed() -> None:
    kit = started(task("server", background=True), task("mid"), stop("c", "server"), task("end"))
    kit.complete("j/server", {"n": 1})
    assert kit.status("j/server") == "COMPLETED"
    assert finish(kit) == "COMPLETED"


def test_one_that_has_ended_is_left_alone() -> None:
    kit = started(task("server", background=True), task("a"), stop("c", "server"), task("end"))
    kit.complete("j/server")
    kit.complete("j/a")
    assert kit.dispatched() == ["j/end"]
    (event,) = kit.all_events(kind=StepsStopped)
    assert event.steps == []


def test_its_worker_is_lost_meanwhile() -> None:
    kit = started(task("server", background=True), task("mid"), stop("c", "server"), task("end"))
    kit.lose("j/server")
    assert kit.status("j/server") == "CANCELLED"
    assert finish(kit) == "COMPLETED"


def test_several_of_every_kind() -> None:
    kit = started(
        task("a", background=True),
        sleep("s", 100_000, background=True),
        loop("l", group("l", task("x")), [1, 2], background=True),
        child("k", plan(task("t")), background=True),
        task("mid"),
        stop("c", "a", "s", "l", "k"),
        task("end"),
    )
    assert kit.status("j/s") == "CANCELLED"
    assert kit.status("j/l") == "CANCELLED"
    assert kit.status("j/k") == "CANCELLED"
    assert kit.status("j/c") == "RUNNING"
    for path in ("j/a", "j/l[0]/x", "j/l[1]/x"):
        kit.cancelled(path)
    assert kit.status("j/c") == "COMPLETED"
    kit.complete("j/end")
    assert kit.state() == "COMPLETED"


def test_what_waits_for_a_cancelled_step_goes_on() -> None:
    kit = started(
        task("a", background=True),
        task("mid"),
        stop("c", "a"),
        group("w", needs=["a"]),
        task("end"),
    )
    kit.cancelled("j/a")
    assert kit.dispatched() == ["j/end"]
    assert finish(kit) == "COMPLETED"


def test_a_step_that_was_not_stopped_by_it_still_counts_as_cancelled() -> None:
    kit = started(task("a", background=True), task("b"))
    kit.cancel()
    kit.cancelled("j/a")
    kit.cancelled("j/b")
    assert kit.state() == "CANCELLED"


def test_a_patch_in_the_middle_moves_what_is_stopped_along() -> None:
    kit = started(task("server", background=True), task("mid"), stop("c", "server"), task("end"))
    steps = (task("up"), task("server", background=True), task("mid"), stop("c", "server"))
    patched(kit, plan(task("new"), job("j", *steps, task("more"), task("end")), dialect="jobs"))
    assert kit.status("j/c") == "RUNNING"
    kit.kill(snapshot=True)
    kit.cancelled("j/server")
    kit.complete("j/more")
    kit.complete("j/end")
    kit.complete("new")
    assert kit.state() == "COMPLETED"


class TestCancelTimeout:
    def cleaning(self, **options: Any) -> Kit:
        kit = started(task("work"), task("clean", condition="always()"), **options)
        kit.cancel()
        kit.cancelled("j/work")
        assert kit.dispatched() == ["j/clean"]
        return kit

    def test_without_a_word_clean_up_takes_as_long_as_it_takes(self) -> None:
        kit = self.cleaning()
        kit.advance(1_000 * MINUTE)
        assert kit.orders[1:] == []
        kit.complete("j/clean")
        assert kit.state() == "CANCELLED"

    @pytest.mark.parametrize("limit", [2 * MINUTE, "${{ vars.n }}"])
    @pytest.mark.parametrize("takeover", [False, True])
    def test_clean_up_is_bounded_by_it(self, limit: Any, takeover: bool) -> None:
        kit = Kit()
        steps = (task("up"), task("work"), task("clean", condition="always()"))
        found = job("j", *steps, cancel_timeout_ms=limit)
        kit.start(plan(found, vars={"n": 2}, dialect="jobs"))
        kit.complete("j/up")
        kit.cancel()
        kit.cancelled("j/work")
        if takeover:
            kit.kill(snapshot=True)
        kit.advance(2 * MINUTE - 100)
        assert kit.status("j") == "RUNNING"
        kit.orders.clear()
        kit.advance(200)
        assert kit.status("j") == "CANCELLED"
        assert {order.cancel.step for order in kit.orders} == {kit.instance("j/clean")}
        kit.cancelled("j/clean")
        assert kit.state() == "CANCELLED"

    def test_what_is_being_stopped_counts_too(self) -> None:
        kit = started(task("work"), cancel_timeout_ms=MINUTE)
        kit.cancel()
        kit.advance(MINUTE)
        assert kit.status("j") == "CANCELLED"
        kit.cancelled("j/work")
        assert kit.state() == "CANCELLED"

    def test_a_job_that_begins_in_a_cancelled_run_has_the_same_time(self) -> None:
        kit = Kit()
        late = job(
            "late",
            task("x", condition="always()"),
            needs=["j"],
            condition="always()",
            cancel_timeout_ms=MINUTE,
        )
        kit.start(plan(job("j", task("a")), late, dialect="jobs"))
        kit.cancel()
        kit.advance(5 * MINUTE)
        kit.cancelled("j/a")
        assert kit.status("late") == "RUNNING"
        kit.advance(MINUTE)
        assert kit.status("late") == "CANCELLED"
        kit.cancelled("late/x")
        assert kit.state() == "CANCELLED"

    def test_it_has_no_effect_unless_the_run_is_cancelled(self) -> None:
        kit = started(task("work"), cancel_timeout_ms=MINUTE)
        kit.advance(10 * MINUTE)
        kit.complete("j/work")
        assert kit.state() == "COMPLETED"

    def test_the_runs_own_timeout_starts_it_too(self) -> None:
        kit = Kit()
        found = job("j", task("a"), task("c", condition="always()"), cancel_timeout_ms=MINUTE)
        kit.start(plan(found, timeout_ms=1_000, dialect="jobs"))
        kit.advance(1_000)
        kit.cancelled("j/a")
        kit.advance(MINUTE)
        kit.cancelled("j/c")
        assert kit.state() == "FAILED"
