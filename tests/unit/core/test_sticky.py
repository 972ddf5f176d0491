"""Sticky steps prefer, for a moment, the worker that last ran their key."""

from __future__ import annotations

import pytest

from headrace.coordinator.core import state_hash
from headrace.coordinator.core.nodes.task import STICKY_WAIT_MS
from headrace.coordinator.core.sticky import KEYS_MAX, forget_oldest
from headrace.events import StepKeyed
from headrace.messages import ResultStatus
from support.corekit import Kit, finish
from support.patchkit import patched
from support.plans import group, job, lock, plan, task

PAIR = (task("a", sticky="k"), task("b", needs=["a"], sticky="k"))


def lanes(kit: Kit, run: str = "r") -> list[str]:
    """Return the workers by whose lanes steps went out; "" for that of all."""
    return [e.lane.partition("?")[0] if e.lane[0] == "@" else "" for e in kit.scheduled(run)]


def no_preferred(lane: str) -> bool:
    return "?" in lane


def test_the_second_goes_to_whom_ran_the_first() -> None:
    kit = Kit()
    kit.start(plan(*PAIR))
    kit.complete("a", worker="w7")
    assert lanes(kit) == ["", "@w7"]
    assert [event.key for event in kit.all_events(kind=StepKeyed)] == ["k", "k"]
    assert finish(kit) == "COMPLETED"


def test_a_key_holds_across_runs_and_not_across_namespaces() -> None:
    kit = Kit()
    first = kit.store(plan(task("a", sticky="repo-${{ inputs.r }}"), inputs={"r": {}}))
    kit.start(first, "one", input={"r": "x"})
    kit.complete("a", run="one", worker="w1")
    kit.start(first, "two", input={"r": "x"})
    kit.start(first, "three", input={"r": "y"})
    assert (lanes(kit, "two"), lanes(kit, "three")) == (["@w1"], [""])
    assert set(kit.machine.state.sticky) == {"default/repo-x"}


def test_after_a_moment_any_may_run_it() -> None:
    kit = Kit()
    kit.start(plan(*PAIR))
    kit.closed = no_preferred
    kit.complete("a", worker="w7")
    assert kit.dispatched() == []
    kit.advance(STICKY_WAIT_MS - 1)
    assert kit.dispatched() == []
    kit.advance(1)
    assert lanes(kit) == ["", ""]
    assert not any("?" in lane for lane in kit.machine.ready.filled)
    kit.complete("b", worker="w8")
    assert kit.machine.state.sticky["default/k"][1] == "w8"


