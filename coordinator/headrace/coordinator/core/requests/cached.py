"""Kept results of steps: looked at, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from headrace.coordinator.core.commands import Reply
from headrace.coordinator.core.kept_results import KeptResult
from headrace.coordinator.core.requests.mutation import Handler, too_late
from headrace.coordinator.core.tick import Tick
from headrace.events import CacheCleared
from headrace.messages import CachedView, ClearCached, ListCached, subjects


def _list(tick: Tick, namespace: str, request: ListCached) -> Reply:
    now_ms = tick.state.now_ms
    views = [
        CachedView(
            key=name,
            digest=digest,
            run=subjects.split_key(found.run)[1],
            path=found.path,
            time_ms=found.time_ms,
            until_ms=found.until_ms,
            bytes=len(found.output),
        )
        for _, digest, name, found in _those(tick, namespace, request.key)
        if not found.is_over(now_ms)
    ]
    return views[::-1]


def _clear(tick: Tick, namespace: str, request: ClearCached) -> Reply:
    if request.request_id in tick.state.requests:
        return 0
    late = too_late(tick, request)
    if late is not None:
        return late
    keys = [key for key, *_ in _those(tick, namespace, request.key)]
    if keys:
        stamp = (request.request_id, request.not_after_ms, request.actor)
        tick.emit_shard(CacheCleared(keys, *stamp))
    return len(keys)


def _those(tick: Tick, namespace: str, wanted: str) -> Iterator[tuple[str, str, str, KeptResult]]:
    """Yield (key, digest, name, result) of a namespace's results, the oldest first."""
    prefix = subjects.cache_key(namespace, "", "").removesuffix("/")
    for key, found in tick.state.kept.by_key.items():
        if key.startswith(prefix):
            digest, _, name = key.removeprefix(prefix).partition("/")
            if wanted in ("", name):
                yield key, digest, name, found


HANDLERS: Final[dict[type, Handler]] = {ListCached: _list, ClearCached: _clear}
