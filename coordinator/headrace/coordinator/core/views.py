"""What people see of a run, and pages of runs. Pure reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from headrace.coordinator.core import status
from headrace.coordinator.core.commands import Refusal
from headrace.coordinator.core.facts import Holder
from headrace.coordinator.core.journal_views import is_blocked
from headrace.coordinator.core.listing import Listing, Place
from headrace.coordinator.core.outline import Outline
from headrace.coordinator.core.pieces import Packed, Pieces, finished
from headrace.coordinator.core.state import EMPTY_MAP, Run, ShardState
from headrace.coordinator.core.step_views import viewing_steps
from headrace.errors import InvalidRequest
from headrace.messages import ListRuns, RunPage, RunView, subjects

_decode = msgspec.msgpack.Decoder().decode

LIST_MAX = 1_000
"""Runs of a page."""
SCANNED_MAX = 2_000
"""Entries that the making of a page looks at: some 2 ms of the owner's loop."""
RECORD_COST = 20
"""As many entries the record of a parked run costs, to be shown: some 40 µs."""
ENDED = frozenset(("COMPLETED", "FAILED", "CANCELLED"))


class Later(msgspec.Struct, frozen=True, gc=False):
    """A view of a run, to be rendered once the tick is in the log."""

    run: Run
    steps: bool = False


class HistoryParts(NamedTuple):
    """A run's history, to be read once the tick is in the log (older parts: the archive)."""

    run: Run


class Waits(NamedTuple):
    """An explanation, to be made once the tick is in the log."""

    run: Run


def conditions(run: Run) -> list[str]:
    """Return the conditions of a live run: PAUSED, WAITING, BLOCKED."""
    found: list[str] = []
    if status.is_final(run.state):
        return found
    if run.quarantined or is_blocked(run):
        found.append("BLOCKED")
    if run.paused:
        found.append("PAUSED")
    if _waits(run) and not is_blocked(run):
        found.append("WAITING")
    return found


def counted_as(run: Run) -> str:
    """Return how a live run is counted: as pending, by its first condition, or as running."""
    if run.state == status.PENDING:
        return "pending"
    if run.quarantined or is_blocked(run):
        return "blocked"
    if run.paused:
        return "paused"
    return "waiting" if _waits(run) else "running"


def _waits(run: Run) -> bool:
    return run.state == status.PENDING or (
        not run.active and (bool(run.held) or status.WAITING in run.status)
    )


def run_view(
    run: Run,
    *,
    steps: bool,
    shard: int = 0,
    holders: Mapping[tuple[str, int], Holder] | None = None,
    segments: Iterable[bytes] = (),
) -> RunView:
    """Return the view of *run*. *holders*: (run key, step) -> who says that it runs it.

    *segments* are the run's older history, for times that the state does not keep.
    """
    view = _without_steps(run, shard)
    if steps:
        finished(viewing_steps(run, holders or {}, segments, view.steps))
    return view


def viewing(
    run: Run, *, shard: int = 0, holders: Mapping[tuple[str, int], Holder] | None = None
) -> Pieces[RunView]:
    """`run_view` with steps, piece by piece, to be encoded: its steps are already (`Packed`).

    *run* must not change meanwhile.
    """
    packed = Packed()
    yield from viewing_steps(run, holders or {}, (), packed)
    view = _without_steps(run, shard)
    steps: Any = packed.raw()
    view.steps = steps
    return view


def _without_steps(run: Run, shard: int) -> RunView:
    namespace, name = subjects.split_key(run.key)
    view = RunView(
        id=name,
        namespace=namespace,
        workflow=run.workflow,
        state=status.NAMES[run.state],
        conditions=conditions(run),
        reason=run.ended_reason or run.cancel_reason or run.pause_reason,
        created_ms=run.created_ms,
        started_ms=run.started_ms,
        finished_ms=run.finished_ms,
        labels=run.labels,
        priority=run.priority,
        input=None if run.input == EMPTY_MAP else _decode(run.input),
        output=None if run.output == EMPTY_MAP else _decode(run.output),
        plan=run.program.digest,
        rerun_of=run.rerun_of,
        shard=shard,
        events=run.events,
        name=run.title,
        fairness_key=run.fair_key,
        fairness_weight=run.fair_weight,
    )
    if run.family is not None and run.family.parent:
        view.parent = run.family.parent.partition("#")[0].partition("/")[2]
    if run.patches is not None:
        view.patched = [move.event for move in run.patches.moves]
    return view


