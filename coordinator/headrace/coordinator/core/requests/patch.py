"""A live run goes on with another plan: nodes that have not begun are replaced."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.patching import CONFLICTS_MAX, Fit, fit
from headrace.coordinator.core.program import Program
from headrace.coordinator.core.renumbering import PATCHES_MAX, spans_of
from headrace.coordinator.core.requests.mutation import Handler, live_run, mutate, over
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.takeover import rebuild
from headrace.coordinator.core.tick import Tick
from headrace.coordinator.core.variables import pinned
from headrace.events import PlanPatched, decode_chunk
from headrace.messages import PATHS_MAX, PatchRun, PatchView


def _patch(tick: Tick, namespace: str, request: PatchRun) -> Reply:
    found = live_run(tick, namespace, request.run)
    if isinstance(found, Refusal):
        return found
    if request.request_id in tick.state.requests:
        return _done_before(found, request)

    def apply(run: Run) -> Reply:
        return _apply(tick, namespace, run, request)

    return mutate(tick, namespace, request, apply, verb="patched")


def _apply(tick: Tick, namespace: str, run: Run, request: PatchRun) -> Reply:
    if run.journal is not None:
        name = request.run
        text = "it is a workflow function: deploy the code that is to go on with it"
        return Refusal("conflict", f"run {name} cannot be patched: {text}")
    try:
        new = tick.state.program(request.plan, namespace)
    except KeyError:
        return Refusal("unknown-plan", f"plan {request.plan} is not stored in this shard")
    if run.cancelling:
        return Refusal("conflict", f"run {request.run} is being cancelled")
    if run.patches is not None and len(run.patches.moves) >= PATCHES_MAX:
        return over("run", len(run.patches.moves), PATCHES_MAX, "patches")
    found = fit(run, new)
    if found.conflicts:
        return Refusal("conflict", _refused(request.run, found.conflicts))
    if found.instances > tick.limits.nodes:
        return over("patched run", found.instances, tick.limits.nodes, "nodes")
    previous = run.program
    if not request.dry_run:
        variables = pinned(tick.state, new) if run.variables is None else None
        tick.emit(run, _event(found, previous, new, request, variables))
        for known in [known for known in tick.gatherings if known[0] == run.key]:
            del tick.gatherings[known]
        rebuild(tick, run)
    return _view(request, found, previous, new, 0 if request.dry_run else run.events)


def _refused(run: str, conflicts: list[str]) -> str:
    told = conflicts[:CONFLICTS_MAX]
    more = len(conflicts) - len(told)
    lines = [f"run {run} cannot go on with this definition; nothing was changed", *told]
    return "\n".join([*lines, f"and {more} more"] if more else lines)


def _event(
    found: Fit,
    previous: Program,
    new: Program,
    request: PatchRun,
    variables: dict[str, str] | None,
) -> PlanPatched:
    return PlanPatched(
        new.digest,
        previous.digest,
        spans_of(found.nodes),
        request.request_id,
        request.not_after_ms,
        request.actor,
        found.added[:PATHS_MAX],
        found.removed[:PATHS_MAX],
        found.changed[:PATHS_MAX],
        variables,
    )


def _view(request: PatchRun, found: Fit, previous: Program, new: Program, event: int) -> PatchView:
    return PatchView(
        run=request.run,
        plan=new.digest,
        previous=previous.digest,
        event=event,
        added=found.added[:PATHS_MAX],
        removed=found.removed[:PATHS_MAX],
        changed=found.changed[:PATHS_MAX],
        begun=found.begun,
    )


def _done_before(run: Run, request: PatchRun) -> PatchView:
    """Answer a request that was sent again: it is in the history, near its end."""
    for data in reversed(run.history):
        chunk = decode_chunk(data)
        for number, event in enumerate(chunk.events, chunk.first):
            if isinstance(event, PlanPatched) and event.request_id == request.request_id:
                return PatchView(
                    run=request.run,
                    plan=event.plan,
                    previous=event.previous,
                    event=number,
                    added=event.added,
                    removed=event.removed,
                    changed=event.changed,
                )
    # In this very tick, or so long ago that the archive has it: the result without its details.
    moves = run.patches.moves if run.patches is not None else []
    last = moves[-1].event if moves else 0
    return PatchView(run=request.run, plan=request.plan, previous="", event=last)


HANDLERS: Final[dict[type, Handler]] = {PatchRun: _patch}
