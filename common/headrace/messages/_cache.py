"""Clients and owners: results of steps that are kept for others."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class ListCached(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="cached"):
    """Result: list of `CachedView` of the shard, the newest first."""

    key: str = ""
    """Only those of this key; empty: all."""


class ClearCached(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="clear-cached"
):
    """Forget results of the shard. Result: how many; sent again, 0."""

    key: str = ""
    """Only those of this key; empty: all."""
    request_id: str
    not_after_ms: int
    actor: str = ""


CacheRequest: TypeAlias = ListCached | ClearCached


class CachedView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A kept result as people see it; times in ms since the epoch, 0: none."""

    key: str
    digest: str
    """Of what the step does: its handler, inputs and `env`, as they are written."""
    run: str
    """Id of the run that it is of."""
    path: str
    time_ms: int
    until_ms: int = 0
    bytes: int = 0
