"""Cached results of steps: found, kept, bounded, forgotten; never of a step that failed."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core import kept_results
from headrace.coordinator.core.kept_results import KeptResult, KeptResults
from headrace.events import CacheStored, StepCached, decode_batch
from headrace.messages import ClearCached, ListCached, ResultExtra
from headrace.payloads import reference_to
from support.core_pair import Pair
from support.corekit import NAMESPACE, Kit, finish
from support.plans import cached, group, job, lock, loop, plan, rate, retry, task

HOUR_MS = 3_600_000


def build(key: str = "v1", ttl_ms: int = 0, **options: Any) -> Any:
    return plan(task("a", cache=cached(key, ttl_ms=ttl_ms), **options), task("b", needs=["a"]))


def ran(kit: Kit, run: str) -> bool:
    return "a" in kit.dispatched(run)


def test_a_second_step_has_the_first_one_s_result() -> None:
    kit = Kit()
    kit.start(build(), "one")
    kit.complete("a", {"n": 7}, run="one")
    kit.start(build(), "two")
    assert kit.dispatched("two") == ["b"]
    assert kit.output("a", "two") == {"n": 7}
    (event,) = kit.all_events("two", StepCached)
    assert (event.run, event.path) == ("one", "a")
    (view,) = [step for step in kit.view("two").steps if step.path == "a"]
    assert view.state == "COMPLETED"
    assert view.conclusion == "success"
    assert view.reason == "cached: the result of a in run one"
    assert view.attempt == 0
    assert finish(kit, "two") == "COMPLETED"
    assert kit.machine.state.outbox == {}


def test_a_cached_result_is_not_kept_anew() -> None:
    kit = Kit()
    kit.start(build(ttl_ms=HOUR_MS), "one")
    kit.complete("a", run="one")
    kit.advance(HOUR_MS - 1)
    kit.start(build(ttl_ms=HOUR_MS), "two")
    assert not ran(kit, "two")
    kit.advance(1)
    kit.start(build(ttl_ms=HOUR_MS), "three")
    assert ran(kit, "three"), "its time counts from when it was recorded"


@pytest.mark.parametrize("how", ["fail", "cancel", "lose"])
def test_only_what_completed_is_kept(how: str) -> None:
    kit = Kit()
    kit.start(build(), "one")
    if how == "fail":
        kit.fail("a", run="one")
    elif how == "cancel":
        kit.cancel("one")
        kit.cancelled("a", run="one")
    else:
        kit.lose("a", run="one")
    assert not kit.machine.state.kept.by_key
    kit.start(build(), "two")
    assert ran(kit, "two")


def test_a_failure_that_is_tolerated_is_no_result() -> None:
    kit = Kit()
    kit.start(build(continue_on_error=True), "one")
    kit.fail("a", run="one")
    assert not kit.machine.state.kept.by_key


def test_each_attempt_asks() -> None:
    kit = Kit()
    kit.start(build(retry=retry(3)), "one")
    kit.start(build(), "two")
    assert ran(kit, "two"), "at the same time, both run"
    kit.fail("a", run="one")
    kit.complete("a", {"by": "two"}, run="two")
    kit.advance(1_000)
    assert kit.output("a", "one") == {"by": "two"}
    assert kit.view("one").steps[0].error == ""


@pytest.mark.parametrize(
    "other",
    [
        build("v2"),
        plan(task("a", uses="other", cache=cached("v1"))),
        plan(task("a", inputs={"x": "${{ 1 }}"}, cache=cached("v1"))),
        plan(task("a", env={"A": "1"}, cache=cached("v1"))),
    ],
    ids=["key", "handler", "inputs", "env"],
)
def test_what_does_something_else_has_its_own(other: Any) -> None:
    kit = Kit()
    kit.start(build(), "one")
    kit.complete("a", run="one")
    kit.start(other, "two")
    assert kit.dispatched("two") == ["a"]


def test_what_does_the_same_shares_it_wherever_it_stands() -> None:
    kit = Kit()
    kit.start(build("k-${{ 1 }}"), "one")
    kit.complete("a", {"n": 1}, run="one")
    kit.start(plan(loop("l", group("g", task("x", cache=cached("k-${{ item }}"))), [1, 2])), "two")
    assert kit.dispatched("two") == ["l[1]/x"]
    assert kit.output("l[0]/x", "two") == {"n": 1}


def test_what_a_step_has_added_to_env_is_part_of_it() -> None:
    kit = Kit()
    found = plan(job("j", task("a", cache=cached("v1")), task("b")))
    extra = ResultExtra(env={"A": "1"}, path=["/tools"], summary="said")
    kit.start(found, "one")
    kit.complete("j/a", {"n": 1}, run="one", extra=extra)
    kit.start(found, "two")
    options = kit.task("j/b", "two").options
    assert options is not None
    assert options.env["A"] == "1"
    assert options.env["HEADRACE_ADDED_PATH"] == "/tools"
    assert kit.run("two").jobs[1].worker == ""


def test_neither_lock_nor_rate_limit_is_asked_for_what_is_cached() -> None:
    kit = Kit()
    options = {"lock": lock("db"), "rate_limit": rate("x", 1, HOUR_MS)}
    kit.start(build(**options), "one")
    kit.complete("a", run="one")
    kit.start(plan(task("a", lock=lock("db"))), "holder")
    kit.start(build(**options), "two")
    assert kit.dispatched("two") == ["b"]


def test_a_result_that_is_too_large_or_lies_elsewhere_is_not_kept() -> None:
    kit = Kit()
    kit.start(build(), "one")
    kit.complete("a", {"x": "y" * kept_results.RESULT_BYTES_MAX}, run="one")
    kit.start(build(), "two")
    kit.complete("a", {"x": [reference_to("default/two/b", 10_000)]}, run="two")
    kit.start(build(), "three")
    kit.complete("a", {"$blob": "a user's own"}, run="three")
    kit.start(build(), "four")
    assert kit.output("a", "four") == {"$blob": "a user's own"}


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "RESULTS_MAX", 3)
    kit = Kit()
    for name, ttl_ms in (("k0", 0), ("k1", HOUR_MS), ("k2", 0), ("k3", 0), ("k4", 0)):
        kit.start(build(name, ttl_ms), name)
        kit.complete("a", run=name)
        kit.advance(HOUR_MS if name == "k2" else 0)
    left = [key.rpartition("/")[2] for key in kit.machine.state.kept.by_key]
    assert left == ["k2", "k3", "k4"], "what was over went first, then the oldest"


def test_bytes_are_bounded_too() -> None:
    kept = KeptResults()
    result = KeptResult(b"x" * 60_000, "default/r", "a", 1, 0)
    for number in range(1_000):
        for gone in kept.in_the_way(f"k{number}", result, 2):
            kept.drop(gone)
        kept.put(f"k{number}", result)
    assert kept.size <= kept_results.BYTES_MAX
    assert kept.size == sum(found.size for found in kept.by_key.values())
    assert next(reversed(kept.by_key)) == "k999"


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_takeover_keeps_results(snapshot: bool) -> None:
    kit = Kit()
    kit.start(build(), "one")
    extra = ResultExtra(env={"A": "1"})
    kit.complete("a", {"n": 7}, run="one", extra=extra)
    kit.kill(snapshot=snapshot)
    kit.start(build(), "two")
    assert kit.output("a", "two") == {"n": 7}
    kit.kill(snapshot=snapshot)
    assert finish(kit, "two") == "COMPLETED"


def test_across_two_shards() -> None:
    pair = Pair()
    # The key is hashed with a digest, and ends as the name does.
    for shard, run in ((1, "one"), (2, "two"), (1, "three")):
        kit = pair.kits[shard]
        kit.start(build("k2"), run)
        pair.collect()
        if run == "one":
            assert kit.dispatched(run) == []
            assert "asks whether there is a cached result k2" in kit.explain(run).summary
            pair.kill(1)
        pair.calm()
        if run == "one":
            assert ran(kit, run)
            kit.complete("a", {"n": 1}, run="one", extra=ResultExtra(env={"A": "1"}))
            pair.calm()
            assert len(pair.kits[2].machine.state.kept.by_key) == 1
        assert kit.dispatched(run) == ["b"], run
    # Sent once more, an old offer changes nothing.
    events = [e for _, entry in pair.kits[2].log for e in decode_batch(entry).after]
    (event,) = [event for event in events if isinstance(event, CacheStored)]
    assert event.run == f"{NAMESPACE}/one"


def test_an_answer_that_comes_late_or_twice_changes_nothing() -> None:
    pair = Pair()
    kit = pair.kits[1]
    kit.start(build("k2"), "one")
    pair.collect()
    pair.deliver(0)
    (word,) = [n for n, at in enumerate(pair.wire) if at.content and at.content.kind == "cached"]
    pair.deliver(word, keep=True)
    assert ran(kit, "one")
    for ended in (False, True):
        if ended:
            kit.complete("a", {"n": 1}, run="one")
        (word,) = [
            n for n, at in enumerate(pair.wire) if at.content and at.content.kind == "cached"
        ]
        pair.deliver(word, keep=not ended)
        assert kit.status("a", "one") == ("COMPLETED" if ended else "DISPATCHED")
    pair.calm()
    kit.cancel("one")
    pair.calm()
    assert kit.output("a", "one") == {"n": 1}


def test_cancelled_while_it_asks() -> None:
    pair = Pair()
    pair.kits[1].start(build("k2"), "one")
    pair.collect()
    pair.kits[1].cancel("one")
    pair.calm()
    assert pair.kits[1].state("one") == "CANCELLED"
    assert not pair.kits[1].machine.state.outbox


def _ask(kit: Kit, request: Any, namespace: str = NAMESPACE) -> Any:
    return kit.tick(lambda m: m.request(namespace, request))


def test_looking_and_forgetting() -> None:
    kit = Kit()
    for number, name in enumerate(("k1", "k2")):
        kit.start(build(name, ttl_ms=HOUR_MS), f"r{number}")
        kit.complete("a", {"n": number}, run=f"r{number}")
    views = _ask(kit, ListCached())
    assert [(view.key, view.run, view.path) for view in views] == [
        ("k2", "r1", "a"),
        ("k1", "r0", "a"),
    ]
    assert views[0].until_ms == kit.now_ms + HOUR_MS
    assert _ask(kit, ListCached(), "other") == []
    clear = ClearCached(key="k1", request_id="q", not_after_ms=kit.now_ms + 1_000)
    assert _ask(kit, clear, "other") == 0
    assert _ask(kit, clear) == 1
    assert _ask(kit, clear) == 0
    assert [view.key for view in _ask(kit, ListCached())] == ["k2"]
    kit.kill()
    every = ClearCached(request_id="q2", not_after_ms=kit.now_ms + 1_000)
    assert _ask(kit, every) == 1
    assert kit.machine.state.kept.size == 0
    late = ClearCached(request_id="q3", not_after_ms=kit.now_ms - 1)
    assert _ask(kit, late).code == "too-late"
