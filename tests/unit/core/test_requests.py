"""Submits: idempotent, limited, refused in words; plans and what is forgotten."""

from __future__ import annotations

import msgspec
import pytest

from headrace.coordinator.core import Limits, Machine, Refusal
from headrace.coordinator.core.shard_events import FORGET_MARGIN_MS
from headrace.coordinator.core.state import IDLE_PLANS_MAX
from headrace.events import RunCreated, RunEvicted, StepCarried
from headrace.messages import (
    GetExplanation,
    GetHistory,
    GetInfo,
    GetPlan,
    GetRun,
    ListRuns,
    StorePlan,
)
from headrace.plan import InputSpec, decode_plan, encode_plan
from support.corekit import NAMESPACE, Kit, finish
from support.plans import chain, group, loop, plan, retry, task, wait

EMPTY = plan(group("empty"))


def evict(kit: Kit, run: str = "r") -> None:
    """What the archiver does once the archive has the run."""
    found = kit.run(run)
    event = RunEvicted(found.key, found.fingerprint, found.state, found.not_after_ms)
    kit.tick(lambda m: m.emit_shard(event))


def test_the_same_submit_again_is_the_same_run() -> None:
    kit = Kit()
    options = {"request_id": "q", "not_after_ms": kit.now_ms + 1_000, "input": {"n": 1}}
    digest = kit.store(plan(task("a")))
    for _ in range(3):
        assert not isinstance(kit.submit(digest, **options), Refusal)
    kit.kill(snapshot=True)
    assert not isinstance(kit.submit(digest, **options), Refusal)
    assert len(kit.all_events(kind=RunCreated)) == 1


def test_an_id_that_is_taken_by_other_work_is_refused() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a")))
    kit.start(digest, input={"n": 1}, explicit=True)
    assert not isinstance(kit.submit(digest, input={"n": 1}, explicit=True), Refusal)
    assert kit.submit(digest, input={"n": 2}, explicit=True).code == "conflict"
    assert kit.submit(chain(2), input={"n": 1}, explicit=True).code == "conflict"


def test_an_id_that_a_client_made_is_not_given_to_other_work_either() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a")))
    kit.start(digest, input={"n": 1})
    assert not isinstance(kit.submit(digest, input={"n": 1}), Refusal)
    assert kit.submit(digest, input={"n": 2}).code == "conflict"


def test_an_input_keeps_its_order_and_the_order_makes_no_other_run() -> None:
    kit = Kit()
    found = plan(
        loop("l", task("x"), "${{ inputs.matrix }}", kind="matrix"),
        inputs={"matrix": InputSpec(type="json")},
    )
    digest = kit.store(found)
    written = {"os": ["m", "l"], "arch": ["x"]}
    turned = {"arch": ["x"], "os": ["m", "l"]}
    for run, explicit in (("one", True), ("two", False)):
        kit.start(digest, run, input={"matrix": written}, explicit=explicit)
        assert kit.dispatched(run) == ["l[m,x]", "l[l,x]"]
        assert list(kit.view(run).input["matrix"]) == ["os", "arch"]
        reply = kit.submit(digest, run, input={"matrix": turned}, explicit=explicit)
        assert not isinstance(reply, Refusal)
        other = {"os": ["l", "m"], "arch": ["x"]}
        assert kit.submit(digest, run, input={"matrix": other}, explicit=explicit).code
        assert len(kit.all_events(run, kind=RunCreated)) == 1


def test_a_late_submit_is_refused() -> None:
    kit = Kit()
    assert kit.submit(EMPTY, not_after_ms=kit.now_ms - 1).code == "too-late"


def test_a_tombstone_remembers_the_run_until_it_cannot_be_sent_again() -> None:
    kit = Kit()
    kit.start(EMPTY, explicit=True, not_after_ms=kit.now_ms + 10_000, request_id="q")
    evict(kit)
    assert kit.machine.state.runs == {}
    again = {"explicit": True, "not_after_ms": kit.now_ms + 10_000, "request_id": "q"}
    assert kit.submit(EMPTY, **again).code == "archived"
    assert kit.submit(EMPTY, input={"n": 1}, explicit=True).code == "conflict"
    kit.kill(snapshot=True)
    assert kit.submit(EMPTY, **again).code == "archived"
    kit.advance(10_000 + FORGET_MARGIN_MS + 1)
    kit.start(EMPTY, "other")
    assert kit.machine.state.tombstones == {}
    assert kit.submit(EMPTY, **again).code == "too-late"


