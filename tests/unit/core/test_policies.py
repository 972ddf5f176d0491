"""`on-failure` and `on-unknown`: what follows when a step has failed, or nobody knows."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Refusal
from headrace.events import StepResolved
from support.corekit import Kit
from support.plans import choice, group, job, loop, plan, policy, retry, task, wait


def test_skip_counts_as_skipped_and_what_needs_it_goes_on() -> None:
    kit = Kit()
    kit.start(plan(task("a", on_failure=policy("skip")), task("b", needs=["a"])))
    kit.fail("a")
    assert kit.statuses() == {"a": "SKIPPED", "b": "DISPATCHED"}
    kit.complete("b")
    assert kit.state() == "COMPLETED"
    (view, _) = kit.view().steps
    assert (view.state, view.error) == ("SKIPPED", "exit-code: a failed")


def test_skip_comes_after_the_last_retry() -> None:
    kit = Kit()
    kit.start(plan(task("a", on_failure=policy("skip"), retry=retry(2))))
    kit.fail("a")
    assert kit.status("a") == "WAITING"
    kit.next_timer()
    kit.fail("a")
    assert kit.status("a") == "SKIPPED"
    assert kit.state() == "COMPLETED"


def test_abort_cancels_the_rest_at_once() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a", on_failure=policy("abort")),
            task("b"),
            wait("c"),
            task("d", needs=["b"]),
            task("clean", needs=["b"], condition="always()"),
        )
    )
    kit.fail("a")
    assert kit.state() == "RUNNING", "what runs is stopped first"
    kit.cancelled("b")
    kit.complete("clean")
    assert kit.statuses() == {
        "a": "FAILED",
        "b": "CANCELLED",
        "c": "CANCELLED",
        "d": "CANCELLED",
        "clean": "COMPLETED",
    }
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "a: exit-code: a failed"


@pytest.mark.parametrize("where", ["step", "job", "workflow"])
def test_policies_are_inherited(where: str) -> None:
    wanted, other = policy("skip"), policy("abort")
    kit = Kit()
    kit.start(
        plan(
            job(
                "j",
                task("a", on_failure=wanted if where == "step" else None),
                on_failure={"step": other, "job": wanted}.get(where),
            ),
            root={"on_failure": wanted if where == "workflow" else other},
        )
    )
    kit.fail("j/a")
    assert kit.statuses() == {"j": "COMPLETED", "j/a": "SKIPPED"}


def test_fail_is_no_policy() -> None:
    kit = Kit()
    kit.start(plan(task("a", on_failure=policy("fail")), root={"on_failure": policy("skip")}))
    kit.fail("a")
    assert kit.status("a") == "FAILED"


def test_a_group_that_is_too_slow_is_skipped_too() -> None:
    kit = Kit()
    kit.start(
        plan(
            group("g", wait("w"), timeout_ms=1_000, on_failure=policy("skip")),
            task("b", needs=["g"]),
        )
    )
    kit.advance(1_000)
    assert kit.statuses() == {"g": "SKIPPED", "g/w": "CANCELLED", "b": "DISPATCHED"}


class TestHandlers:
    def test_a_handler_sees_the_failure_and_the_step_fails(self) -> None:
        kit = Kit()
        tell = task(
            "tell", inputs={"x": "${{ failure.step }} ${{ failure.kind }} ${{ failure.error }}"}
        )
        kit.start(plan(task("a", on_failure=tell), task("b", needs=["a"])))
        kit.fail("a")
        assert kit.statuses() == {"a": "WAITING", "a~on_failure": "DISPATCHED", "b": "PENDING"}
        assert kit.inputs("a~on_failure") == {"x": "a exit-code a failed"}
        assert "a~on_failure decides" in kit.explain().summary
        kit.complete("a~on_failure")
        assert kit.statuses() == {"a": "FAILED", "a~on_failure": "COMPLETED", "b": "SKIPPED"}
        assert kit.run().ended_reason == "a: exit-code: a failed"

    def test_a_handler_can_say_what_the_result_is(self) -> None:
        kit = Kit()
        kit.start(
            plan(
                task("a", on_failure=task("h")),
                task("b", needs=["a"], inputs={"x": "${{ tasks.a.outputs.v }}"}),
            )
        )
        kit.fail("a")
        kit.complete("a~on_failure", {"resolution": "completed", "v": 7})
        assert kit.status("a") == "COMPLETED"
        assert kit.output("a") == {"v": 7}
        assert kit.inputs("b") == {"x": 7}

    def test_a_handler_can_have_it_run_once_more(self) -> None:
        kit = Kit()
        kit.start(plan(task("a", on_failure=task("h"), retry=retry(2))))
        for _ in range(2):
            kit.fail("a")
            kit.next_timer()
        kit.complete("a~on_failure", {"resolution": "retry"})
        assert [e.attempt for e in kit.scheduled() if e.step == 1] == [1, 2, 3]
        kit.fail("a")
        assert kit.status("a") == "WAITING", "its retries count anew"
        kit.next_timer()
        kit.fail("a")
        assert kit.state() == "FAILED", "it is asked once"

    def test_a_handler_that_fails_leaves_the_failure(self) -> None:
        kit = Kit()
        kit.start(plan(task("a", on_failure=task("h"))))
        kit.fail("a")
        kit.fail("a~on_failure")
        assert kit.state() == "FAILED"
        assert kit.status("a") == "FAILED"

    def test_handlers_of_several_steps_are_the_last_ones_word(self) -> None:
        kit = Kit()
        handler = group("h", task("x"), task("y"), kind="pipeline")
        kit.start(plan(task("a", on_failure=handler)))
        kit.fail("a")
        kit.complete("a~on_failure/x", {"resolution": "retry"})
        kit.complete("a~on_failure/y", {"resolution": "completed"})
        assert kit.state() == "COMPLETED"

    @pytest.mark.parametrize("snapshot", [False, True])
    def test_handlers_outlive_their_owner(self, snapshot: bool) -> None:
        kit = Kit(credit=0)
        kit.start(plan(task("a", on_failure=task("h"))))
        kit.credit = 9
        kit.tick()
        kit.fail("a")
        kit.kill(snapshot=snapshot)
        kit.complete("a~on_failure", {"resolution": "completed"})
        assert kit.state() == "COMPLETED"

    @pytest.mark.parametrize("dispatched", [False, True])
    def test_a_cancel_stops_them(self, dispatched: bool) -> None:
        kit = Kit()
        kit.start(plan(task("a", on_failure=task("h"))))
        kit.credit = 1_000_000 if dispatched else 0
        kit.fail("a")
        kit.credit = 1_000_000
        kit.cancel()
        if dispatched:
            kit.cancelled("a~on_failure")
        assert kit.state() == "CANCELLED"
        assert kit.statuses() == {"a": "CANCELLED", "a~on_failure": "CANCELLED"}

    def test_each_iteration_has_its_own(self) -> None:
        kit = Kit()
        step = task("s", on_failure=task("h", inputs={"at": "${{ failure.step }} ${{ item }}"}))
        kit.start(plan(loop("l", group("body", step), [5, 6])))
        kit.fail("l[1]/s")
        kit.complete("l[0]/s")
        assert kit.inputs("l[1]/s~on_failure") == {"at": "l[1]/s 6"}
        kit.complete("l[1]/s~on_failure", {"resolution": "completed"})
        assert kit.state() == "COMPLETED"
        assert "l[0]/s~on_failure" not in kit.statuses()

    def test_a_wait_has_one_too(self) -> None:
        kit = Kit()
        kit.start(plan(wait("w", timeout_ms=1_000, on_failure=task("h"))))
        kit.advance(1_000)
        kit.complete("w~on_failure", {"resolution": "completed", "v": 1})
        assert kit.state() == "COMPLETED"
        assert kit.output("w") == {"v": 1}


class TestUnknown:
    def claimed(self, **options: object) -> Kit:
        kit = Kit()
        kit.start(plan(task("a", effect="at-most-once", **options), task("b", needs=["a"])))
        assert kit.claim("a").granted
        kit.lose("a")
        return kit

    def test_without_a_word_the_run_fails(self) -> None:
        kit = self.claimed()
        assert kit.statuses() == {"a": "UNKNOWN", "b": "SKIPPED"}
        assert kit.state() == "FAILED"

    def test_skip_goes_on_and_leaves_it_unknown(self) -> None:
        kit = self.claimed(on_failure=policy("skip"))
        assert kit.statuses() == {"a": "UNKNOWN", "b": "DISPATCHED"}

    def test_abort_fails_the_run(self) -> None:
        kit = self.claimed(on_failure=policy("abort"))
        assert kit.state() == "FAILED"
        assert "had claimed the effect" in kit.run().ended_reason

    def test_a_reconciling_step_decides(self) -> None:
        kit = self.claimed(reconcile=task("find"))
        assert kit.statuses() == {"a": "UNKNOWN", "a~reconcile": "DISPATCHED", "b": "PENDING"}
        kit.complete("a~reconcile", {"resolution": "completed", "id": "x1"})
        assert kit.status("a") == "COMPLETED"
        assert kit.output("a") == {"id": "x1"}
        kit.complete("b")
        assert kit.state() == "COMPLETED"

    def test_a_reconciling_step_may_have_it_run_again(self) -> None:
        kit = self.claimed(reconcile=task("find"))
        kit.complete("a~reconcile", {"resolution": "retry"})
        assert kit.task("a").attempt == 2
        assert kit.claim("a").granted
        kit.lose("a")
        assert kit.state() == "FAILED", "it is asked once"

    def test_one_that_cannot_find_out_leaves_it_unknown(self) -> None:
        kit = self.claimed(reconcile=task("find"))
        kit.fail("a~reconcile")
        assert kit.statuses() == {"a": "UNKNOWN", "a~reconcile": "FAILED", "b": "SKIPPED"}
        assert kit.state() == "FAILED"

    def test_a_cancel_ends_the_waiting(self) -> None:
        kit = self.claimed(on_unknown="wait")
        assert kit.state() == "RUNNING"
        kit.cancel()
        assert kit.state() == "CANCELLED"
        assert kit.status("a") == "UNKNOWN"

    @pytest.mark.parametrize("snapshot", [False, True])
    def test_waiting_for_a_person_outlives_the_owner(self, snapshot: bool) -> None:
        kit = self.claimed(on_unknown="wait")
        kit.kill(snapshot=snapshot)
        assert kit.state() == "RUNNING"
        reason = kit.explain().reasons[0]
        assert (reason.path, reason.state, reason.owner) == ("a", "UNKNOWN", "person")
        assert "flowctl resolve r a --completed | --failed | --retry" in reason.reason
        assert kit.view().conditions == ["WAITING"]

    def test_a_job_goes_on_elsewhere_when_somebody_has_decided(self) -> None:
        kit = Kit()
        kit.start(plan(job("j", task("a", effect="at-most-once", on_unknown="wait"), task("b"))))
        assert kit.claim("j/a").granted
        kit.lose("j/a")
        kit.lose_worker("w")
        assert kit.status("j") == "RUNNING"

    def test_in_a_choice(self) -> None:
        kit = Kit()
        branch = group("b", task("a", effect="at-most-once", reconcile=task("find")))
        kit.start(plan(choice("c", branch)))
        assert kit.claim("c/b/a").granted
        kit.lose("c/b/a")
        kit.complete("c/b/a~reconcile", {"resolution": "completed"})
        assert kit.state() == "COMPLETED"


class TestResolve:
    def unknown(self, **options: object) -> Kit:
        return TestUnknown().claimed(on_unknown="wait", **options)

    def test_completed_with_outputs(self) -> None:
        kit = self.unknown()
        kit.resolve("a", "completed", output={"id": 3}, actor="ann")
        assert kit.statuses() == {"a": "COMPLETED", "b": "DISPATCHED"}
        assert kit.output("a") == {"id": 3}
        told = [entry for entry in kit.history() if entry.type == "StepResolved"]
        assert (told[0].path, told[0].data["actor"]) == ("a", "ann")
        assert kit.view().steps[0].reason == "completed, said ann"

    def test_failed(self) -> None:
        kit = self.unknown()
        kit.resolve("a", "failed")
        assert kit.statuses() == {"a": "FAILED", "b": "SKIPPED"}
        assert kit.state() == "FAILED"

    def test_failed_counts_as_the_policy_says(self) -> None:
        kit = self.unknown(on_failure=policy("skip"))
        kit.resolve("a", "failed")
        assert kit.statuses() == {"a": "SKIPPED", "b": "DISPATCHED"}

    def test_retry_runs_it_again(self) -> None:
        kit = self.unknown()
        kit.resolve("a", "retry")
        assert kit.task("a").attempt == 2
        assert kit.claim("a").granted
        kit.complete("a")
        assert kit.status("b") == "DISPATCHED"

    def test_sent_twice_it_happens_once(self) -> None:
        kit = self.unknown()
        first = kit.resolve("a", "retry", request_id="one")
        again = kit.resolve("a", "retry", request_id="one")
        assert not isinstance(first, Refusal)
        assert not isinstance(again, Refusal)
        assert len(kit.all_events(kind=StepResolved)) == 1

    @pytest.mark.parametrize(
        ("step", "resolution", "code"),
        [
            ("b", "completed", "conflict"),
            ("nope", "retry", "conflict"),
            ("a", "x", "invalid-request"),
        ],
    )
    def test_refusals(self, step: str, resolution: str, code: str) -> None:
        reply = self.unknown().resolve(step, resolution)
        assert isinstance(reply, Refusal)
        assert reply.code == code

    def test_nothing_waits_any_more(self) -> None:
        kit = self.unknown()
        kit.resolve("a", "failed")
        reply = kit.resolve("a", "completed")
        assert isinstance(reply, Refusal)
        assert reply.code == "conflict"
