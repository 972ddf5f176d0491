"""A patch renumbers a run: results, orders, keys, children and the history find their steps."""

import pytest

from headrace.coordinator.core import Facts, Holder, Refusal
from headrace.coordinator.core.past import past_view
from headrace.coordinator.core.renumbering import map_of, spans_of
from headrace.coordinator.core.state import Run
from headrace.events import PlanPatched, RunEvicted, StepCancelled
from headrace.messages import GetRun
from support.corekit import Kit, finish
from support.patchkit import begun, patched
from support.plans import (
    child,
    group,
    job,
    key,
    plan,
    retry,
    sleep,
    task,
    wait,
)

# --- numbers -----------------------------------------------------------------------------------


def test_results_claims_and_losses_of_before_find_their_step():
    kit = begun(task("a"), task("b"), task("c", effect="at-most-once"))
    old = {path: kit.task(path) for path in "abc"}
    once = task("c", effect="at-most-once")
    patched(kit, plan(task("n1"), task("a"), task("n2"), task("b"), once))
    # The new steps have the wire numbers of no other.
    numbers = [t.step for t in kit.tasks.values()]
    assert len(set(numbers)) == len(numbers) == 5
    kit.complete("a", {"from": "a"})
    assert kit.output("a") == {"from": "a"}
    # Sent again, it is neither refused nor recorded again.
    assert kit.report(kit.result(old["a"], 1, output={"from": "a"})) == []
    assert kit.claim("c").granted
    kit.lose("b")
    assert kit.task("b").attempt == 2
    assert kit.task("b").step != old["b"].step
    # A late result of the lost attempt is refused.
    assert kit.report(kit.result(old["b"], 1)) == [0]
    kit.lose("c")
    assert kit.status("c") == "UNKNOWN"


def test_orders_to_stop_name_what_the_worker_knows():
    kit = begun(task("a"), task("b"))
    known = kit.task("b").step
    patched(kit, plan(task("new"), task("a"), task("b")))
    kit.cancel()
    assert known in [order.cancel.step for order in kit.orders]
    for path in ("a", "b", "new"):
        kit.cancelled(path)
    assert kit.state() == "CANCELLED"
    events = kit.all_events(kind=StepCancelled)
    assert {kit.run().path(event.step) for event in events} >= {"a", "b"}


def test_holders_are_found_by_the_number_that_they_were_given():
    kit = begun(task("a"), task("b"))
    wire = kit.task("b").step
    patched(kit, plan(task("new"), task("a"), task("b")))
    facts = Facts(holders={(kit.run().key, wire): Holder("w9")})
    reasons = {r.path: r.owner for r in kit.explain(facts=facts).reasons}
    assert reasons["b"] == "w9"
    assert reasons["a"] != "w9"


def test_keys_and_children_are_told_by_their_old_names():
    inner = plan(task("in"), name="inner")
    specs = [job("j", task("x"), concurrency=key("k")), child("sub", inner), child("two", inner)]
    kit = begun(job("hold", task("h"), concurrency=key("k")), *specs)
    assert kit.status("j") == "WAITING"
    patched(
        kit,
        plan(task("new"), job("hold", task("h"), concurrency=key("k")), task("more"), *specs),
    )
    kit.complete("hold/h")
    assert "j/x" in kit.dispatched()
    children = [run for run in kit.machine.state.runs if run != "default/r"]
    assert len(children) == 2
    kit.complete("in", {"v": 1}, run=children[0].partition("/")[2])
    kit.kill()
    kit.complete("in", {"v": 2}, run=children[1].partition("/")[2])
    assert finish(kit) == "COMPLETED"
    outputs = {tuple(kit.output(path).items()) for path in ("sub", "two")}
    assert outputs == {(("v", 1),), (("v", 2),)}


def test_a_child_of_before_is_cancelled_by_its_old_name():
    inner = plan(task("in"), name="inner")
    kit = begun(child("sub", inner))
    patched(kit, plan(task("new"), child("sub", inner)))
    (other,) = [run for run in kit.machine.state.runs if run != "default/r"]
    kit.cancel()
    kit.cancelled("new")
    kit.cancelled("in", run=other.partition("/")[2])
    assert (kit.state(), kit.state(other.partition("/")[2])) == ("CANCELLED", "CANCELLED")


