"""Children of runs: one run each, told of once, whatever the wire doubles, delays and loses."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.coordinator.core.intents import KEPT_MS
from headrace.coordinator.core.nodes.subworkflow import child_name
from headrace.events import ChildEnded, RunCreated
from support.core_pair import Pair
from support.core_settings import TIMEOUT_S, examples
from support.corekit import NAMESPACE
from support.plans import child, plan, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)
STEPS = ("deliver", "deliver", "kill", "resend", "end", "cancel", "archive", "hours pass")
INNER = plan(task("x"), name="inner")
FAR = next(
    f"r{number}"
    for number in range(500)
    if Pair.home(child_name(f"{NAMESPACE}/r{number}", 1, 1)) == 2
)
NAME = child_name(f"{NAMESPACE}/{FAR}", 1, 1)


@given(st.data())
@examples(60)
def test_one_child_and_one_end_of_it(data: st.DataObject) -> None:
    pair = Pair()
    one, other = pair.kits[1], pair.kits[2]
    detached = data.draw(st.booleans())
    after = task("after", needs=["c"], condition="always()")
    one.start(plan(child("c", INNER, detached=detached), after), FAR)
    pair.collect()
    key = f"{NAMESPACE}/{NAME}"
    cancelled = False
    for _ in range(data.draw(st.integers(1, 14))):
        step = data.draw(st.sampled_from(STEPS))
        if step == "deliver" and pair.wire:
            at = data.draw(st.integers(0, len(pair.wire) - 1))
            pair.deliver(at, keep=data.draw(st.booleans()), answer=data.draw(st.booleans()))
        elif step == "kill":
            pair.kill(data.draw(st.integers(1, 2)))
        elif step == "resend":
            pair.resend()
        elif step == "end" and (key, 1) in other.tasks:
            other.complete("x", {"n": 1}, run=NAME)
        elif step == "cancel" and not cancelled and data.draw(st.integers(0, 3)) == 0:
            one.cancel(FAR)
            cancelled = True
        elif step == "archive":
            other.archive()
        elif step == "hours pass" and not pair.wire:
            # What is on the wire is there for seconds, and not for hours.
            for kit in (one, other):
                kit.advance(3 * KEPT_MS)
                kit.start(plan(task("a")), f"later-{kit.now_ms}-{kit.shard}")
        pair.collect()
    pair.wire = [letter for letter in pair.wire if data.draw(st.booleans())]
    pair.calm()
    if (key, 1) in other.tasks:
        if other.run(NAME).doomed:
            other.cancelled("x", run=NAME)
        else:
            other.complete("x", {"n": 1}, run=NAME)
    pair.calm()
    other.archive()
    assert len(other.all_events(NAME, RunCreated)) <= 1
    assert len(one.all_events(FAR, ChildEnded)) == (
        not cancelled or detached or one.status("c", FAR) == "COMPLETED"
    )
    if not cancelled:
        assert one.status("c", FAR) == "COMPLETED"
        assert one.dispatched(FAR) == ["after"] or one.status("after", FAR) == "COMPLETED"
    assert not other.is_here(NAME), "a child that nobody waits for goes on, or never leaves"