@pytest.mark.parametrize("snapshot", [False, True])
def test_what_took_effect_is_not_refused_because_the_run_has_left(snapshot: bool) -> None:
    """The answer was lost, and the run ended: the same request again must hear the same."""
    kit = Kit()
    kit.start(plan(wait("w", "go")))
    same = {"request_id": "q", "not_after_ms": kit.now_ms + 10_000}
    assert not isinstance(kit.signal("go", **same), Refusal)
    evict(kit)
    if snapshot:
        kit.kill(snapshot=True)
    assert kit.signal("go", **same) is None
    assert kit.signal("go", request_id="other").code == "not-found"


def test_an_idle_shard_forgets_a_run_as_a_busy_one_does() -> None:
    """Nothing is appended meanwhile: the id is free all the same, and every replica sees it so."""
    kit = Kit()
    digest = kit.store(EMPTY)
    kit.start(digest, explicit=True, not_after_ms=kit.now_ms + 10_000)
    evict(kit)
    kit.advance(10_000 + FORGET_MARGIN_MS)
    assert kit.submit(digest, explicit=True).code == "archived"
    assert kit.submit(digest, input={"n": 1}, explicit=True).code == "conflict"
    kit.advance(1)
    assert not isinstance(kit.submit(digest, explicit=True), Refusal)
    assert kit.machine.state.tombstones == {}


def test_an_id_is_not_free_in_the_very_tick_of_its_eviction() -> None:
    """A tick's evictions are folded behind its runs: a new run of that id would be evicted."""
    kit = Kit()
    digest = kit.store(EMPTY)
    kit.start(digest, not_after_ms=kit.now_ms)
    kit.advance(60_000)
    found = kit.run()

    def both(machine: Machine) -> object:
        machine.emit_shard(RunEvicted(found.key, "", found.state, found.not_after_ms))
        return machine.request(NAMESPACE, kit_submit(digest, kit))

    assert kit.tick(both).code == "busy"
    assert not isinstance(kit.submit(digest), Refusal)


def kit_submit(digest: str, kit: Kit) -> object:
    from headrace.messages import SubmitRun

    return SubmitRun(run="r", plan=digest, request_id="z", not_after_ms=kit.now_ms + 1_000)


@pytest.mark.parametrize("run", ["", "a/b", "a#0.1", "a.b", "ä", "x" * 129, "a b"])
def test_a_run_id_is_a_name(run: str) -> None:
    kit = Kit()
    assert kit.submit(EMPTY, run).code == "invalid-request"


def test_an_unknown_plan_is_asked_for() -> None:
    assert Kit().submit("0" * 32).code == "unknown-plan"


def test_inputs_are_checked_and_completed() -> None:
    kit = Kit()
    inputs = {
        "n": InputSpec(type="number", required=True),
        "s": InputSpec(default="x"),
    }
    found = plan(task("a", inputs={"v": "${{ inputs.n }}${{ inputs.s }}"}), inputs=inputs)
    reply = kit.submit(found, input={"s": "y"})
    assert reply.code == "invalid-definition"
    assert "'n' is required" in reply.message
    kit.start(found, input={"n": "3"})
    assert kit.inputs("a") == {"v": "3x"}


def test_limits() -> None:
    kit = Kit(limits=Limits(runs=1, input_bytes=50, plan_bytes=1_000))
    digest = kit.store(EMPTY)
    assert kit.submit(digest, input={"x": "y" * 100}).code == "limit-exceeded"
    kit.start(digest)
    busy = kit.submit(digest, "other")
    assert (busy.code, busy.retry_after_ms) == ("busy", 1_000)
    with pytest.raises(AssertionError, match="limit-exceeded"):
        kit.store(chain(200))


def test_what_is_not_a_plan_is_refused() -> None:
    kit = Kit()
    bad = msgspec.structs.replace(plan(task("a")), nodes=())
    for data in (b"", b"\xff", b"\x81\xa1\xff\x00", encode_plan(bad)):
        reply = kit.tick(lambda m, data=data: m.request(NAMESPACE, StorePlan(plan=data)))
        assert reply.code == "invalid-definition"
    assert kit.log == []


def test_a_request_for_somebody_else_is_refused() -> None:
    kit = Kit()
    assert kit.tick(lambda m: m.request(NAMESPACE, GetInfo())).code == "invalid-request"