def test_what_waited_for_a_worker_goes_where_the_new_plan_says():
    kit = Kit(credit=0)
    kit.start(plan(task("a"), task("b"), task("c")))
    patched(kit, plan(task("x", runs_on=("gpu",)), task("b", runs_on=("gpu",)), task("c")))
    kit.credit = 1_000_000
    kit.tick()
    lanes = {kit.run().path(event.step): event.lane for event in kit.scheduled()}
    assert set(lanes) == {"x", "b", "c"}
    assert lanes["x"] == lanes["b"] != lanes["c"]


def test_what_was_a_task_in_the_queue_may_be_a_group_now():
    kit = Kit(credit=0)
    kit.start(plan(task("a"), task("b")))
    patched(kit, plan(group("a", task("in")), task("b")))
    kit.credit = 1_000_000
    kit.tick()
    assert set(kit.dispatched()) == {"a/in", "b"}
    assert finish(kit) == "COMPLETED"


def test_a_limit_to_the_wait_for_a_worker_begins_anew_when_it_changes():
    kit = Kit(credit=0)
    kit.start(plan(task("a", schedule_timeout_ms=5_000), task("b", schedule_timeout_ms=5_000)))
    patched(kit, plan(task("a", schedule_timeout_ms=50_000), task("b")))
    kit.advance(6_000)
    assert kit.statuses() == {"a": "PENDING", "b": "PENDING"}
    kit.advance(60_000)
    assert kit.status("a") == "FAILED"


def test_timers_and_signals_of_before_come():
    kit = begun(sleep("s", 5_000), wait("w"), task("a", retry=retry(3)))
    kit.fail("a")
    patched(kit, plan(task("n"), task("a", retry=retry(3)), wait("w"), sleep("s", 5_000)))
    kit.complete("n")
    kit.advance(1_000)
    assert kit.dispatched() == ["a"]
    kit.signal("w", {"v": 1})
    assert kit.status("w") == "COMPLETED"
    kit.advance(5_000)
    assert kit.status("s") == "COMPLETED"


def test_a_worker_lost_after_a_patch_restarts_its_job_with_the_new_steps():
    kit = begun(job("j", task("x"), task("y")))
    kit.complete("j/x", worker="w1")
    patched(kit, plan(task("n"), job("j", task("x"), task("y"), task("z"))))
    kit.lose_worker("w1")
    kit.complete("n")
    assert kit.dispatched() == ["j/x"]
    assert finish(kit) == "COMPLETED"
    assert kit.status("j/z") == "COMPLETED"


def test_a_handler_that_decides_is_found():
    step = task("a", on_failure=task("fix"))
    kit = begun(step)
    kit.fail("a")
    (handler,) = kit.dispatched()
    patched(kit, plan(task("n"), step))
    kit.complete(handler, {"resolution": "completed", "v": 1})
    assert kit.status("a") == "COMPLETED"
    assert kit.output("a") == {"v": 1}


# --- takeovers, history, time travel -----------------------------------------------------------


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_right_behind_a_patch_and_between_two(snapshot):
    kit = begun(task("a"), task("b", needs=["a"]), wait("w"))
    patched(kit, plan(task("n"), task("a"), task("b", needs=["a", "n"]), wait("w")))
    kit.kill(snapshot=snapshot)
    kit.complete("a")
    patched(kit, plan(task("b", needs=["a", "m"]), task("m"), task("n"), task("a"), wait("w")))
    kit.kill(snapshot=snapshot)
    kit.complete("n")
    kit.complete("m")
    kit.complete("b")
    kit.signal("w")
    assert kit.state() == "COMPLETED"
    assert [event.previous for event in kit.all_events(kind=PlanPatched)] == [
        program.digest for program in kit.run().programs()[:2]
    ]


def test_history_and_views_name_steps_as_they_were_and_are():
    kit = begun(task("a"), task("b", needs=["a"]), task("q", schedule_timeout_ms=9_000))
    kit.complete("a", {"v": 1})
    patched(
        kit,
        plan(
            task("n"),
            task("a"),
            task("b", needs=["a"]),
            task("q", schedule_timeout_ms=9_000),
        ),
    )
    kit.complete("n")
    kit.complete("b")
    kit.complete("q")
    told = [(entry.type, entry.path) for entry in kit.history()]
    assert told.index(("StepCompleted", "a")) < told.index(("PlanPatched", ""))
    assert told.index(("StepCompleted", "n")) > told.index(("PlanPatched", ""))
    assert {path for kind, path in told if kind == "StepCompleted"} == {"a", "b", "n", "q"}
    steps = {step.path: step for step in kit.view().steps}
    assert steps["a"].worker == "w.1"
    assert all(step.started_ms for step in steps.values())
    assert kit.view().patched == [
        entry.number for entry in kit.history() if entry.type == "PlanPatched"
    ]


