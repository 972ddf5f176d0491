"""Cursors, page sizes, and a closed run as people see it. Pure; for all stores.

Runs are listed newest first by (created_ms, run). A cursor names the last run of a page, so it
stays valid while runs come and go.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from headrace.coordinator.archive.store import RunSummary
from headrace.errors import InvalidRequest
from headrace.messages import ListRuns, RunView

PAGE_RUNS_MAX: Final = 1_000
LABELS_MAX: Final = 64
"""Labels that one query may ask for."""
TIME_MS_MAX: Final = 2**62
CLOSED: Final = ("CANCELLED", "COMPLETED", "FAILED")
"""States of runs that can be in an archive."""


class Place(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Where a run stands in a listing."""

    created_ms: int
    run: str


_decode = msgspec.msgpack.Decoder(Place).decode


def encode_cursor(place: Place) -> str:
    """Return the cursor of a page that ends at *place*."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).decode().rstrip("=")


def decode_cursor(cursor: str) -> Place | None:
    """Return the place behind which the next page begins; None for an empty cursor.

    Raises `InvalidRequest` for text that is no cursor.
    """
    if not cursor:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        place = _decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise InvalidRequest("the cursor is not one of ours") from error
    if not 0 <= place.created_ms <= TIME_MS_MAX:
        raise InvalidRequest("the cursor is not one of ours")
    return place


def check(query: ListRuns) -> None:
    """Raise `InvalidRequest` for filters that no store has to answer."""
    if len(query.labels) > LABELS_MAX:
        raise InvalidRequest(f"{len(query.labels)} labels asked for, {LABELS_MAX} is the limit")
    if not 0 <= query.since_ms <= TIME_MS_MAX:
        raise InvalidRequest(f"since_ms {query.since_ms} is no time")


def page_size(query: ListRuns) -> int:
    """Return how many runs a page holds: what was asked for, from 1 to `PAGE_RUNS_MAX`."""
    return min(max(query.limit, 1), PAGE_RUNS_MAX)


def wanted_states(query: ListRuns) -> tuple[str, ...]:
    """Return the closed states that *query* wants; empty: none of its states is closed."""
    return tuple(s for s in CLOSED if s in query.states) if query.states else CLOSED


def view(summary: RunSummary) -> RunView:
    """Return what people see of a closed run in a list."""
    return RunView(
        id=summary.run,
        namespace=summary.namespace,
        workflow=summary.workflow,
        state=summary.state,
        reason=summary.reason,
        created_ms=summary.created_ms,
        started_ms=summary.started_ms,
        finished_ms=summary.finished_ms,
        labels=summary.labels,
        priority=summary.priority,
        plan=summary.plan,
        rerun_of=summary.rerun_of,
        name=summary.name,
        shard=summary.shard,
        events=summary.events,
        archived=True,
    )
