"""Broadcasts: once on each live worker of a group, the workers decided once."""

import pytest

from headrace.coordinator.core import Facts, WorkerFacts
from headrace.events import Expanded, StepSkipped
from support import plans
from support.corekit import Kit, finish
from support.patchkit import patched
from support.plans import broadcast, group, job, plan, task


def web(name="deploy", **options):
    return broadcast(name, task(name, runs_on=("web",)), **options)


def facts(*workers, **options):
    return Facts(
        workers=tuple(WorkerFacts(w, "default", frozenset({"web"}), 4, 4, False) for w in workers),
        **options,
    )


def test_it_runs_once_on_each_worker_of_the_group():
    kit = Kit()
    kit.workers = {
        "b": frozenset({"web"}), "a": frozenset({"web", "x"}), "c": frozenset({"db"})
    }  # fmt: skip
    kit.start(plan(web()))
    assert kit.dispatched() == ["deploy[a]", "deploy[b]"]
    assert {e.lane for e in kit.scheduled()} == {"@a", "@b"}
    kit.complete("deploy[a]", {"n": 1}, worker="a")
    kit.complete("deploy[b]", {"n": 2}, worker="b")
    assert kit.state() == "COMPLETED"
    (event,) = kit.all_events(kind=Expanded)
    assert event.items == [{"id": "a", "incarnation": "1"}, {"id": "b", "incarnation": "1"}]
    assert event.labels == ["a", "b"]


def test_results_are_a_map_by_worker():
    kit = Kit()
    kit.join("a", "b")
    after = task(
        "after",
        needs=["deploy"],
        inputs={
            "all": "${{ needs.deploy.outputs.results }}",
            "who": "${{ join(needs.deploy.outputs.workers) }}",
            "one": "${{ needs.deploy.outputs.results.b.n }}",
        },
    )
    kit.start(plan(web(), after))
    kit.complete("deploy[b]", {"n": 2})
    kit.complete("deploy[a]", {"n": 1})
    assert kit.inputs("after") == {"all": {"a": {"n": 1}, "b": {"n": 2}}, "who": "a,b", "one": 2}


def test_a_step_knows_its_worker():
    kit = Kit()
    kit.join("a")
    inside = task("d", runs_on=("web",), inputs={"w": "${{ worker.id }}", "i": "${{ loop.index }}"})
    kit.start(plan(broadcast("d", inside)))
    assert kit.inputs("d[a]") == {"w": "a", "i": 0}


def test_without_a_worker_it_waits_and_says_so_then_takes_all_that_came():
    kit = Kit()
    kit.start(plan(web()))
    assert kit.status("deploy") == "PENDING"
    reason = kit.explain().reasons[0]
    assert reason.path == "deploy"
    assert reason.reason == "no worker is connected in namespace default (needed: web)"
    db = WorkerFacts("db", "default", frozenset({"db"}), 4, 4, False)
    found = kit.explain(facts=Facts(workers=(db,), missing_since_ms={"web": 7}))
    assert found.reasons[0].reason == "no worker offers web (needed: web)"
    assert found.reasons[0].since_ms >= 7
    assert "has heard of all" in kit.explain(facts=facts("a")).reasons[0].reason
    kit.join("a", "b")
    assert kit.dispatched() == ["deploy[a]", "deploy[b]"]


def test_the_set_is_decided_once():
    kit = Kit()
    kit.join("a")
    kit.start(plan(web()))
    kit.join("b")
    kit.kill()
    assert kit.dispatched() == ["deploy[a]"]
    kit.complete("deploy[a]", worker="a")
    assert kit.state() == "COMPLETED"


@pytest.mark.parametrize("snapshot", [False, True])
def test_after_a_takeover_it_still_waits_for_workers(snapshot):
    kit = Kit()
    kit.start(plan(web()))
    kit.kill(snapshot=snapshot)
    assert kit.machine.gatherings
    kit.join("a")
    kit.kill(snapshot=snapshot)
    assert kit.dispatched() == ["deploy[a]"]
    assert finish(kit) == "COMPLETED"


def test_a_command_for_one_that_has_begun_or_gone_changes_nothing():
    kit = Kit()
    kit.join("a")
    run = kit.start(plan(web()))
    before = len(kit.log)
    kit.tick(lambda m: m.gather(run.key, 1, [("z", "1")]))
    kit.tick(lambda m: m.gather("default/none", 1, [("z", "1")]))
    kit.tick(lambda m: m.gather(run.key, 2, [("z", "1")]))
    assert len(kit.log) == before


