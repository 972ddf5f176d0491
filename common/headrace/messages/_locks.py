"""Clients and the owners of locks: named things that one holder has at a time, for a time.

A lock lives in the shard that `subjects.lock_key` of its name hashes to. Who acquires one is known
by the request's id: the same request, sent again, has the same answer.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class _Mutation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    request_id: str
    not_after_ms: int
    actor: str = ""


class AcquireLock(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="acquire-lock"):
    """Have the lock, or wait in line for it. Result: `LockView`; not `granted`: ask again, with
    the same id. A refusal (`conflict`) says who has it, or that it was lost."""

    ttl_ms: int
    """It is lost after this time, unless it is renewed."""
    until_ms: int = 0
    """So long it is waited for; 0: not at all."""
    owner: str = ""
    """Who holds it, for people, and for `RenewLock` and `ReleaseLock`."""


class RenewLock(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="renew-lock"):
    """Hold a lock for `ttl_ms` from now on. Result: `LockView`."""

    ttl_ms: int
    token: int = 0
    """Of the holder; 0: `owner` says who it is."""
    owner: str = ""


class ReleaseLock(_Mutation, frozen=True, kw_only=True, omit_defaults=True, tag="release-lock"):
    """Give a lock back, or stop waiting for it. Result: nothing."""

    token: int = 0
    owner: str = ""
    acquired_by: str = ""
    """Id of the request that acquired it, or waits for it."""
    force: bool = False
    """Whoever has it: a step, too."""


class GetLock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="get-lock"):
    """Result: `LockView`; of one that nobody has, too."""

    name: str


class ListLocks(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="locks"):
    """Result: list of `LockView` of the shard: those that somebody has, by name."""


class GetKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="get-key"):
    """What a step waits for, as the home shard of the key knows it. Result: `KeyView`."""

    key: str
    holder: str = ""
    """Who waits."""


LockRequest: TypeAlias = AcquireLock | RenewLock | ReleaseLock | GetLock | ListLocks | GetKey


class LockView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A lock as people see it; times in ms since the epoch, 0: none."""

    name: str
    namespace: str = "default"
    holder: str = ""
    """``@<request id>`` of a client, ``<namespace>/<run>#<node>.<n>`` of a step; empty: free."""
    owner: str = ""
    token: int = 0
    """Fencing token: higher than that of any holder before."""
    until_ms: int = 0
    """When it expires; 0: when its step or job ends."""
    waiting: list[str] = []
    """Owners of those who wait, in their order."""
    granted: bool = False
    """The holder is who asked."""


class KeyView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known about a key that somebody waits for."""

    text: str = ""
    """Behind `waits for lock db`: who has it, how many are before."""
    due_ms: int = 0
    """When the turn comes, if that is known."""