def test_what_is_gone_keeps_its_name_in_the_history():
    kit = Kit(credit=0)
    kit.start(plan(task("a"), task("gone", schedule_timeout_ms=9_000)))
    patched(kit, plan(task("a")))
    assert ("StepQueued", "gone") in [(e.type, e.path) for e in kit.history()]
    kit.kill(snapshot=True)
    assert ("StepQueued", "gone") in [(e.type, e.path) for e in kit.history()]


def test_the_past_is_shown_by_the_plan_of_its_time():
    kit = begun(task("a"), task("old", needs=["a"]))
    patched(kit, plan(task("new"), task("a"), task("other", needs=["a"])))
    at = kit.view().patched[0]
    finish(kit)
    run = kit.run()

    def then(event):
        request = GetRun(run="r", at_event=event)
        return past_view(run.key, run.programs(), run.history, request, shard=1)

    before, after = then(at - 1), then(at)
    assert [step.path for step in before.steps] == ["a", "old"]
    assert [step.path for step in after.steps] == ["new", "a", "other"]
    assert (before.plan, after.plan) == tuple(program.digest for program in run.programs())
    assert (before.patched, after.patched) == ([], [at])


def test_plans_of_a_patched_run_stay_as_long_as_it_does():
    kit = begun(task("a"))
    first = kit.run().program.digest
    patched(kit, plan(task("a"), task("b")))
    second = kit.run().program.digest
    uses = kit.machine.state.plan_uses
    assert (uses[first], uses[second]) == (1, 1)
    kit.kill(snapshot=True)
    uses = kit.machine.state.plan_uses
    assert (uses[first], uses[second]) == (1, 1)
    finish(kit)
    kit.tick(lambda m: m.emit_shard(RunEvicted(kit.run().key, "", 4, kit.now_ms + 1)))
    uses = kit.machine.state.plan_uses
    assert (uses[first], uses[second]) == (0, 0)


def test_explain_says_that_the_definition_is_another():
    kit = begun(task("a", runs_on=("gpu",)))
    patched(kit, plan(task("a", runs_on=("gpu",)), task("b")))
    at = kit.view().patched[0]
    assert f"patched at event {at}" in kit.explain().summary


def test_a_submit_sent_again_still_is_the_same():
    kit = begun(task("a"))
    first = kit.run().program.digest
    patched(kit, plan(task("a"), task("b")))
    reply = kit.submit(first, "r")
    assert not isinstance(reply, Refusal), reply


# --- the numbering itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "spans"),
    [
        ([], []),
        ([-1, -1], []),
        ([0, 1, 2], [(0, 3, 0)]),
        ([1, 2, -1, 3, 7], [(0, 2, 1), (3, 1, 3), (4, 1, 7)]),
        ([-1, 0, 1], [(1, 2, 0)]),
        ([2, 1, 0], [(0, 1, 2), (1, 1, 1), (2, 1, 0)]),
    ],
)
def test_maps_and_spans(moved, spans):
    assert spans_of(moved) == spans
    assert map_of(spans, len(moved)) == moved


BY_INSTANCE = {
    "attempt", "claims", "counts", "detached", "doomed", "due", "errors", "family", "first_ms",
    "gates", "handlers", "held", "iterations", "jobs", "losses", "node_keys", "outputs",
    "patches", "rounds", "sagas", "scope_bases", "scopes", "status", "sticky", "stopped",
    "taint", "tokens",
    "tolerated", "uncompensated", "uncounted", "undo", "waiting", "waits",
}  # fmt: skip
"""What a run keeps by the number of an instance: a patch moves it (`evolve_patch`)."""
OF_THE_RUN = {
    "active", "actor", "cancel_reason", "cancelling", "carried", "created_ms", "ended_reason",
    "events", "explicit", "failing", "fair_key", "fair_weight", "fingerprint", "finished_ms",
    "history", "history_bytes", "history_first", "input", "journal", "key", "key_held", "key_limit",
    "key_mode", "key_name", "labels", "not_after_ms", "output", "pause_reason", "paused",
    "priority", "program", "quarantined", "request_id", "rerun_of", "signals", "started_ms",
    "state", "title", "variables", "workflow",
}  # fmt: skip
"""What is about the run as a whole."""


def test_whoever_adds_to_a_run_says_whether_a_patch_moves_it():
    assert set(Run.__slots__) == BY_INSTANCE | OF_THE_RUN
