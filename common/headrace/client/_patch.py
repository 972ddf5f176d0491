"""A live run goes on with another plan."""

from __future__ import annotations

from headrace.client._calls import Calls, refusal, result_of
from headrace.client._follow import ENDED
from headrace.client._lookup import Lookup
from headrace.client._submit import MUTATION_S, UNKNOWN_PLAN
from headrace.errors import Conflict
from headrace.messages import GetRun, PatchRun, PatchView, RunView, StorePlan, subjects
from headrace.plan import Plan, encode_plan


async def patch_run(calls: Calls, lookup: Lookup, request: PatchRun, plan: Plan) -> PatchView:
    """Send a patch to the owner of its run, and the plan before it where that is not known.

    Raises `Conflict` with all that does not fit, and for a run that has ended; `NotFound`.
    """
    view = await lookup.query(request.run, GetRun(run=request.run, steps=False), RunView)
    if view.state in ENDED:
        raise Conflict(f"run {request.run} has ended ({view.state}); it cannot be patched")

    def subject() -> str:
        return subjects.command(calls.namespace, view.shard)

    reply = await calls.reply(subject, request, within_s=MUTATION_S)
    if reply.code == UNKNOWN_PLAN:
        await calls.ask(subject, StorePlan(plan=encode_plan(plan)), within_s=MUTATION_S)
        reply = await calls.reply(subject, request, within_s=MUTATION_S)
    if reply.code:
        raise refusal(reply)
    return result_of(PatchView, reply.result)