def test_a_preference_does_not_outlive_the_lock_of_its_step() -> None:
    kit = Kit()
    short = lock("db", ttl_ms=STICKY_WAIT_MS // 2)
    kit.start(plan(task("a", sticky="k"), task("b", needs=["a"], sticky="k", lock=short)))
    kit.closed = no_preferred
    kit.complete("a", worker="w7")
    kit.advance(STICKY_WAIT_MS // 4)
    assert kit.dispatched() == ["b"], "it has the lock still"


def test_those_behind_have_their_own_moment() -> None:
    kit = Kit()
    kit.closed = no_preferred
    one = kit.store(plan(task("a", sticky="k")))
    kit.start(one, "one")
    kit.complete("a", run="one", worker="w")
    kit.start(one, "two")
    kit.now_ms += 500
    kit.start(one, "three")
    kit.advance(STICKY_WAIT_MS - 500)
    assert (kit.dispatched("two"), kit.dispatched("three")) == (["a"], [])
    assert any("?" in lane for lane in kit.machine.ready.filled)
    kit.advance(500)
    assert kit.dispatched("three") == ["a"]
    assert not any("?" in lane for lane in kit.machine.ready.filled)


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_remembers(snapshot: bool) -> None:
    kit = Kit()
    kit.start(plan(*PAIR))
    kit.closed = no_preferred
    kit.complete("a", worker="w7")
    kit.kill(snapshot=snapshot)
    assert kit.dispatched() == []
    kit.closed = lambda _lane: False
    kit.tick()
    assert lanes(kit) == ["", "@w7"]
    assert len(kit.all_events(kind=StepKeyed)) == 2


def test_a_retry_prefers_the_worker_too_and_a_cancel_ends_the_wait() -> None:
    kit = Kit()
    kit.start(plan(*PAIR))
    kit.closed = no_preferred
    kit.complete("a", worker="w7")
    kit.cancel()
    assert kit.state() == "CANCELLED"
    kit.advance(STICKY_WAIT_MS)
    assert kit.dispatched() == []


def test_a_job_prefers_a_worker_until_it_has_one() -> None:
    kit = Kit()
    one = kit.store(plan(job("j", task("x"), task("y"), sticky="k"), dialect="jobs"))
    kit.start(one, "one")
    kit.complete("j/x", run="one", worker="w1")
    kit.complete("j/y", run="one", worker="w1")
    kit.start(one, "two")
    assert lanes(kit, "two") == ["@w1"]
    kit.complete("j/x", run="two", worker="w1")
    assert kit.scheduled("two")[-1].lane == "@w1"
    assert finish(kit, "two") == "COMPLETED"


def test_what_is_below_a_group_has_its_key_and_an_own_one_goes_first() -> None:
    kit = Kit()
    inner = group("g", task("a"), task("b", needs=["a"], sticky="other"), sticky="k")
    kit.start(plan(inner))
    kit.complete("g/a")
    assert [event.key for event in kit.all_events(kind=StepKeyed)] == ["k", "other"]


def test_explain_says_whom_it_would_rather_have() -> None:
    from headrace.coordinator.core import Facts, WorkerFacts

    kit = Kit()
    kit.start(plan(*PAIR))
    kit.closed = no_preferred
    kit.complete("a", worker="w7")
    facts = Facts(workers=(WorkerFacts("w8", "default", frozenset(), 1, 1, False),))
    assert "would rather have worker w7" in kit.explain(facts=facts).reasons[0].reason


def test_a_broken_key_fails_the_step() -> None:
    kit = Kit()
    kit.start(plan(task("a", sticky="${{ fromJSON('x') }}")))
    assert kit.state() == "FAILED"
    kit.start(plan(task("a", sticky="x" * 300)), "long")
    assert "sticky key of 300 characters" in kit.run("long").ended_reason


def test_a_patch_moves_the_key_along() -> None:
    kit = Kit()
    kit.start(plan(*PAIR))
    kit.closed = no_preferred
    kit.complete("a", worker="w7")
    patched(kit, plan(task("first"), *PAIR))
    kit.advance(STICKY_WAIT_MS)
    assert "b" in kit.dispatched()
    kit.complete("b", worker="w9")
    assert kit.machine.state.sticky["default/k"][1] == "w9"


def test_two_ends_in_one_batch_are_the_same_for_all_in_any_order() -> None:
    kit = Kit()
    one = kit.store(plan(task("a", sticky="k")))
    for name in ("one", "two"):
        kit.start(one, name)
    results = [kit.result(kit.task("a", name), ResultStatus.COMPLETED) for name in ("one", "two")]

    def both(machine: object) -> None:
        from headrace.messages import ResultBatch

        machine.results(ResultBatch(1, "w9", "1", [results[1]]))  # type: ignore[attr-defined]
        machine.results(ResultBatch(1, "w1", "1", [results[0]]))  # type: ignore[attr-defined]

    kit.tick(both)
    assert kit.machine.state.sticky["default/k"][1] == "w9"
    assert state_hash(kit.machine.state) == state_hash(kit.folder.state)


def test_what_is_remembered_is_bounded() -> None:
    kit = Kit()
    state = kit.machine.state
    state.sticky = {f"default/{n}": (n, "w") for n in range(KEYS_MAX + 1)}
    forget_oldest(state)
    assert len(state.sticky) == KEYS_MAX * 9 // 10
    assert f"default/{KEYS_MAX}" in state.sticky
