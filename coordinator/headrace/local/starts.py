"""How runs of this process begin, and who waits for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from headrace.coordinator.core import Run
from headrace.coordinator.core.state import IDLE_PLANS_MAX
from headrace.coordinator.runtime.owner import Owner
from headrace.local.ends import Company, Ends, Start
from headrace.local.submits import Submits
from headrace.messages import SubmitRun, subjects
from headrace.plan import Plan


class Starts:
    """Of one engine. Belongs to one event loop."""

    def __init__(self, namespace: str, now_ms: Callable[[], int]) -> None:
        self._namespace = namespace
        self.submits = Submits(now_ms)
        """What starts runs here."""
        self.ends, self._company = Ends(), Company()

    def post(self, owner: Owner, plan: Plan, submit: SubmitRun) -> asyncio.Future[Run]:
        """Submit a run of *plan*; its end, or why it cannot begin, is to be awaited by `end`."""
        ended = self.ends.expect(subjects.run_key(self._namespace, submit.run))
        plans = owner.machine.state.plans if owner.machine is not None else {}
        # With more plans, one that no run uses may be forgotten before this very tick.
        known = plans if len(plans) <= IDLE_PLANS_MAX else ()
        requests = self.submits.requests(plan, submit, known)
        owner.post_requests(Start(self._namespace, requests, ended), works=True)
        return ended

    async def end(
        self, owner: Owner, run: str, ended: asyncio.Future[Run], *, alone: bool = False
    ) -> Run:
        """Return a run that was posted when it has ended. Raises why it could not begin.

        *alone*: at once, without looking for others that begin.
        """
        try:
            if owner.at_once:
                if not (alone or self._company.goes_alone(len(self.ends))):
                    await self._company.gathered()
                if not ended.done():
                    owner.work_now()
            return await ended
        except BaseException:
            self.ends.forget(subjects.run_key(self._namespace, run), ended)
            owner.wake()
            raise
