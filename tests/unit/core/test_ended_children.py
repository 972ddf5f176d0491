"""A run that another shard waits for stays until that shard has heard of its end."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core.intents import KEPT_MS
from headrace.coordinator.core.nodes.subworkflow import child_name
from headrace.events import ChildEnded, ChildStopped, RunCreated
from support.core_pair import Pair
from support.corekit import NAMESPACE, Kit
from support.plans import child, group, join, plan, policy, task

INNER = plan(task("x"), name="inner")
FAR = next(
    f"r{number}"
    for number in range(500)
    if Pair.home(child_name(f"{NAMESPACE}/r{number}", 1, 1)) == 2
)
NAME = child_name(f"{NAMESPACE}/{FAR}", 1, 1)
LONG_MS = 3 * KEPT_MS


def begun(**options: Any) -> tuple[Pair, Kit, Kit]:
    """Return a pair of shards with a parent in the first, whose start is on the wire."""
    pair = Pair()
    one, other = pair.kits[1], pair.kits[2]
    one.start(plan(child("c", INNER, **options), task("after", needs=["c"])), FAR)
    pair.collect()
    return pair, one, other


def hours_pass(pair: Pair) -> None:
    """Let time pass, with something to log, so that what is old is forgotten."""
    for kit in pair.kits.values():
        kit.advance(LONG_MS)
        kit.start(plan(task("a")), f"later-{kit.now_ms}-{kit.shard}")


def test_a_child_stays_until_its_parent_has_logged_its_end() -> None:
    pair, one, other = begun()
    pair.calm()
    other.complete("x", run=NAME)
    other.archive()
    assert other.is_here(NAME)
    pair.collect()
    pair.deliver(0, answer=False)
    assert one.status("c", FAR) == "COMPLETED"
    assert other.is_here(NAME)
    pair.calm()
    assert not other.is_here(NAME)


def test_a_takeover_does_not_forget_who_is_to_leave() -> None:
    pair, _, other = begun()
    pair.calm()
    other.complete("x", run=NAME)
    other.archive()
    pair.kill(2)
    assert [run.key for run in other.ended] == [f"{NAMESPACE}/{NAME}"]
    pair.calm()
    other.archive()
    assert not other.is_here(NAME)


@pytest.mark.parametrize("detached", [False, True])
def test_a_parent_that_was_away_for_long_begins_no_second_child(detached: bool) -> None:
    pair, one, other = begun(detached=detached)
    pair.deliver(0, answer=False)
    other.complete("x", run=NAME)
    other.archive()
    hours_pass(pair)
    pair.wire.clear()
    one.kill()
    pair.calm()
    other.archive()
    assert len(other.all_events(NAME, RunCreated)) == 1
    assert one.status("c", FAR) == "COMPLETED"
    assert len(one.all_events(FAR, ChildEnded)) == 1
    assert not other.is_here(NAME)


def test_a_start_that_is_still_on_its_way_begins_nothing_when_the_child_has_left() -> None:
    pair, _, other = begun()
    hours_pass(pair)
    pair.deliver(0, keep=True)
    late = pair.wire.pop(0)
    hours_pass(pair)
    other.complete("x", run=NAME)
    pair.calm()
    other.archive()
    assert not other.is_here(NAME)
    pair.wire.append(late)
    pair.calm()
    assert not other.is_here(NAME)


def test_a_child_that_was_cancelled_before_it_began_never_begins() -> None:
    pair, one, other = begun()
    start = pair.wire.pop(0)
    one.cancel(FAR)
    pair.collect()
    (cancel,) = [letter for letter in pair.wire if letter.content.kind == "cancel-child"]
    pair.wire = [cancel]
    pair.deliver(0, answer=False)
    hours_pass(pair)
    pair.wire = [start]
    pair.deliver(0)
    pair.resend()
    pair.calm()
    assert not other.is_here(NAME)
    assert other.all_events(NAME, RunCreated) == []
    assert one.state(FAR) == "CANCELLED"
    assert not one.machine.state.outbox


# --- what is undone waits for a child that is being cancelled -------------------------------------


def saga(**options: Any) -> Any:
    return plan(
        group(
            "g",
            task("a", compensate=task("undo")),
            child("c", INNER),
            task("b", **options),
            kind="parallel",
            join=join("count", 3),
            on_failure=policy("compensate"),
        )
    )


def child_of(kit: Kit) -> str:
    family = kit.run().family
    assert family is not None
    return family.children[kit.instance("g/c")]


def test_compensation_waits_for_the_end_of_a_cancelled_child() -> None:
    kit = Kit()
    kit.start(saga())
    kit.complete("g/a")
    name = child_of(kit)
    kit.fail("g/b")
    assert kit.run(name).doomed
    assert kit.dispatched() == []
    assert f"waits for the end of child run {name}" in kit.explain().reasons[0].reason
    kit.kill(snapshot=True)
    assert kit.dispatched() == []
    kit.cancelled("x", run=name)
    assert len(kit.all_events(kind=ChildStopped)) == 1
    assert kit.dispatched() == ["g/a~compensate"]
    kit.complete("g/a~compensate")
    assert kit.state() == "FAILED"


def test_a_second_cancel_waits_for_nobody() -> None:
    kit = Kit()
    kit.start(saga())
    kit.complete("g/a")
    name = child_of(kit)
    kit.fail("g/b")
    kit.cancel()
    assert kit.state() == "RUNNING"
    kit.cancel()
    assert kit.state() == "CANCELLED"
    assert "not compensated: g/a" in kit.view().reason
    kit.cancelled("x", run=name)
    assert kit.state(name) == "CANCELLED"


def test_a_child_that_did_not_begin_holds_up_no_compensation() -> None:
    pair = Pair()
    one = pair.kits[1]
    run = next(
        f"r{number}"
        for number in range(500)
        if Pair.home(child_name(f"{NAMESPACE}/r{number}", 4, 1)) == 2
    )
    one.start(saga(), run)
    pair.collect()
    pair.wire.clear()
    one.complete("g/a", run=run)
    one.fail("g/b", run=run)
    pair.collect()
    assert [letter.content.kind for letter in pair.wire] == ["cancel-child"]
    pair.deliver(0)
    assert one.dispatched(run) == []
    pair.calm()
    assert one.dispatched(run) == ["g/a~compensate"]