def test_queries_of_what_is_not_there() -> None:
    kit = Kit()
    for query in (GetRun, GetHistory, GetExplanation, GetPlan):
        assert kit.tick(lambda m, q=query: m.request(NAMESPACE, q(run="r"))).code == "not-found"


def test_a_runs_plan_can_be_read() -> None:
    kit = Kit()
    kit.start(chain(2))
    data = kit.tick(lambda m: m.request(NAMESPACE, GetPlan(run="r")))
    assert decode_plan(data) == chain(2)


def test_labels_of_plan_and_submit() -> None:
    kit = Kit()
    kit.start(plan(task("a"), labels={"a": "1", "b": "1"}), labels={"b": "2"})
    assert kit.run().labels == {"a": "1", "b": "2"}


def test_namespaces_do_not_see_each_other() -> None:
    kit = Kit()
    kit.start(plan(task("a")))
    reply = kit.tick(lambda m: m.request("other", GetRun(run="r")))
    assert reply.code == "not-found"


# --- plans -------------------------------------------------------------------------------------


def test_idle_plans_are_forgotten_oldest_first_by_an_event() -> None:
    kit = Kit(watch=False)
    used = kit.store(plan(task("used")))
    kit.start(used)
    first = kit.store(plan(task("first")))

    def store(machine: Machine) -> None:
        for index in range(IDLE_PLANS_MAX):
            data = encode_plan(plan(task(f"t{index}")))
            machine.request(NAMESPACE, StorePlan(plan=data))

    kit.tick(store)
    assert kit.names()[-1] == "PlansForgotten"
    assert used in kit.machine.state.plans
    assert first not in kit.machine.state.plans
    assert kit.submit(first, "x").code == "unknown-plan"
    kit.kill(snapshot=True)
    assert finish(kit) == "COMPLETED"


def test_a_plan_is_stored_once() -> None:
    kit = Kit()
    assert kit.store(chain(2)) == kit.store(chain(2))
    assert len(kit.log) == 1


# --- reruns ------------------------------------------------------------------------------------


def test_carried_results_are_not_run_again() -> None:
    kit = Kit()
    found = plan(
        task("a"),
        loop("l", task("x", needs=[]), [1, 2], needs=["a"]),
        task("b", needs=["l"], inputs={"n": "${{ tasks.a.outputs.n }}"}),
    )
    carried = {
        "a": msgspec.msgpack.encode({"n": 5}),
        "l[1]": b"\x80",
        "nothing": b"\x80",
    }
    kit.start(found, carried=carried, rerun_of="old")
    assert kit.dispatched() == ["l[0]"]
    kit.kill(snapshot=True)
    kit.complete("l[0]")
    assert kit.inputs("b") == {"n": 5}
    assert len(kit.all_events(kind=StepCarried)) == 2
    kit.complete("b")
    assert kit.view().rerun_of == "old"
    assert [step.reason for step in kit.view().steps if step.path == "a"] == ["carried over"]


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x81\xa1\xff\x00", b"\x80\x80", b"\xc1"])
def test_carried_results_that_are_none_never_reach_the_log(data: bytes) -> None:
    kit = Kit()
    digest = kit.store(plan(task("a", retry=retry())))
    assert kit.submit(digest, carried={"a": data}).code == "invalid-request"
    assert len(kit.log) == 1


# --- lists -------------------------------------------------------------------------------------


def test_pages_of_open_runs_newest_first() -> None:
    kit = Kit()
    digest = kit.store(plan(task("a"), name="wf"))
    for index in range(5):
        kit.now_ms += index % 2
        kit.start(digest, f"r{index}", labels={"odd": str(index % 2)})
    found, cursor = [], ""
    while True:
        query = ListRuns(limit=2, cursor=cursor, workflow="wf", states=["running"])
        page = kit.tick(lambda m, q=query: m.request(NAMESPACE, q))
        found += [run.id for run in page.runs]
        cursor = page.cursor
        if not cursor:
            break
    assert found == ["r4", "r3", "r2", "r1", "r0"]
    odd = kit.tick(lambda m: m.request(NAMESPACE, ListRuns(labels={"odd": "1"})))
    assert [run.id for run in odd.runs] == ["r3", "r1"]
    since = kit.tick(lambda m: m.request(NAMESPACE, ListRuns(since_ms=kit.now_ms)))
    assert [run.id for run in since.runs] == ["r4", "r3"]
    bad = kit.tick(lambda m: m.request(NAMESPACE, ListRuns(cursor="x")))
    assert bad.code == "invalid-request"