def test_a_lost_step_goes_to_the_same_worker_again():
    kit = Kit()
    kit.join("a", "b")
    kit.start(plan(web()))
    kit.lose("deploy[a]", worker="a.1")
    assert [e.lane for e in kit.scheduled()] == ["@a", "@b", "@a"]
    found = kit.explain(facts=facts("b"))
    assert not any("waits for worker" in r.reason for r in found.reasons)


@pytest.mark.parametrize(
    ("policy", "state", "steps"),
    [("fail", "FAILED", "FAILED"), ("skip", "COMPLETED", "SKIPPED")],
)
def test_a_worker_that_does_not_come_back(policy, state, steps):
    kit = Kit()
    kit.join("a", "b")
    kit.start(plan(web(on_worker_loss=policy)))
    kit.lose_worker("a")
    assert kit.status("deploy[a]") == steps
    assert kit.status("deploy[b]") == "DISPATCHED"
    kit.complete("deploy[b]", worker="b")
    assert kit.state() == state
    if policy == "skip":
        (skipped,) = kit.all_events(kind=StepSkipped)
        assert skipped.reason == "worker-lost"
    else:
        assert "worker a did not come back" in kit.run().ended_reason


@pytest.mark.parametrize(("policy", "state"), [("fail", "FAILED"), ("skip", "COMPLETED")])
def test_a_whole_job_of_a_lost_worker(policy, state):
    kit = Kit()
    kit.join("a", "b")
    body = job("deploy", task("one"), task("two"), runs_on=("web",))
    kit.start(plan(broadcast("deploy", body, on_worker_loss=policy)))
    assert kit.dispatched() == ["deploy[a]/one", "deploy[b]/one"]
    kit.complete("deploy[a]/one", worker="a")
    kit.complete("deploy[b]/one", worker="b")
    assert [e.lane for e in kit.scheduled()] == ["@a", "@b", "@a", "@b"]
    kit.lose_worker("b")
    assert kit.status("deploy[b]") == ("FAILED" if policy == "fail" else "SKIPPED")
    kit.complete("deploy[a]/two", worker="a")
    assert kit.state() == state


def test_a_job_goes_on_when_its_worker_comes_back():
    kit = Kit()
    kit.join("a")
    body = job("deploy", task("one"), task("two"), runs_on=("web",))
    kit.start(plan(broadcast("deploy", body)))
    kit.complete("deploy[a]/one", worker="a")
    kit.lose("deploy[a]/two", worker="a.1")
    kit.complete("deploy[a]/two", worker="a")
    assert kit.state() == "COMPLETED"


def test_one_after_the_other_and_who_is_lost_before_its_turn_waits_for_it():
    kit = Kit()
    kit.join("a", "b", "c")
    kit.start(plan(web(max_parallel=1, on_worker_loss="skip")))
    assert kit.dispatched() == ["deploy[a]"]
    kit.lose_worker("c")
    assert kit.status("deploy[c]") == "PENDING"
    kit.complete("deploy[a]", worker="a")
    assert kit.dispatched() == ["deploy[b]"]
    kit.complete("deploy[b]", worker="b")
    kit.lose_worker("c")
    assert kit.state() == "COMPLETED"


@pytest.mark.parametrize(
    ("join", "ok", "bad", "state"),
    [
        (plans.join("any"), 1, 0, "COMPLETED"),
        (plans.join("count", 2), 2, 1, "COMPLETED"),
        (plans.join("count", 2), 1, 2, "FAILED"),
        (plans.join("percent", 60), 2, 1, "COMPLETED"),
        (plans.join("percent", 100), 0, 1, "FAILED"),
    ],
)
def test_joins(join, ok, bad, state):
    kit = Kit()
    kit.join("a", "b", "c")
    kit.start(plan(web(join=join)))
    for worker in "abc"[:bad]:
        kit.fail(f"deploy[{worker}]", worker=worker)
    for worker in "abc"[bad : bad + ok]:
        kit.complete(f"deploy[{worker}]", worker=worker)
    for path in kit.dispatched():
        kit.cancelled(path)
    assert kit.state() == state


