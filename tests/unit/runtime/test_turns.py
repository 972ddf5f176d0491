"""Lanes of several namespaces that share one window take turns by weight."""

from __future__ import annotations

from collections import Counter

from headrace.coordinator.runtime.inbox import PendingBatch
from headrace.messages import SetNamespace, StorePlan
from headrace.plan import encode_plan
from support.broker import eventually
from support.ownerkit import Kit, ask, submission
from support.plans import group, plan, task

PLAN = plan(group("g", *(task(f"t{n}") for n in range(30)), kind="parallel"))


async def test_namespaces_take_turns_by_weight_where_they_share_the_room():
    kit = Kit()
    async with kit.leading() as owner:
        dispatch = kit.dispatch
        dispatch.one_window, dispatch.credits = True, 0
        stamp = {"request_id": "w", "not_after_ms": kit.clock.now_ms() + 60_000}
        await ask(owner, SetNamespace(weight=3.0, **stamp)).reply()
        answered = []
        for namespace in ("default", "other"):
            stored = [StorePlan(plan=encode_plan(PLAN))]
            owner.post_requests(PendingBatch(namespace, stored, answered.append, 100))
            runs = [submission(owner, digest(), f"r-{namespace}")]
            owner.post_requests(PendingBatch(namespace, runs, answered.append, 100))
        await eventually(lambda: len(answered) == 4)
        dispatch.credit = lambda lane: (max(12 - sum(dispatch.reserved), 0), lane.name)
        owner.wake()
        await eventually(lambda: len(dispatch.sent) == 12)
        given = Counter(task.run.partition("/")[0] for task in dispatch.sent)
        assert given == {"default": 9, "other": 3}
        assert owner.machine is not None
        assert len(owner.machine.ready.filled) == 2


def digest():
    from headrace.plan import plan_digest

    return plan_digest(PLAN)
