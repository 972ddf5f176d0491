"""Jobs: all steps on one worker, in one workspace; what happens when that worker is lost."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Limits
from headrace.events import JobMoved, JobRestarted
from headrace.messages import ResultExtra
from support.corekit import Kit, finish
from support.plans import group, job, join, loop, plan, retry, task, wait


def lanes(kit: Kit) -> list[str]:
    """Return where tasks are waiting or were given to, pinned lanes by worker."""
    return [event.lane if event.lane[0] == "@" else "open" for event in kit.scheduled()]


def test_the_first_step_decides_the_worker() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), task("b"), task("c"))))
    assert lanes(kit) == ["open"]
    kit.complete("j/a", worker="w7")
    kit.complete("j/b", worker="w7")
    assert lanes(kit) == ["open", "@w7", "@w7"]
    workspace = kit.task("j/c").options
    assert workspace is not None
    assert workspace.workspace == "default/r/j#0"


def test_steps_at_once_wait_for_the_one_that_decides() -> None:
    kit = Kit()
    kit.start(plan(group("j", task("a"), task("b"), task("c"), affinity=True)))
    assert kit.dispatched() == ["j/a"]
    kit.complete("j/a", worker="w2")
    assert kit.dispatched() == ["j/b", "j/c"]
    assert lanes(kit) == ["open", "@w2", "@w2"]


@pytest.mark.parametrize("how", ["lost", "returned", "failed", "timed out"])
def test_when_the_deciding_step_decides_nothing_another_one_does(how: str) -> None:
    """The steps that waited for it must not be forgotten."""
    kit = Kit(limits=Limits(losses=0) if how == "failed" else None)
    options = {"effect": "at-most-once"} if how == "timed out" else {}
    kit.start(plan(group("j", task("a", **options), task("b"), affinity=True)))
    if how == "returned":
        kit.hand_back("j/a")
    elif how == "timed out":
        assert kit.claim("j/a").granted
        kit.lose("j/a")
        assert kit.status("j/a") == "UNKNOWN"
    else:
        kit.lose("j/a")
    assert len(kit.dispatched()) == 1
    state = "COMPLETED" if how in ("lost", "returned") else "FAILED"
    assert finish(kit) == state


def test_a_step_that_no_worker_could_finish_does_not_bind_the_job_to_a_lost_one() -> None:
    kit = Kit(limits=Limits(losses=0))
    kit.start(plan(job("j", task("a", continue_on_error=True), task("b"))))
    kit.lose("j/a", worker="gone.1")
    assert kit.status("j/a") == "FAILED"
    assert lanes(kit) == ["open", "open"]


def test_github_env_and_path_reach_later_steps_of_the_job_only() -> None:
    kit = Kit()
    kit.start(
        plan(
            job(
                "j",
                task("a"),
                task("b", inputs={"x": "${{ env.NEW }}"}),
                env={"OLD": "1", "NEW": "0"},
            ),
            task("c", needs=["j"], inputs={"x": "${{ env.NEW }}"}),
        )
    )
    kit.complete("j/a", extra=ResultExtra(env={"NEW": "2"}, path=["/opt/bin"]))
    options = kit.task("j/b").options
    assert options is not None
    assert options.env == {"OLD": "1", "NEW": "2", "HEADRACE_ADDED_PATH": "/opt/bin"}
    assert kit.inputs("j/b") == {"x": "2"}
    kit.complete("j/b")
    assert kit.inputs("c") == {"x": None}


# --- loss --------------------------------------------------------------------------------------


def three_steps(**options: object) -> Kit:
    kit = Kit()
    kit.start(plan(job("j", task("a"), task("b"), task("c"), **options), task("z", needs=["j"])))
    kit.complete("j/a", {"made": "file"}, extra=ResultExtra(env={"X": "1"}))
    return kit


def test_restart_job_begins_anew_in_a_new_workspace() -> None:
    kit = three_steps()
    kit.lose_worker("w")
    assert kit.names() == ["StepLost j/b", "JobRestarted j", "StepScheduled j/a"]
    task = kit.task("j/a")
    assert task.attempt == 2, "an attempt's number is never used again"
    assert task.options is not None
    assert task.options.workspace == "default/r/j#1"
    assert task.options.env == {}
    assert kit.run().outputs == {}
    assert finish(kit) == "COMPLETED"


def test_a_restarted_jobs_old_results_are_refused() -> None:
    kit = three_steps()
    old = kit.result(kit.task("j/b"), 0)
    kit.lose_worker("w")
    assert kit.report(old) == [0]
    assert kit.status("j/b") == "PENDING"


def test_attempts_before_a_restart_do_not_count_for_retries() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), task("b", retry=retry(2)))))
    kit.complete("j/a")
    kit.fail("j/b")
    kit.lose_worker("w")
    kit.complete("j/a", worker="v")
    kit.fail("j/b", worker="v")
    assert kit.status("j/b") == "WAITING", "this was its first attempt in the new workspace"
    kit.next_timer()
    kit.fail("j/b", worker="v")
    assert kit.status("j/b") == "FAILED"


def test_continue_goes_on_elsewhere() -> None:
    kit = three_steps(on_worker_loss="continue")
    kit.lose_worker("w")
    assert kit.names() == ["StepLost j/b", "JobMoved j", "StepScheduled j/b"]
    assert lanes(kit)[-1] == "open"
    assert kit.status("j/a") == "COMPLETED"
    assert finish(kit) == "COMPLETED"


def test_a_moved_job_takes_its_due_retries_along() -> None:
    kit = Kit(credit=1)
    kit.start(plan(job("j", task("a"), task("b", retry=retry(3)), on_worker_loss="continue")))
    kit.complete("j/a")
    kit.fail("j/b")
    kit.credit = 0
    kit.next_timer()
    assert kit.status("j/b") == "WAITING", "due, and queued for its worker"
    kit.credit = 1
    kit.tick(lambda m: m.lose_worker("w", "gone"))
    assert kit.dispatched() == ["j/b"]


def test_fail_fails_the_job() -> None:
    kit = three_steps(on_worker_loss="fail")
    kit.lose_worker("w")
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "j: worker-lost: worker w did not come back"
    assert kit.status("j/b") == "CANCELLED"


def test_restarts_have_a_limit() -> None:
    kit = Kit(limits=Limits(restarts=2))
    kit.start(plan(job("j", task("a"), task("b"))))
    for _ in range(3):
        kit.complete("j/a")
        kit.lose_worker("w")
    assert kit.state() == "FAILED"
    assert len(kit.all_events(kind=JobRestarted)) == 2
    assert "restarted 2 times" in kit.run().ended_reason


def test_a_job_with_an_at_most_once_step_that_has_run_never_begins_anew() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("pay", effect="at-most-once"), task("b"))))
    assert kit.claim("j/pay").granted
    kit.complete("j/pay")
    kit.lose_worker("w")
    assert kit.all_events(kind=JobRestarted) == []
    assert kit.state() == "FAILED"
    assert "j/pay has run and may run once" in kit.run().ended_reason


def test_an_unknown_step_is_not_run_again_by_its_jobs_restart() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), task("pay", effect="at-most-once"), task("b"))))
    kit.complete("j/a")
    assert kit.claim("j/pay").granted
    kit.lose_worker("w")
    assert kit.status("j/pay") == "UNKNOWN"
    assert kit.state() == "FAILED"


def test_a_returning_worker_takes_the_job_up_again() -> None:
    """The same id in another life: the workspace is still there, so nothing begins anew."""
    kit = three_steps()
    kit.lose("j/b")
    assert kit.names() == ["StepLost j/b", "StepScheduled j/b"]
    assert lanes(kit)[-1] == "@w"


def test_jobs_in_a_matrix_have_their_own_workers() -> None:
    kit = Kit()
    kit.start(
        plan(loop("build", job("x", task("a"), task("b")), {"os": ["l", "m"]}, kind="matrix"))
    )
    kit.complete("build[l]/a", worker="w1")
    kit.complete("build[m]/a", worker="w2")
    assert lanes(kit)[-2:] == ["@w1", "@w2"]
    kit.lose_worker("w2")
    assert kit.dispatched() == ["build[l]/b", "build[m]/a"]
    assert finish(kit) == "COMPLETED"


def test_a_loop_inside_a_restarted_job_is_made_anew() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), loop("l", task("x"), [1, 2], max_parallel=1), task("b"))))
    kit.complete("j/a")
    kit.complete("j/l[0]")
    kit.lose_worker("w")
    assert kit.statuses() == {
        "j": "RUNNING",
        "j/a": "DISPATCHED",
        "j/l": "PENDING",
        "j/b": "PENDING",
    }
    kit.kill(snapshot=True)
    kit.complete("j/a", worker="v")
    assert kit.dispatched() == ["j/l[0]"]
    assert finish(kit) == "COMPLETED"
    assert len({step.path for step in kit.view().steps}) == len(kit.view().steps)


def test_max_parallel_holds_inside_a_job() -> None:
    """Pinning the job to its worker must not open the loop's window."""
    kit = Kit()
    kit.start(plan(group("j", loop("l", task("x"), [1, 2, 3], max_parallel=1), affinity=True)))
    for index in range(3):
        assert kit.dispatched() == [f"j/l[{index}]"]
        kit.complete(f"j/l[{index}]")
    assert kit.state() == "COMPLETED"


