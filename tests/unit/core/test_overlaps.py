"""A schedule whose overlap policy changes: runs that it has begun before count."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.messages import CreateSchedule, ScheduleSpec, ScheduleView
from headrace.plan import encode_plan
from support.corekit import NAMESPACE, START_MS, Kit
from support.plans import plan, task

HOUR_MS = 3_600_000
FIRST_MS = START_MS // HOUR_MS * HOUR_MS + HOUR_MS


def create(kit: Kit, overlap: Any) -> ScheduleView:
    request = CreateSchedule(
        name="hourly",
        spec=ScheduleSpec(cron="0 * * * *", overlap=overlap),
        plan=encode_plan(plan(task("a"))),
        replace=True,
        request_id=kit.request_id(),
        not_after_ms=kit.now_ms + 60_000,
    )
    found = kit.tick(lambda m: m.request(NAMESPACE, request))
    assert isinstance(found, ScheduleView), found
    return found


def at(kit: Kit, hour: int) -> list[str]:
    """Go to a full hour; return all runs."""
    kit.now_ms = max(kit.now_ms, FIRST_MS + hour * HOUR_MS)
    kit.tick()
    kit.tick()
    return sorted(key.partition("/")[2] for key in kit.machine.state.runs)


@pytest.mark.parametrize("policy", ["skip", "queue", "cancel-previous"])
def test_a_policy_that_changes_counts_what_runs_already(policy: str) -> None:
    kit = Kit(0)
    create(kit, "allow")
    at(kit, 0)
    first, second = at(kit, 1)
    assert create(kit, policy).running == [first, second]
    kit.kill(snapshot=True)
    assert at(kit, 2) == [first, second]
    cancelled = policy == "cancel-previous"
    assert [kit.run(run).cancelling for run in (first, second)] == [cancelled] * 2
    if cancelled:
        return
    kit.complete("a", run=second)
    assert at(kit, 2) == [first, second], "the other one runs still"
    kit.complete("a", run=first)
    assert len(at(kit, 2)) == (3 if policy == "queue" else 2)