# --- lists -------------------------------------------------------------------------------------


class Filter:
    """What a run must be to be listed; made once an answer, asked for each run."""

    def __init__(self, query: ListRuns) -> None:
        self.states = frozenset(map(str.upper, query.states))
        self._numbers = frozenset(n for n, name in enumerate(status.NAMES) if name in self.states)
        self._blocked, self._paused = "BLOCKED" in self.states, "PAUSED" in self.states
        self._waiting = "WAITING" in self.states
        self._workflow = query.workflow
        self._labels = list(query.labels.items())

    def passes_parked(self, state: ShardState, run: Outline) -> bool:
        """Tell whether a run that is parked is wanted; none of those is paused or blocked."""
        if self._workflow and self._workflow != state.program(*run.program).plan.name:
            return False
        for key, value in self._labels:
            if run.labels.get(key) != value:
                return False
        waits = self._waiting and run.condition != "running"
        return not self.states or run.state in self._numbers or waits

    def passes(self, run: Run) -> bool:
        """Tell whether an open run is wanted."""
        if self._workflow and run.workflow != self._workflow:
            return False
        for key, value in self._labels:
            if run.labels.get(key) != value:
                return False
        return not self.states or run.state in self._numbers or self._has_condition(run)

    def _has_condition(self, run: Run) -> bool:
        """As `conditions`, but only what was asked for."""
        if status.is_final(run.state):
            return False
        return (
            (self._paused and run.paused)
            or (self._blocked and (bool(run.quarantined) or is_blocked(run)))
            or (self._waiting and _waits(run))
        )


def list_runs(
    state: ShardState, listing: Listing, namespace: str, query: ListRuns
) -> RunPage | Refusal:
    """Return open runs, newest first by (created, id); the cursor is the last place looked at.

    So a page may be short, or empty, and still have a cursor: no answer looks at more than
    `SCANNED_MAX` runs, however few of them pass the filters.
    """
    try:
        cursor = parse_cursor(query.cursor)
    except InvalidRequest as error:
        return Refusal.of(error)
    before = (cursor[0], f"{namespace}/{cursor[1]}") if cursor is not None else None
    limit = max(1, min(query.limit, LIST_MAX))
    wanted = Filter(query)
    places: Iterable[Place]
    if wanted.states and wanted.states <= ENDED and listing.ended_count <= SCANNED_MAX:
        # The few that wait for the archive need not be looked for among all.
        places = listing.all_ended(namespace, before)
    else:
        places = listing.walk(namespace, before)
    page: list[Run] = []
    last = 0, ""
    scanned = 0
    for place in places:
        if place[0] < query.since_ms:
            break
        if scanned >= SCANNED_MAX:
            return _page(page, last, state.shard)
        scanned += 1
        found = listing.run_at(place)
        if isinstance(found, Outline):
            scanned += 1
            run = state.runs.peek(found.key) if wanted.passes_parked(state, found) else None
            scanned += 0 if run is None else RECORD_COST
        else:
            run = found if found is not None and wanted.passes(found) else None
        if run is not None:
            if len(page) == limit:
                return _page(page, (page[-1].created_ms, page[-1].key), state.shard)
            page.append(run)
        last = place
    return _page(page, None, state.shard)


def _page(runs: Iterable[Run], last: Place | None, shard: int) -> RunPage:
    views = [run_view(run, steps=False, shard=shard) for run in runs]
    cursor = "" if last is None else f"{last[0]}:{last[1].partition('/')[2]}"
    return RunPage(runs=views, cursor=cursor)


def parse_cursor(cursor: str) -> tuple[int, str] | None:
    """Return (created, run id) of a cursor; raises `InvalidRequest`."""
    if not cursor:
        return None
    created, separator, run = cursor.partition(":")
    if not separator or not created.isdigit():
        raise InvalidRequest(f"not a cursor: {cursor!r}")
    return int(created), run
