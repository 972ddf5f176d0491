"""Results of steps that the cluster keeps for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.client._calls import Calls, result_of
from headrace.client._submit import MUTATION_S
from headrace.messages import CachedView, ClearCached, ListCached, subjects


class CachedResults:
    """Those of one namespace. Every method may raise `Unreachable` or `Busy`, as the client's."""

    def __init__(self, calls: Calls, stamp: Callable[[], dict[str, Any]]) -> None:
        """*stamp* returns what a mutation carries: request id, not-after time, actor."""
        self._calls, self._stamp = calls, stamp

    async def list(self, key: str = "") -> Sequence[CachedView]:
        """Return what is kept (under a key), the newest first."""
        found: list[CachedView] = []
        for shard in self._calls.routes.all_shards():
            subject = subjects.command(self._calls.namespace, shard)
            raw = await self._calls.ask(lambda subject=subject: subject, ListCached(key=key))  # type: ignore[misc]
            found += result_of(list[CachedView], raw)
        return sorted(found, key=lambda view: view.time_ms, reverse=True)

    async def clear(self, key: str = "") -> int:
        """Forget what is kept (under a key); return how many results that were."""
        gone = 0
        for shard in self._calls.routes.all_shards():
            subject = subjects.command(self._calls.namespace, shard)
            request = ClearCached(key=key, **self._stamp())
            raw = await self._calls.ask(
                lambda subject=subject: subject,  # type: ignore[misc]
                request,
                within_s=MUTATION_S,
            )
            gone += result_of(int, raw)
        return gone