def test_a_broadcast_among_the_steps_of_a_job_leaves_its_worker():
    kit = Kit()
    kit.join("a", "b")
    spread = broadcast(
        "spread",
        task(
            "spread",
            runs_on=("web",),
            inputs={"v": "${{ steps.one.outputs.v }}", "n": "${{ toJSON(needs) }}"},
        ),
    )
    kit.start(plan(job("j", task("one"), spread, task("two")), dialect="jobs"))
    kit.complete("j/one", {"v": 3}, worker="h")
    assert kit.dispatched() == ["j/spread[a]", "j/spread[b]"]
    assert kit.inputs("j/spread[a]") == {"v": 3, "n": "{}"}
    kit.complete("j/spread[a]", worker="a")
    kit.complete("j/spread[b]", worker="b")
    assert kit.scheduled()[-1].lane == "@h"
    kit.complete("j/two", worker="h")
    assert kit.state() == "COMPLETED"


def test_labels_may_be_expressions_and_those_around_count():
    kit = Kit()
    kit.workers = {"a": frozenset({"web", "eu"}), "b": frozenset({"web"})}
    body = group("d", task("x"), runs_on=("${{ vars.group }}",))
    kit.start(plan(plans.group("g", broadcast("d", body), runs_on=("eu",)), vars={"group": "web"}))
    assert kit.dispatched() == ["g/d[a]/x"]


def test_a_cancel_ends_one_that_waits_for_workers():
    kit = Kit()
    kit.start(plan(web()))
    kit.cancel()
    assert kit.state() == "CANCELLED"
    kit.join("a")
    assert kit.dispatched() == []


def test_a_paused_run_is_not_given_workers():
    kit = Kit()
    kit.start(plan(web()))
    kit.pause()
    kit.join("a")
    assert kit.dispatched() == []
    kit.resume()
    assert kit.dispatched() == ["deploy[a]"]


def test_the_schedule_timeout_counts_while_there_is_no_group():
    kit = Kit()
    kit.start(plan(broadcast("d", task("d", runs_on=("web",), schedule_timeout_ms=5_000))))
    kit.kill()
    kit.advance(5_000)
    assert kit.state() == "FAILED"
    assert "schedule-timeout" in kit.run().ended_reason


def test_the_schedule_timeout_ends_with_the_wait():
    kit = Kit()
    kit.start(plan(broadcast("d", task("d", runs_on=("web",), schedule_timeout_ms=5_000))))
    kit.join("a")
    kit.advance(9_000)
    kit.complete("d[a]", worker="a")
    assert kit.state() == "COMPLETED"


def test_a_compensation_of_a_lost_worker_does_not_wait_for_ever():
    kit = Kit()
    kit.join("a", "b")
    body = group("d", task("put", compensate=task("undo")), runs_on=("web",), kind="pipeline")
    policy = {"on_failure": plans.policy("compensate")}
    kit.start(plan(broadcast("d", body), task("after", needs=["d"]), root=policy))
    kit.complete("d[a]/put", worker="a")
    kit.complete("d[b]/put", worker="b")
    kit.fail("after")
    assert kit.dispatched() == ["d[b]/put~compensate"]
    kit.complete("d[b]/put~compensate", worker="b")
    assert kit.dispatched() == ["d[a]/put~compensate"]
    kit.lose("d[a]/put~compensate", worker="a.1")
    kit.lose_worker("a")
    kit.tick()
    assert kit.state() == "FAILED"
    assert "not compensated: d[a]/put" in kit.run().ended_reason


def test_a_broadcast_in_a_matrix():
    kit = Kit()
    kit.join("a")
    body = broadcast("d", job("d", task("x"), runs_on=("web",)))
    kit.start(plan(plans.loop("d", body, {"os": ["l", "w"]}, kind="matrix")))
    assert kit.dispatched() == ["d[l][a]/x", "d[w][a]/x"]
    kit.complete("d[l][a]/x", worker="a")
    assert finish(kit) == "COMPLETED"


def test_a_patch_gives_one_that_waits_another_number():
    kit = Kit()
    kit.start(plan(web()))
    patched(kit, plan(task("first"), task("second"), web(), web("other")))
    assert len(kit.machine.gatherings) == 2
    kit.join("a")
    assert kit.dispatched() == ["first", "second", "deploy[a]", "other[a]"]
    assert kit.machine.gatherings == {}


def test_a_patch_moves_one_that_runs():
    kit = Kit()
    kit.join("a", "b")
    kit.start(plan(web()))
    kit.complete("deploy[a]", worker="a")
    patched(kit, plan(task("first"), web()))
    kit.lose_worker("b")
    assert kit.status("deploy[b]") == "FAILED"


def test_a_run_that_has_gone_is_asked_about_no_more():
    kit = Kit()
    run = kit.start(plan(web()))
    kit.cancel()
    kit.tick(lambda m: m.gather(run.key, 1, []))
    assert kit.machine.gatherings == {}
