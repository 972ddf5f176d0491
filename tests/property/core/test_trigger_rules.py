"""Trigger rules, over every order of results: never early, never twice, never lost."""

from __future__ import annotations

from typing import Any, get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.plan import TriggerRule
from support.core_settings import TIMEOUT_S, examples
from support.corekit import Kit
from support.plans import plan, task

pytestmark = pytest.mark.timeout(TIMEOUT_S)


def decided(rule: str, ok: int, bad: int, total: int) -> bool | None:
    """Tell whether the node runs, after *ok* successes and *bad* failures; None: not yet known."""
    if rule == "one_success" and ok:
        return True
    if rule == "one_failed" and bad:
        return True
    if ok + bad < total:
        return None
    return {
        "all_success": not bad,
        "all_done": True,
        "one_success": False,
        "one_failed": False,
        "none_failed": not bad,
        "none_failed_min_one_success": not bad and ok > 0,
    }[rule]


@given(
    rule=st.sampled_from(get_args(TriggerRule)),
    outcomes=st.lists(st.booleans(), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    kills=st.booleans(),
)
@examples(100)
def test_a_rule_fires_exactly_when_it_must(
    rule: Any, outcomes: list[bool], order: Any, kills: bool
) -> None:
    kit = Kit()
    needs = [f"n{at}" for at in range(len(outcomes))]
    kit.start(
        plan(
            *(task(name, continue_on_error=False) for name in needs),
            task("t", needs=needs, trigger_rule=rule),
        )
    )
    turns = list(range(len(outcomes)))
    order.shuffle(turns)
    ok = bad = 0
    for turn in turns:
        if outcomes[turn]:
            kit.complete(f"n{turn}")
        else:
            kit.fail(f"n{turn}")
        ok, bad = ok + outcomes[turn], bad + (not outcomes[turn])
        if kills:
            kit.kill()
        wanted = decided(rule, ok, bad, len(outcomes))
        assert kit.status("t") == {None: "PENDING", True: "DISPATCHED", False: "SKIPPED"}[wanted]
    assert len([event for event in kit.scheduled() if event.step == kit.instance("t")]) == (
        kit.status("t") == "DISPATCHED"
    )
