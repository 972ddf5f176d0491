"""Queries about closed runs, from the archive: any coordinator answers them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from headrace.coordinator.archive.store import LAST_EVENT, Archive, RunSummary
from headrace.coordinator.core import Refusal, Run, ShardState, explain
from headrace.coordinator.core.histories import telling
from headrace.coordinator.core.past import asks_past, read_chunk, refolding, viewing_past
from headrace.coordinator.core.pieces import Piece, Pieces
from headrace.coordinator.core.views import run_view, viewing
from headrace.coordinator.runtime.archiver import unpacking
from headrace.coordinator.runtime.evidence import Notary
from headrace.coordinator.runtime.slices import Slices
from headrace.errors import HeadraceError
from headrace.events import PlanPatched
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

HELD_RUNS: Final = 2
HELD_S: Final = 30.0


class Pages:
    """Closed runs whose histories are read page by page just now: folded once, not for each page.

    What is held is a run for the paths of its steps, without its history; at most `HELD_RUNS`,
    until the last page or `HELD_S` after the newest one.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], tuple[RunSummary, Run, asyncio.TimerHandle]] = {}

    def take(self, summary: RunSummary) -> Run | None:
        """Return the run of *summary*, if it is held; from now on it is not."""
        found = self._held.pop((summary.namespace, summary.run), None)
        if found is None:
            return None
        known, run, timer = found
        timer.cancel()
        return run if known == summary else None

    def hold(self, summary: RunSummary, run: Run) -> None:
        """Keep *run* for the next page."""
        self.take(summary)
        if len(self._held) >= HELD_RUNS:
            oldest, _, _ = next(iter(self._held.values()))
            self.take(oldest)
        timer = asyncio.get_running_loop().call_later(HELD_S, self.take, summary)
        self._held[summary.namespace, summary.run] = (summary, run, timer)


async def answer(
    archive: Archive,
    builtin: frozenset[str],
    namespace: str,
    request: ClientRequest,
    notary: Notary | None = None,
    slices: Slices | None = None,
    pages: Pages | None = None,
) -> Any:
    """Return the result of a query, or a `Refusal`; what is long is made by *slices*."""
    slices, pages = slices or Slices(), pages or Pages()
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
        if isinstance(request, GetHistory):
            return await _page(archive, builtin, summary, request, slices, pages)
        run, chunks = await _restore(archive, builtin, summary, slices)
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
        if isinstance(request, GetExplanation):
            return explain(ShardState(summary.shard, builtin), run)
        if asks_past(request):
            view = await slices.make(
                viewing_past(run.key, run.programs(), chunks, request, shard=summary.shard)
            )
        elif request.steps:
            view = await slices.make(viewing(run, shard=summary.shard))
        else:
            view = run_view(run, steps=False, shard=summary.shard)
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


async def _page(
    archive: Archive,
    builtin: frozenset[str],
    summary: RunSummary,
    request: GetHistory,
    slices: Slices,
    pages: Pages,
) -> Any:
    """Return events of a closed run's history."""
    after, limit = request.after, request.limit
    if 0 < summary.events <= after:
        return []
    run = pages.take(summary)
    if run is None:
        run, chunks = await _restore(archive, builtin, summary, slices)
        run.history = []
    else:
        segments = await archive.history(
            summary.namespace, summary.run, after=after, upto=min(after + limit, LAST_EVENT)
        )
        chunks = await slices.make(unpacking(segments))
    told = await slices.make(telling(run, chunks, after=after, limit=limit))
    if after + limit < summary.events:
        pages.hold(summary, run)
    return told


async def _restore(
    archive: Archive, builtin: frozenset[str], summary: RunSummary, slices: Slices
) -> tuple[Run, Sequence[bytes]]:
    """Fold a closed run's history into the run that it was."""
    segments = await archive.history(summary.namespace, summary.run)
    chunks = await slices.make(unpacking(segments))
    key = subjects.run_key(summary.namespace, summary.run)
    state = ShardState(summary.shard, builtin)
    for digest in {summary.plan, *await slices.make(_plans_of(key, chunks))}:
        plan = await archive.plan(digest)
        if plan is None:
            raise HeadraceError(f"the archive has no plan {digest} of run {summary.run}")
        state.plans[digest] = plan
    run = await slices.make(refolding(state, key, chunks))
    if run is None:
        raise HeadraceError(f"the archive has no history of run {summary.run}")
    return run, chunks


def _plans_of(key: str, chunks: Iterable[bytes]) -> Pieces[set[str]]:
    """Return the digests of the plans that a patched run went by."""
    found: set[str] = set()
    piece = Piece()
    for data in chunks:
        for event in read_chunk(key, data).events:
            if isinstance(event, PlanPatched):
                found |= {event.previous, event.plan}
        if piece.full(len(data)):
            yield
    return found
