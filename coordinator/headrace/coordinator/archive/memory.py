"""The archive of a process that keeps nothing: for the embedded engine at level memory, and tests.

Bounded: the runs that ended longest ago make room for new ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from heapq import nsmallest

from headrace.coordinator.archive.paging import (
    Place,
    check,
    decode_cursor,
    encode_cursor,
    page_size,
    view,
    wanted_states,
)
from headrace.coordinator.archive.store import LAST_EVENT, ArchivedRun, RunSummary, Segment
from headrace.errors import Unavailable
from headrace.messages import ListRuns, RunPage

RUNS_MAX = 100_000


class MemoryArchive:
    """See `Archive`; listing scans what it holds: *runs_max* runs, and up to a quarter more."""

    def __init__(self, *, runs_max: int = RUNS_MAX) -> None:
        self._runs_max = runs_max
        self._runs: dict[tuple[str, str], RunSummary] = {}
        self._segments: dict[tuple[str, str], dict[int, bytes]] = {}
        self._plans: dict[str, bytes] = {}
        self._order: dict[str, list[Place]] = {}
        """By namespace, oldest first."""
        self._finished: list[tuple[int, str, str]] = []
        """(finished_ms, namespace, run), oldest first."""
        self._closed = False

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        """See `Archive.put`."""
        self._check_open()
        for one in runs:
            summary = one.summary
            key = (summary.namespace, summary.run)
            for segment in one.segments:
                self._segments.setdefault(key, {}).setdefault(segment.first, segment.data)
            if key in self._runs:
                continue
            self._runs[key] = summary
            place = Place(summary.created_ms, summary.run)
            insort(self._order.setdefault(summary.namespace, []), place)
            insort(self._finished, (summary.finished_ms, *key))
        if len(self._runs) > self._runs_max + self._runs_max // 4:
            # Many at once: to drop some means to look at all.
            self._drop(len(self._runs) - self._runs_max)

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        """See `Archive.put_segment`."""
        self._check_open()
        held = self._segments.setdefault((namespace, run), {})
        held.setdefault(segment.first, segment.data)

    async def put_plan(self, digest: str, data: bytes) -> None:
        """See `Archive.put_plan`."""
        self._check_open()
        self._plans.setdefault(digest, data)

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        """See `Archive.get`."""
        self._check_open()
        return self._runs.get((namespace, run))

    async def known(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """See `Archive.known`."""
        self._check_open()
        return self._runs.keys() & set(keys)

    async def keys(self, *, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """See `Archive.keys`."""
        self._check_open()
        behind = (key for key in self._runs.keys() | self._segments.keys() if key > after)
        return nsmallest(limit, behind)

    async def history(
        self, namespace: str, run: str, *, after: int = 0, upto: int = LAST_EVENT
    ) -> list[Segment]:
        """See `Archive.history`."""
        self._check_open()
        held = self._segments.get((namespace, run), {})
        firsts = sorted(held)
        begin = max(bisect_right(firsts, after + 1) - 1, 0)
        return [Segment(first, held[first]) for first in firsts[begin:] if first <= upto]

    async def plan(self, digest: str) -> bytes | None:
        """See `Archive.plan`."""
        self._check_open()
        return self._plans.get(digest)

    async def list(self, namespace: str, query: ListRuns) -> RunPage:
        """See `Archive.list`."""
        self._check_open()
        check(query)
        after, states, size = decode_cursor(query.cursor), wanted_states(query), page_size(query)
        order = self._order.get(namespace, [])
        end = len(order) if after is None else bisect_left(order, after)
        found: list[RunSummary] = []
        for at in range(end - 1, -1, -1):
            place = order[at]
            if place.created_ms < query.since_ms:
                break
            one = self._runs[namespace, place.run]
            if (
                one.state in states
                and query.workflow in ("", one.workflow)
                and query.labels.items() <= one.labels.items()
            ):
                found.append(one)
                if len(found) > size:
                    break
        cursor = ""
        if len(found) > size:
            found.pop()
            cursor = encode_cursor(Place(found[-1].created_ms, found[-1].run))
        return RunPage(runs=[view(one) for one in found], cursor=cursor)

    async def expire(self, *, before_ms: int, limit: int) -> int:
        """See `Archive.expire`."""
        self._check_open()
        count = min(bisect_left(self._finished, (before_ms, "", "")), limit)
        self._drop(count)
        return count

    async def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._runs.clear()
        self._segments.clear()
        self._plans.clear()
        self._order.clear()
        self._finished.clear()

    def _drop(self, count: int) -> None:
        """Forget the *count* runs that finished first."""
        if not count:
            return
        namespaces = set()
        for _, namespace, run in self._finished[:count]:
            del self._runs[namespace, run]
            self._segments.pop((namespace, run), None)
            namespaces.add(namespace)
        del self._finished[:count]
        for namespace in namespaces:
            # At once: one by one, each would move all that are younger.
            left = [p for p in self._order[namespace] if (namespace, p.run) in self._runs]
            if left:
                self._order[namespace] = left
            else:
                del self._order[namespace]

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the archive is closed")
