"""Finding a run: it may live in a shard of any level, or in the archive by now."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from headrace.client._calls import Calls, result_of
from headrace.client._pages import merge_pages
from headrace.errors import Conflict, InvalidRequest, NotFound
from headrace.messages import ClientRequest, GetRun, ListRuns, RunPage, RunView, subjects

T = TypeVar("T")

HOMES_MAX = 10_000
OPEN_STATES = frozenset(("PENDING", "RUNNING", "PAUSED", "WAITING", "BLOCKED"))


class Lookup:
    """Sends a request about a run to wherever the run is."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._homes: OrderedDict[str, int] = OrderedDict()
        """Runs seen outside of their journal shard; bounded, oldest forgotten first."""

    def remember(self, run: str, shard: int) -> None:
        """Note where a run was seen, so that it is asked for there first."""
        if shard == self._calls.routes.shard(self._key(run)):
            return
        self._homes[run] = shard
        self._homes.move_to_end(run)
        if len(self._homes) > HOMES_MAX:
            self._homes.popitem(last=False)

    async def query(
        self, run: str, request: ClientRequest, kind: type[T], *, wait_s: float = 0.0
    ) -> T:
        """Return the answer of a shard or of the archive; raises `NotFound`."""
        raw = await self.in_shards(run, request, wait_s=wait_s)
        if raw is None:
            raw = await self.in_archive(run, request)
        return result_of(kind, raw)

    async def page(self, query: ListRuns, *, cursor: str) -> RunPage:
        """Return a page of what all shards and the archive have; fails if one does not answer."""

        async def fetch(source: str, place: str) -> RunPage:
            request = msgspec.structs.replace(query, cursor=place)
            return result_of(RunPage, await self._calls.ask(lambda: source, request))

        namespace = self._calls.namespace
        shards = [subjects.command(namespace, n) for n in self._calls.routes.all_shards()]
        closed = not query.states or not OPEN_STATES.issuperset(query.states)
        archives = [subjects.archive(namespace)] if closed else []
        return await merge_pages(shards, archives, fetch, limit=query.limit, cursor=cursor)

    async def change(
        self, run: str, request: ClientRequest, *, within_s: float, wait_s: float = 0.0
    ) -> msgspec.Raw:
        """Send a mutation to the run's owner, which may wait for *wait_s* before it answers.

        Raises `Conflict` when the run has ended and left its shard, `NotFound` when it never was.
        """
        raw = await self.in_shards(run, request, within_s=within_s, wait_s=wait_s)
        if raw is not None:
            return raw
        view = result_of(RunView, await self.in_archive(run, GetRun(run=run, steps=False)))
        raise Conflict(f"run {run} has ended ({view.state})")

    async def in_shards(
        self,
        run: str,
        request: ClientRequest,
        *,
        within_s: float | None = None,
        wait_s: float = 0.0,
    ) -> msgspec.Raw | None:
        """Ask each shard that may hold the run; None: none does."""
        if not subjects.valid_name(run):
            raise InvalidRequest(f"not a run id: {run!r} (letters, digits, - and _, at most 128)")
        asked: set[int] = set()
        for place in self._places(run):
            if place() in asked:
                continue
            last = place()

            def subject(place: Callable[[], int] = place) -> str:
                nonlocal last
                last = place()
                return subjects.command(self._calls.namespace, last)

            try:
                raw = await self._calls.ask(subject, request, within_s=within_s, wait_s=wait_s)
            except NotFound:
                asked.add(last)
                continue
            self.remember(run, last)
            return raw
        return None

    async def in_archive(self, run: str, request: ClientRequest) -> msgspec.Raw:
        """Ask the archive; raises `NotFound`."""
        try:
            return await self._calls.ask(lambda: subjects.archive(self._calls.namespace), request)
        except NotFound as error:
            raise NotFound(f"no run {run} in namespace {self._calls.namespace}") from error

    def _places(self, run: str) -> list[Callable[[], int]]:
        """Return the shards that may hold *run*, likeliest first.

        Functions, since the slot table may be learned anew while one of them is asked.
        """
        key = self._key(run)
        home = self._homes.get(run)
        first = [] if home is None else [lambda: home]
        levels = self._calls.routes.levels()
        return [*first, *(partial(self._calls.shard, key, level) for level in levels)]

    def _key(self, run: str) -> str:
        return subjects.run_key(self._calls.namespace, run)
