"""Subworkflows: runs that a run begins, in the shard that their id hashes to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core import Limits
from headrace.coordinator.core.nodes.subworkflow import child_name
from headrace.errors import InvalidDefinition
from headrace.events import ChildStarted, RunCreated, RunEvicted
from headrace.plan import InputSpec, Plan, validate_plan
from support.core_pair import Pair
from support.corekit import NAMESPACE, Kit, finish
from support.plans import child, group, job, join, key, loop, plan, task

INNER = plan(
    task("x", inputs={"given": "${{ inputs.n }}"}),
    name="inner",
    inputs={"n": InputSpec(type="number", default=1)},
)


def child_of(kit: Kit, path: str = "c", run: str = "r") -> str:
    found = kit.run(run).family
    assert found is not None
    return found.children[kit.instance(path, run)]


def parent(**options: Any) -> Plan:
    return plan(child("c", INNER, **options), task("after", needs=["c"]))


def test_the_child_runs_and_its_output_is_the_nodes() -> None:
    kit = Kit()
    kit.start(
        plan(
            child("c", INNER, inputs={"n": "${{ inputs.k }}"}),
            task("after", needs=["c"], inputs={"got": "${{ tasks.c.outputs.m }}"}),
        ),
        input={"k": "7"},
    )
    name = child_of(kit)
    assert kit.inputs("x", name) == {"given": 7}
    assert kit.status("c") == "WAITING"
    kit.complete("x", {"m": 8}, run=name)
    assert kit.state(name) == "COMPLETED"
    assert kit.inputs("after") == {"got": 8}
    assert finish(kit) == "COMPLETED"
    assert not kit.machine.state.outbox


def test_the_child_has_its_own_title() -> None:
    kit = Kit()
    named = plan(
        task("x"), run_name="greets ${{ inputs.n }}", inputs={"n": InputSpec(type="number")}
    )
    kit.start(plan(child("c", named, inputs={"n": 3}), run_name="outer"))
    name = child_of(kit)
    assert (kit.view(name).name, kit.view().name) == ("greets 3", "outer")
    kit.kill(snapshot=True)
    assert kit.view(name).name == "greets 3"
    # One that cannot be evaluated is the child's fault, and its parent hears of it.
    broken = plan(task("x"), run_name="${{ fromJSON('{') }}")
    kit.start(plan(child("c", broken)), "two")
    assert kit.state("two") == "FAILED"


def test_a_plan_that_names_what_was_not_looked_up_is_refused() -> None:
    found = parent()
    opened = msgspec.structs.replace(found.nodes[1], plan=b"", source="order@1")
    open_plan = msgspec.structs.replace(found, nodes=(found.nodes[0], opened, *found.nodes[2:]))
    with pytest.raises(InvalidDefinition, match="'order@1' was not looked up yet"):
        validate_plan(open_plan)


def test_parent_and_child_are_linked_in_what_people_see() -> None:
    kit = Kit()
    kit.start(parent())
    name = child_of(kit)
    assert kit.view(name).parent == "r"
    assert [step.child for step in kit.view().steps if step.path == "c"] == [name]
    reason = kit.explain().reasons[0]
    assert (reason.path, reason.reason) == ("c", f"waits for child run {name}")
    assert reason.owner == f"run {name}"


def test_a_failure_is_the_nodes() -> None:
    kit = Kit()
    kit.start(parent())
    name = child_of(kit)
    kit.fail("x", run=name)
    assert kit.status("c") == "FAILED"
    assert kit.run().ended_reason == (f"c: child: run {name} ended FAILED: x: exit-code: x failed")


def test_a_tolerated_failure_lets_the_parent_go_on() -> None:
    kit = Kit()
    kit.start(parent(continue_on_error=True))
    kit.fail("x", run=child_of(kit))
    assert kit.dispatched() == ["after"]


def test_a_cancelled_child_is_a_cancelled_node() -> None:
    kit = Kit()
    kit.start(parent())
    name = child_of(kit)
    kit.cancel(name)
    kit.cancelled("x", run=name)
    assert kit.status("c") == "CANCELLED"


def test_a_cancel_goes_on_to_the_child() -> None:
    kit = Kit()
    kit.start(parent())
    name = child_of(kit)
    kit.cancel(reason="enough")
    assert kit.state() == "CANCELLED"
    assert kit.run(name).cancelling
    kit.cancelled("x", run=name)
    assert kit.state(name) == "CANCELLED"
    assert "what waited for it has ended: enough" in kit.run(name).ended_reason


def test_a_timeout_fails_the_node_and_cancels_the_child() -> None:
    kit = Kit()
    kit.start(parent(timeout_ms=1_000))
    name = child_of(kit)
    kit.advance(1_000)
    assert kit.state() == "FAILED"
    assert "did not end in time" in kit.run().ended_reason
    assert kit.run(name).cancelling


def test_a_loser_of_a_join_is_cancelled() -> None:
    kit = Kit()
    kit.start(plan(group("g", child("c", INNER), task("t"), join=join("any"))))
    name = child_of(kit, "g/c")
    kit.complete("g/t")
    assert kit.run(name).cancelling
    kit.cancelled("x", run=name)
    assert kit.state() == "COMPLETED"


def test_a_detached_child_is_nobodys_to_wait_for() -> None:
    kit = Kit()
    kit.start(parent(detached=True))
    name = child_of(kit)
    assert kit.output("c") == {"run": name}
    assert kit.dispatched() == ["after"]
    kit.cancel()
    kit.cancelled("after")
    assert not kit.run(name).cancelling
    assert finish(kit, name) == "COMPLETED"


def test_an_input_that_does_not_fit_fails_the_node() -> None:
    kit = Kit()
    kit.start(parent(inputs={"n": "many"}))
    assert kit.state() == "FAILED"
    assert "input 'n' must be a number" in kit.run().ended_reason


def test_an_input_that_is_too_large_fails_the_node() -> None:
    kit = Kit(limits=Limits(input_bytes=100))
    inner = plan(task("x"), name="inner")
    kit.start(plan(child("c", inner, inputs={"t": "x" * 200})))
    assert kit.state() == "FAILED"


@pytest.mark.parametrize("detached", [False, True])
def test_a_child_that_cannot_begin_fails_at_once_and_is_there_to_be_seen(detached: bool) -> None:
    kit = Kit()
    inner = plan(task("x"), name="inner", concurrency=key("${{ fromJSON('{') }}"))
    kit.start(plan(child("c", inner, detached=detached)))
    name = child_of(kit)
    assert kit.state(name) == "FAILED"
    assert "JSON" in kit.run(name).ended_reason
    assert kit.dispatched(name) == []
    assert kit.state() == ("COMPLETED" if detached else "FAILED")
    if not detached:
        assert f"child: run {name} ended FAILED" in kit.run().ended_reason


def test_children_have_concurrency_and_wait_for_it() -> None:
    kit = Kit()
    inner = plan(task("x"), name="inner", concurrency=key("one"))
    kit.start(plan(child("a", inner), child("b", inner)))
    first, second = child_of(kit, "a"), child_of(kit, "b")
    assert (kit.state(first), kit.state(second)) == ("RUNNING", "PENDING")
    kit.complete("x", run=first)
    kit.complete("x", run=second)
    assert kit.state() == "COMPLETED"


def test_each_iteration_has_its_own() -> None:
    kit = Kit()
    kit.start(plan(loop("l", child("c", INNER, inputs={"n": "${{ item }}"}), [1, 2])))
    names = {child_of(kit, f"l[{at}]") for at in (0, 1)}
    assert len(names) == 2
    for name in names:
        kit.complete("x", run=name)
    assert kit.state() == "COMPLETED"


def test_a_job_that_begins_anew_begins_a_new_child() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a"), child("c", INNER))))
    kit.complete("j/a", worker="w")
    first = child_of(kit, "j/c")
    kit.lose_worker("w")
    kit.complete("j/a", worker="w")
    second = child_of(kit, "j/c")
    assert first != second
    assert kit.run(first).cancelling
    kit.complete("x", run=second)
    assert kit.state() == "COMPLETED"


def test_children_of_children() -> None:
    kit = Kit()
    middle = plan(child("d", INNER), name="middle")
    kit.start(plan(child("c", middle)))
    name = child_of(kit)
    kit.complete("x", run=child_of(kit, "d", name))
    assert kit.state() == "COMPLETED"


def test_a_child_may_be_evicted_and_its_parent_still_hears() -> None:
    pair = Pair()
    one, other = pair.kits[1], pair.kits[2]
    run, name = _far(pair)
    pair.calm()
    other.complete("x", {"m": 1}, run=name)
    gone = other.run(name)
    other.tick(lambda m: m.emit_shard(RunEvicted(gone.key, "", gone.state, gone.not_after_ms)))
    pair.calm()
    assert one.status("c", run) == "COMPLETED"


@pytest.mark.parametrize("snapshot", [False, True])
def test_another_owner_goes_on_at_any_point(snapshot: bool) -> None:
    kit = Kit()
    kit.start(parent(timeout_ms=9_000))
    name = child_of(kit)
    kit.kill(snapshot=snapshot)
    kit.complete("x", run=name)
    kit.kill(snapshot=snapshot)
    assert kit.dispatched() == ["after"]
    assert finish(kit) == "COMPLETED"


def test_the_childs_id_is_made_of_what_makes_it() -> None:
    long = "p" * 128
    assert child_name(f"d/{long}", 1, 1) == child_name(f"d/{long}", 1, 1)
    names = {child_name(f"d/{long}", *what) for what in ((1, 1), ("c", 2), ("d", 1))}
    names.add(child_name(f"e/{long}", 1, 1))
    assert len(names) == 4
    assert all(len(name) <= 128 for name in names)


def test_plans_inside_each_other_have_an_end() -> None:
    inner = plan(task("x"), name="w")
    for _ in range(9):
        inner = plan(child("c", inner), name="w")
    with pytest.raises(InvalidDefinition, match="SUBPLAN_DEPTH_MAX"):
        plan(child("c", inner), name="w")


# --- in two shards -----------------------------------------------------------------------------


def _far(pair: Pair) -> tuple[str, str]:
    """Start a run in shard 1 whose child lives in shard 2; return the ids of both."""
    for number in range(500):
        run = f"r{number}"
        name = child_name(f"{NAMESPACE}/{run}", 1, 1)
        if Pair.home(name) == 2:
            pair.kits[1].start(parent(), run)
            return run, name
    raise AssertionError("no such id")


def test_every_letter_may_come_twice_and_late() -> None:
    pair = Pair()
    run, name = _far(pair)
    one, other = pair.kits[1], pair.kits[2]
    pair.collect()
    pair.deliver(0, keep=True, answer=False)
    pair.deliver(0, keep=True)
    pair.calm()
    other.complete("x", {"m": 1}, run=name)
    pair.kill(2)
    pair.resend()
    pair.deliver(0, keep=True, answer=False)
    pair.kill(1)
    pair.calm()
    assert one.status("c", run) == "COMPLETED"
    created = [event for event in other.all_events(name, RunCreated)]
    assert len(created) == 1
    assert len(one.all_events(run, ChildStarted)) == 1


def test_a_cancel_that_overtakes_the_start_lets_nothing_begin() -> None:
    pair = Pair()
    run, name = _far(pair)
    pair.collect()
    pair.kits[1].cancel(run)
    pair.collect()
    start = next(i for i, letter in enumerate(pair.wire) if letter.content.kind == "start-child")
    held = pair.wire.pop(start)
    while pair.wire:
        pair.deliver(0)
    pair.wire.append(held)
    pair.deliver(0)
    assert f"{NAMESPACE}/{name}" not in pair.kits[2].machine.state.runs


def test_a_start_that_comes_after_the_end_begins_nothing() -> None:
    pair = Pair()
    run, name = _far(pair)
    other = pair.kits[2]
    pair.collect()
    pair.deliver(0, keep=True)
    other.complete("x", run=name)
    ended = other.run(name)
    other.tick(lambda m: m.emit_shard(RunEvicted(ended.key, "", ended.state, ended.not_after_ms)))
    pair.calm()
    assert f"{NAMESPACE}/{name}" not in other.machine.state.runs
    assert pair.kits[1].status("c", run) == "COMPLETED"
