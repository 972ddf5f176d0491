"""Compensation: what has completed is undone, the last first, before a run or a job ends."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.events import CompensationScheduled, NodeRestarted
from support.corekit import Kit, paths
from support.plans import Spec, child, group, job, join, loop, plan, policy, retry, task, wait

UNDO = policy("compensate")
AGAIN = policy("compensate-and-retry", rounds=2)


def step(name: str, *, needs: list[str] | None = None, **options: Any) -> Spec:
    undo = options.pop("undo", {})
    return task(name, needs=needs or [], compensate=task("undo", **undo), **options)


def saga(kit: Kit, *, root: dict[str, Any] | None = None) -> None:
    """Three steps with compensations, and one that fails."""
    kit.start(
        plan(
            step("a"),
            step("b", needs=["a"]),
            task("c", needs=["b"]),
            step("d", needs=["c"]),
            root={"on_failure": UNDO} if root is None else root,
        )
    )
    for name in "abc":
        kit.complete(name, {"id": name})


def undone(kit: Kit) -> list[str]:
    """Return the steps whose compensation began, in order."""
    events = kit.all_events(kind=CompensationScheduled)
    return [kit.run().path(event.step) for event in events]


class TestOrder:
    def test_what_completed_is_undone_backwards(self) -> None:
        kit = Kit()
        saga(kit)
        kit.advance(5_000)
        kit.fail("d")
        assert kit.dispatched() == ["b~compensate"]
        assert "compensating, 1 more" in kit.explain().summary
        assert kit.explain().reasons[0].since_ms == kit.machine.state.now_ms
        kit.complete("b~compensate")
        assert kit.dispatched() == ["a~compensate"]
        kit.complete("a~compensate")
        assert kit.state() == "FAILED"
        assert kit.run().ended_reason == "d: exit-code: d failed"
        assert kit.statuses() == {
            "a": "COMPLETED",
            "a~compensate": "COMPLETED",
            "b": "COMPLETED",
            "b~compensate": "COMPLETED",
            "c": "COMPLETED",
            "d": "FAILED",
        }

    def test_the_order_is_that_of_completion(self) -> None:
        kit = Kit()
        kit.start(plan(step("a"), step("b"), step("c"), task("d"), root={"on_failure": UNDO}))
        for name in "bca":
            kit.complete(name)
        kit.fail("d")
        for name in "acb":
            assert kit.dispatched() == [f"{name}~compensate"]
            kit.complete(f"{name}~compensate")
        assert kit.state() == "FAILED"

    def test_without_a_policy_nothing_is_undone(self) -> None:
        kit = Kit()
        saga(kit, root={})
        kit.fail("d")
        assert kit.state() == "FAILED"

    def test_success_undoes_nothing(self) -> None:
        kit = Kit()
        saga(kit)
        kit.complete("d")
        assert kit.state() == "COMPLETED"

    def test_iterations_are_undone_each(self) -> None:
        kit = Kit()
        body = group("body", step("s", undo={"inputs": {"x": "${{ item }}"}}))
        kit.start(
            plan(loop("l", body, [5, 6, 7]), task("z", needs=["l"]), root={"on_failure": UNDO})
        )
        for index in (1, 0, 2):
            kit.complete(f"l[{index}]/s")
        kit.fail("z")
        for index in (2, 0, 1):
            path = f"l[{index}]/s~compensate"
            assert kit.inputs(path) == {"x": 5 + index}
            kit.complete(path)
        assert kit.state() == "FAILED"

    def test_it_waits_for_what_still_runs_and_undoes_that_too(self) -> None:
        kit = Kit()
        kit.start(
            plan(
                step("a"), step("slow"), task("bad"),
                root={"on_failure": UNDO, "join": join("count", 3)},
            )
        )  # fmt: skip
        kit.complete("a")
        kit.fail("bad")
        assert kit.dispatched() == ["slow"], "it is being stopped, and not dead yet"
        kit.complete("slow")
        assert kit.dispatched() == ["slow~compensate"]
        kit.complete("slow~compensate")
        kit.complete("a~compensate")
        assert kit.state() == "FAILED"
        assert undone(kit) == ["slow", "a"]


class TestContexts:
    def test_it_sees_outputs_and_the_failure(self) -> None:
        kit = Kit()
        undo = {"inputs": {"id": "${{ tasks.a.outputs.id }}", "why": "${{ failure.step }}"}}
        kit.start(plan(step("a", undo=undo), task("b", needs=["a"]), root={"on_failure": UNDO}))
        kit.complete("a", {"id": "x1"})
        kit.fail("b")
        assert kit.inputs("a~compensate") == {"id": "x1", "why": "b"}

    def test_a_list_of_steps_is_one_compensation(self) -> None:
        kit = Kit()
        undo = group("u", task("x"), task("y", condition="success()"), kind="pipeline")
        kit.start(plan(task("a", compensate=undo), task("b"), root={"on_failure": UNDO}))
        kit.complete("a")
        kit.fail("b")
        kit.complete("a~compensate/x")
        kit.complete("a~compensate/y")
        assert kit.state() == "FAILED"

    def test_it_does_not_need_the_jobs_worker(self) -> None:
        kit = Kit()
        kit.start(
            plan(
                job("j", step("a"), runs_on=("gpu",)),
                job("k", task("b"), needs=["j"]),
                root={"on_failure": UNDO},
            )
        )
        kit.complete("j/a")
        kit.lose_worker("w")
        kit.fail("k/b")
        assert kit.dispatched() == ["j/a~compensate"]
        assert kit.scheduled()[-1].lane == kit.scheduled()[0].lane, "any worker with the labels"


class TestFailing:
    def test_one_that_fails_is_told_and_the_rest_goes_on(self) -> None:
        kit = Kit()
        saga(kit)
        kit.fail("d")
        kit.fail("b~compensate")
        kit.complete("a~compensate")
        assert kit.state() == "FAILED"
        assert kit.run().ended_reason == "d: exit-code: d failed; not compensated: b"

    def test_it_has_retries_of_its_own(self) -> None:
        kit = Kit()
        kit.start(plan(step("a", undo={"retry": retry(2)}), task("b"), root={"on_failure": UNDO}))
        kit.complete("a")
        kit.fail("b")
        kit.fail("a~compensate")
        assert kit.status("a~compensate") == "WAITING"
        kit.next_timer()
        kit.complete("a~compensate")
        assert "not compensated" not in kit.run().ended_reason

    def test_a_lost_worker_costs_nothing(self) -> None:
        kit = Kit()
        saga(kit)
        kit.fail("d")
        kit.lose("b~compensate")
        kit.complete("b~compensate")
        kit.complete("a~compensate")
        assert undone(kit) == ["b", "a"]

    @pytest.mark.parametrize("snapshot", [False, True])
    def test_takeovers_in_between(self, snapshot: bool) -> None:
        kit = Kit()
        saga(kit)
        kit.kill(snapshot=snapshot)
        kit.fail("d")
        kit.kill(snapshot=snapshot)
        kit.complete("b~compensate")
        kit.kill(snapshot=snapshot)
        kit.fail("a~compensate")
        assert undone(kit) == ["b", "a"]
        assert kit.state() == "FAILED"

    def test_a_job_that_began_anew_undoes_what_it_had_done_before(self) -> None:
        kit = Kit()
        kit.start(plan(job("j", step("a"), wait("w")), root={"on_failure": UNDO}, timeout_ms=9_000))
        kit.complete("j/a", {"id": 1})
        kit.lose_worker("w")
        kit.advance(9_000)
        kit.cancelled("j/a")
        assert kit.dispatched() == ["j/a~compensate"]


class TestCancel:
    def test_a_cancel_undoes_nothing_by_itself(self) -> None:
        kit = Kit()
        saga(kit)
        kit.cancel()
        kit.cancelled("d")
        assert kit.state() == "CANCELLED"
        assert undone(kit) == []

    def test_on_cancel_compensate(self) -> None:
        kit = Kit()
        undo = {"inputs": {"k": "${{ failure.kind }}"}}
        kit.start(plan(step("a", undo=undo), task("b"), root={"on_cancel": "compensate"}))
        kit.complete("a")
        kit.cancel()
        kit.cancelled("b")
        assert kit.inputs("a~compensate") == {"k": "cancelled"}
        kit.fail("a~compensate")
        assert kit.state() == "CANCELLED"
        assert kit.run().ended_reason.endswith("not compensated: a")

    def test_a_cancel_does_not_stop_compensations_but_a_second_does(self) -> None:
        kit = Kit()
        saga(kit)
        kit.fail("d")
        kit.cancel()
        assert kit.dispatched() == ["b~compensate"]
        assert not kit.run().doomed
        kit.cancel()
        assert kit.run().doomed
        kit.cancelled("b~compensate")
        assert kit.state() == "CANCELLED"
        assert kit.run().ended_reason.endswith("not compensated: a, b")

    def test_a_cancel_before_it_is_dispatched(self) -> None:
        kit = Kit()
        saga(kit)
        kit.credit = 0
        kit.fail("d")
        kit.cancel()
        kit.credit = 9
        kit.tick()
        assert kit.dispatched() == ["b~compensate"]

    def test_the_runs_timeout_undoes_and_does_not_cut_it_short(self) -> None:
        kit = Kit()
        kit.start(plan(step("a"), wait("w"), root={"on_failure": UNDO}, timeout_ms=5_000))
        kit.complete("a")
        kit.advance(5_000)
        assert kit.dispatched() == ["a~compensate"]
        kit.advance(50_000)
        kit.complete("a~compensate")
        assert kit.state() == "FAILED"
        assert kit.run().ended_reason == "the run's timeout passed"


class TestScopes:
    def test_a_jobs_policy_is_about_the_job(self) -> None:
        kit = Kit()
        kit.start(
            plan(
                job("j", step("a")),
                job("k", step("b"), task("c"), needs=["j"], on_failure=UNDO),
            )
        )
        kit.complete("j/a")
        kit.complete("k/b")
        kit.fail("k/c")
        kit.complete("k/b~compensate")
        assert undone(kit) == ["k/b"]
        assert kit.state() == "FAILED"

    def test_then_comes_what_is_around_it(self) -> None:
        kit = Kit()
        kit.start(
            plan(
                job("j", step("a")),
                job("k", step("b"), task("c"), needs=["j"], on_failure=UNDO),
                root={"on_failure": UNDO},
            )
        )
        kit.complete("j/a")
        kit.complete("k/b")
        kit.fail("k/c")
        kit.complete("k/b~compensate")
        kit.complete("j/a~compensate")
        assert undone(kit) == ["k/b", "j/a"]
        assert kit.state() == "FAILED"

    def test_a_step_may_ask_for_it(self) -> None:
        kit = Kit()
        kit.start(plan(step("a"), task("b", on_failure=UNDO), task("c", needs=["a"])))
        kit.complete("a")
        kit.fail("b")
        kit.complete("c")
        kit.complete("a~compensate")
        assert kit.state() == "FAILED"

    def test_a_step_may_ask_for_none(self) -> None:
        kit = Kit()
        kit.start(plan(step("a"), task("b", on_failure=policy("fail")), root={"on_failure": UNDO}))
        kit.complete("a")
        kit.fail("b")
        assert kit.state() == "FAILED"
        assert undone(kit) == []

    def test_a_deadline_outside_waits_for_it(self) -> None:
        kit = Kit()
        inner = group("g", step("a"), task("b"), on_failure=UNDO)
        kit.start(plan(group("o", inner, wait("w"), timeout_ms=5_000)))
        kit.complete("o/g/a")
        kit.fail("o/g/b")
        kit.advance(6_000)
        assert kit.status("o") == "RUNNING"
        kit.complete("o/g/a~compensate")
        kit.tick()
        assert kit.statuses()["o/w"] == "CANCELLED"
        assert kit.state() == "FAILED"

    def test_fail_fast_waits_for_it(self) -> None:
        kit = Kit()
        leg = group("leg", step("a"), task("b"), on_failure=UNDO)
        kit.start(plan(loop("m", leg, [1, 2], fail_fast=True)))
        for index in (0, 1):
            kit.complete(f"m[{index}]/a")
            kit.fail(f"m[{index}]/b")
        kit.complete("m[0]/a~compensate")
        assert kit.status("m") == "RUNNING"
        kit.complete("m[1]/a~compensate")
        assert kit.state() == "FAILED"


class TestRetry:
    def test_a_job_is_undone_and_done_again(self) -> None:
        kit = Kit()
        kit.start(plan(job("j", step("a"), task("b"), on_failure=AGAIN), task("z", needs=["j"])))
        first = kit.task("j/a")
        kit.complete("j/a", {"id": 1})
        kit.fail("j/b")
        kit.complete("j/a~compensate")
        assert kit.dispatched() == ["j/a"]
        again = kit.task("j/a")
        assert (first.options.round, again.options.round) == (0, 1), "another idempotency key"
        assert "j/a~compensate" not in kit.statuses()
        kit.complete("j/a", {"id": 2})
        kit.complete("j/b")
        kit.complete("z")
        assert kit.state() == "COMPLETED"
        assert paths(kit.all_events(kind=NodeRestarted), kit.run()) == ["j"]

    def test_rounds_are_bounded(self) -> None:
        kit = Kit()
        kit.start(plan(step("a"), task("b"), root={"on_failure": AGAIN}))
        for _ in range(2):
            kit.complete("a")
            kit.fail("b")
            kit.kill(snapshot=True)
            kit.complete("a~compensate")
        assert kit.state() == "FAILED"
        assert undone(kit) == ["a", "a"]

    def test_not_again_when_something_is_not_undone(self) -> None:
        kit = Kit()
        kit.start(plan(step("a"), task("b"), root={"on_failure": AGAIN}))
        kit.complete("a")
        kit.fail("b")
        kit.fail("a~compensate")
        assert kit.state() == "FAILED"
        assert kit.all_events(kind=NodeRestarted) == []
        assert kit.run().ended_reason == "b: exit-code: b failed; not compensated: a"

    def test_not_again_what_may_run_once(self) -> None:
        kit = Kit()
        once = task("a", effect="at-most-once")
        kit.start(plan(once, task("b", needs=["a"]), root={"on_failure": AGAIN}))
        assert kit.claim("a").granted
        kit.complete("a")
        kit.fail("b")
        assert kit.state() == "FAILED"
        why = "it cannot begin anew, because a has run and may run once"
        assert kit.run().ended_reason == f"b: exit-code: b failed; {why}"

    def test_not_again_what_was_stopped_in_the_middle_and_may_run_once(self) -> None:
        kit = Kit()
        once = task("a", effect="at-most-once")
        root = {"on_failure": AGAIN, "join": join("count", 2)}
        kit.start(plan(once, task("b"), root=root))
        assert kit.claim("a").granted
        kit.fail("b")
        kit.cancelled("a")
        assert kit.state() == "FAILED"
        assert kit.run().ended_reason.endswith("because a has run and may run once")

    def test_again_what_was_not_begun(self) -> None:
        kit = Kit()
        once = task("a", effect="at-most-once")
        root = {"on_failure": AGAIN, "join": join("count", 2)}
        kit.start(plan(once, task("b"), root=root))
        kit.hand_back("a")
        kit.credit = 0
        kit.hand_back("a")
        kit.fail("b")
        kit.credit = 9
        kit.tick()
        assert sorted(kit.dispatched()) == ["a", "b"]

    def test_a_loop_that_begins_anew_has_other_children(self) -> None:
        kit = Kit()
        body = child("c", plan(task("x"), name="inner"))
        kit.start(plan(loop("l", body, [1]), root={"on_failure": AGAIN}))
        first = kit.view().steps[-1].child
        kit.fail("x", run=first)
        second = kit.view().steps[-1].child
        assert first != second
        kit.complete("x", run=second)
        assert kit.state() == "COMPLETED"

    def test_a_job_has_its_time_again(self) -> None:
        kit = Kit()
        kit.start(plan(job("j", step("a"), wait("w"), on_failure=AGAIN, timeout_ms=5_000)))
        for _ in range(2):
            kit.complete("j/a")
            kit.advance(5_000)
            kit.complete("j/a~compensate")
        assert kit.state() == "FAILED"
        assert kit.run().ended_reason == "j: timeout: its timeout passed"
