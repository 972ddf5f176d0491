"""From a plan and an input to the requests that start a run."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Final

import msgspec

from headrace.client import RequestIds, RunIds
from headrace.messages import ClientRequest, StorePlan, SubmitRun
from headrace.plan import Plan, encode_plan, plan_digest

NOT_AFTER_MS: Final = 15_000
PLANS_MAX: Final = 256
"""Plans whose digest is remembered."""


class Submits:
    """Makes ids, and knows the digests of plans that were used lately."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._runs, self._requests = RunIds(), RequestIds()
        self._plans: dict[int, tuple[Plan, str]] = {}
        self.new_run = self._runs.next

    def submit(
        self,
        plan: Plan,
        run: str,
        inputs: Mapping[str, Any] | None,
        labels: Mapping[str, str] | None,
        priority: int,
    ) -> SubmitRun:
        """Return what starts *run* where the plan is known."""
        return SubmitRun(
            run=run,
            request_id=self._requests.next(),
            not_after_ms=self._now_ms() + NOT_AFTER_MS,
            plan=self._digest(plan),
            input=dict(inputs) if inputs else {},
            labels=dict(labels) if labels else {},
            priority=priority,
        )

    def requests(self, plan: Plan, submit: SubmitRun, known: Container[str]) -> list[ClientRequest]:
        """Return *submit*; the plan comes first unless its digest is among *known*."""
        return [submit] if submit.plan in known else [StorePlan(plan=encode_plan(plan)), submit]

    def _digest(self, plan: Plan) -> str:
        # By identity: plans hold dicts and cannot be hashed. Kept, so that the id stays theirs.
        known = self._plans.get(id(plan))
        if known is not None:
            return known[1]
        if len(self._plans) >= PLANS_MAX:
            self._plans.clear()
        digest = plan_digest(plan)
        self._plans[id(plan)] = (plan, digest)
        return digest


def with_input(submit: SubmitRun, data: bytes) -> SubmitRun:
    """Return *submit* with an input that is encoded."""
    return msgspec.structs.replace(submit, input=msgspec.msgpack.decode(data))
