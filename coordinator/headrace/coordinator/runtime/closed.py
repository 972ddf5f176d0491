"""Queries about closed runs, from the archive: any coordinator answers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from headrace.coordinator.archive.store import Archive, RunSummary
from headrace.coordinator.core import Refusal, Run, ShardState, explain
from headrace.coordinator.core.past import asks_past, past_view, refold
from headrace.coordinator.core.views import history_entries, run_view
from headrace.coordinator.runtime.archiver import unpack
from headrace.coordinator.runtime.evidence import Notary
from headrace.errors import HeadraceError
from headrace.events import Chunk, PlanPatched, decode_chunk
from headrace.messages import (
    ClientRequest,
    GetEvidence,
    GetExplanation,
    GetHistory,
    GetPlan,
    GetRun,
    ListRuns,
    subjects,
)

log = logging.getLogger(__name__)


async def answer(
    archive: Archive,
    builtin: frozenset[str],
    namespace: str,
    request: ClientRequest,
    notary: Notary | None = None,
) -> Any:
    """Return the result of a query, or a `Refusal`."""
    try:
        if isinstance(request, ListRuns):
            return await archive.list(namespace, request)
        if not isinstance(request, GetRun | GetHistory | GetExplanation | GetPlan | GetEvidence):
            name = type(request).__name__
            return Refusal("invalid-request", f"{name} is not a question to the archive")
        summary = await archive.get(namespace, request.run)
        if summary is None:
            return Refusal("not-found", f"no run {request.run} in namespace {namespace}")
        if isinstance(request, GetPlan):
            plan = await archive.plan(summary.plan)
            return plan if plan is not None else Refusal("not-found", f"no plan {summary.plan}")
        run, chunks = await _restore(archive, builtin, summary)
        if isinstance(request, GetEvidence):
            return await asyncio.to_thread(
                (notary or Notary()).bundle,
                run.key,
                list(run.programs()),
                chunks,
                shard=summary.shard,
                seal=summary.seal,
                archived=True,
            )
        if isinstance(request, GetHistory):
            return history_entries(run, chunks, after=request.after, limit=request.limit)
        if isinstance(request, GetExplanation):
            return explain(ShardState(summary.shard, builtin), run)
        if asks_past(request):
            view = past_view(run.key, run.programs(), chunks, request, shard=summary.shard)
        else:
            view = run_view(run, steps=request.steps, shard=summary.shard)
        view.archived = True
        return view
    except HeadraceError as error:
        return Refusal.of(error)
    except (LookupError, TypeError, ValueError) as error:
        # Of one run's record; the other questions of the batch have answers.
        about = {"run": f"{namespace}/{getattr(request, 'run', '')}"}
        about["request"] = repr(request)[:200]
        log.error("closed run not read", extra=about, exc_info=error)
        return Refusal("unavailable", f"the archive's record cannot be read: {error!r}")


async def _restore(
    archive: Archive, builtin: frozenset[str], summary: RunSummary
) -> tuple[Run, Sequence[bytes]]:
    """Fold a closed run's history into the run that it was."""
    segments = await archive.history(summary.namespace, summary.run)
    chunks = [chunk for segment in segments for chunk in unpack(segment.data)]
    history = [(decode_chunk(data), data) for data in chunks]
    state = ShardState(summary.shard, builtin)
    for digest in {summary.plan, *_plans_of(chunk for chunk, _ in history)}:
        plan = await archive.plan(digest)
        if plan is None:
            raise HeadraceError(f"the archive has no plan {digest} of run {summary.run}")
        state.plans[digest] = plan
    key = subjects.run_key(summary.namespace, summary.run)
    return refold(state, key, history), chunks


def _plans_of(history: Iterable[Chunk]) -> Iterator[str]:
    """Yield the digests of the plans that a patched run went by."""
    for chunk in history:
        for event in chunk.events:
            if isinstance(event, PlanPatched):
                yield from (event.previous, event.plan)