def test_the_rest_of_a_detached_job_goes_on_elsewhere() -> None:
    kit = Kit()
    kit.start(
        plan(
            group(
                "j",
                task("a"),
                task("b"),
                task("c"),
                affinity=True,
                join=join("any", losers="detach"),
            )
        )
    )
    kit.complete("j/a")
    assert kit.status("j") == "COMPLETED"
    kit.lose("j/b")
    kit.lose_worker("w")
    assert kit.all_events(kind=JobMoved)
    assert "open" in lanes(kit)[-1:]
    assert finish(kit) == "COMPLETED"


def test_a_detached_group_inside_a_restarted_job_does_not_hold_the_run() -> None:
    kit = Kit()
    inner = group("g", task("x"), wait("never"), join=join("any", losers="detach"))
    kit.start(plan(job("j", task("a"), inner, task("b"))))
    kit.complete("j/a")
    kit.complete("j/g/x")
    assert kit.status("j/g") == "COMPLETED"
    kit.lose_worker("w")
    kit.complete("j/a", worker="v")
    kit.complete("j/g/x", worker="v")
    kit.complete("j/b", worker="v")
    kit.signal("never")
    assert kit.state() == "COMPLETED"


def test_a_failure_before_the_restart_is_forgotten() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), task("b", condition="always()"), task("c"))))
    kit.fail("j/a")
    kit.lose_worker("w")
    kit.complete("j/a", worker="v")
    kit.complete("j/b", worker="v")
    assert kit.dispatched() == ["j/c"]
    assert finish(kit) == "COMPLETED"
