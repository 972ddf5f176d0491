"""What people see: `explain`'s sentences, views, histories."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import Facts, Holder, WorkerFacts
from headrace.coordinator.core.histories import history_entries
from headrace.messages import ResultExtra
from support.corekit import Kit
from support.plans import group, job, loop, plan, retry, sleep, task, wait


def worker(name: str, *labels: str, **options: object) -> WorkerFacts:
    facts = {"slots": 2, "free": 1, "draining": False, **options}
    return WorkerFacts(name, "default", frozenset(labels), **facts)  # type: ignore[arg-type]


# --- explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "sentence"),
    [
        ((), "no worker is connected in namespace default (needed: gpu, linux)"),
        ((worker("w", "linux"),), "no worker offers gpu (needed: gpu, linux)"),
        (
            (worker("w", "linux"), worker("v", "gpu")),
            "no one worker offers all of gpu, linux",
        ),
        ((worker("w", "linux", "gpu"),), "waits for a free slot (1 of 2 free)"),
        (
            (worker("w", "linux", "gpu", draining=True),),
            "no one worker offers all of gpu, linux",
        ),
    ],
)
def test_why_a_step_is_ready_and_does_not_run(
    workers: tuple[WorkerFacts, ...], sentence: str
) -> None:
    kit = Kit(credit=0)
    kit.start(plan(task("a", runs_on=("linux", "GPU"[:3].lower()))))
    begun_ms = kit.now_ms
    kit.advance(5_000)
    # The label was missing before the run came: the run waits only since then.
    for missing_ms, since_ms in ((7, begun_ms), (begun_ms + 7, begun_ms + 7)):
        facts = Facts(workers=workers, missing_since_ms={"gpu": missing_ms})
        explanation = kit.explain(facts=facts)
        assert explanation.summary == f"a: {sentence}"
        offered = "offers gpu" not in sentence
        assert explanation.reasons[0].since_ms == (begun_ms if offered else since_ms)


def test_why_a_dispatched_step_has_no_result() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    assert kit.explain().summary == "a: attempt 1 was dispatched and is on its way to a worker"
    holders = {("default/r", 1): Holder("w7")}
    assert kit.explain(facts=Facts(holders=holders)).summary == "a: attempt 1 runs on worker w7"
    kit.cancel()
    explanation = kit.explain(facts=Facts(holders=holders))
    assert explanation.summary == "a: attempt 1 is being stopped on worker w7"
    assert explanation.reasons[-1].reason == "being cancelled: cancelled by request"


def test_retry_sleep_signal_and_deadlines() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a", retry=retry(5, initial_ms=12_000)),
            sleep("s", 3_000),
            wait("w", "approval", timeout_ms=60_000),
        )
    )
    kit.fail("a")
    reasons = {reason.path: reason for reason in kit.explain().reasons}
    assert reasons["a"].reason == "retry 1 of 4 in 12.0 s after exit-code: a failed"
    assert reasons["a"].deadline_ms == kit.now_ms + 12_000
    assert reasons["s"].reason == "sleeping, 3.0 s left"
    assert reasons["w"].reason == "waiting for signal approval"
    assert reasons["w"].owner == "person"
    assert reasons["w"].deadline_ms == kit.now_ms + 60_000


def test_since_when_each_thing_waits() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a", retry=retry(5, initial_ms=12_000)),
            task("b"),
            wait("w", "approval", needs=("b",)),
            task("c", needs=("b",), runs_on=("gpu",)),
        )
    )
    begun_ms = kit.now_ms
    kit.advance(1_000)
    kit.fail("a")
    kit.advance(1_000)
    kit.credit = 0
    kit.complete("b")
    kit.advance(1_000)
    since = {reason.path: reason.since_ms - begun_ms for reason in kit.explain().reasons}
    assert since == {"a": 1_000, "w": 2_000, "c": 2_000}
    kit.pause()
    kit.advance(1_000)
    (first, *_) = kit.explain().reasons
    assert (first.state, first.since_ms - begun_ms) == ("PAUSED", 3_000)


def test_a_dispatched_step_waits_since_it_was_sent() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), [1, 2])))
    begun_ms = kit.now_ms
    kit.advance(1_000)
    reasons = kit.explain().reasons
    assert [reason.path for reason in reasons] == ["l[0]", "l[1]"]
    assert {reason.since_ms for reason in reasons} == {begun_ms}
    kit.cancel()
    kit.advance(1_000)
    last = kit.explain().reasons[-1]
    assert (last.state, last.since_ms - begun_ms) == ("CANCELLING", 1_000)


def test_a_job_waits_for_its_worker() -> None:
    kit = Kit(credit=1)
    kit.start(plan(job("j", task("a"), task("b"))))
    kit.credit = 0
    kit.complete("j/a")
    assert kit.explain().summary == "j/b: waits for worker w, which has the job's workspace"
    facts = Facts(workers=(worker("w"),))
    assert kit.explain(facts=facts).summary == "j/b: waits for a slot of worker w"


def test_an_ended_run_says_how() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    kit.fail("a")
    assert kit.explain().summary == "it has ended, and waits for nothing; a: exit-code: a failed"


def test_a_run_with_very_many_reasons_names_some() -> None:
    kit = Kit(watch=False)
    kit.start(plan(loop("l", task("x"), list(range(500)))))
    assert len(kit.explain().reasons) == 200


# --- views and histories -----------------------------------------------------------------------


def test_a_view_shows_steps_with_times_workers_and_errors() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b", needs=["a"], title="the second"),
            task("c", needs=["b"]),
            group("g", task("x", condition="false"), needs=["a"]),
        )
    )
    kit.now_ms += 100
    kit.complete("a", {"n": 1}, worker="w1")
    kit.fail("b", worker="w2")
    view = kit.view()
    steps = {step.path: step for step in view.steps}
    assert [step.path for step in view.steps] == ["a", "b", "c", "g", "g/x"]
    assert (steps["a"].state, steps["a"].worker, steps["a"].outputs) == (
        "COMPLETED",
        "w1.1",
        {"n": 1},
    )
    assert (steps["b"].name, steps["b"].error) == ("the second", "exit-code: b failed")
    assert (steps["c"].state, steps["c"].reason, steps["c"].needs) == ("SKIPPED", "needs", ["b"])
    assert (steps["g/x"].state, steps["g/x"].reason) == ("SKIPPED", "condition")
    assert steps["g"].kind == "group"
    assert (view.state, view.reason) == ("FAILED", "b: exit-code: b failed")
    assert view.finished_ms == kit.now_ms


def test_states_that_are_shown_but_not_kept() -> None:
    kit = Kit(credit=1)
    kit.start(plan(group("g", task("a"), task("b")), group("h", task("x"), condition="false")))
    from headrace.coordinator.core.views import run_view

    holders = {("default/r", kit.instance("g/a")): Holder("w", {"done": 3})}
    view = run_view(kit.run(), steps=True, holders=holders)
    assert {step.path: step.details for step in view.steps if step.details} == {"g/a": {"done": 3}}
    shown = {step.path: step.state for step in view.steps}
    assert shown == {
        "g": "RUNNING",
        "g/a": "RUNNING",
        "g/b": "READY",
        "h": "SKIPPED",
        "h/x": "SKIPPED",
    }


def test_a_history_is_readable_and_numbered() -> None:
    kit = Kit()
    kit.start(plan(task("a", retry=retry(2)), task("b", needs=["a"])), input={"x": 1})
    kit.fail("a")
    kit.next_timer()
    kit.complete("a", {"n": 1}, extra=ResultExtra(exit_code=0))
    kit.cancel(reason="why")
    entries = kit.history()
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.type for entry in entries][:3] == ["RunCreated", "StepScheduled", "StepFailed"]
    failed = entries[2]
    assert failed.path == "a"
    assert failed.data["error"] == ["exit-code", "a failed", True] or failed.data["error"] == {
        "type": "exit-code",
        "message": "a failed",
        "retryable": True,
    }
    run = kit.run()
    some = history_entries(run, run.history, after=2, limit=2)
    assert [entry.number for entry in some] == [3, 4]
