"""Locks: names that one holder has at a time, until it gives them back or their time is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from headrace.client._calls import Calls, result_of
from headrace.client._submit import MUTATION_S
from headrace.errors import Conflict, Unreachable
from headrace.messages import (
    AcquireLock,
    ClientRequest,
    Explanation,
    GetKey,
    GetLock,
    KeyView,
    ListLocks,
    LockView,
    ReleaseLock,
    RenewLock,
    subjects,
)

T = TypeVar("T")

TTL_MS = 30_000
POLL_S_MIN, POLL_S_MAX = 0.05, 1.0
"""Who waits asks again after so long; the pause doubles."""
KEYS_ASKED_MAX = 20
"""Keys of other shards that an explanation is completed with."""


class Locks:
    """Those of one namespace. Every method may raise `Unreachable` or `Busy`, as the client's."""

    def __init__(self, calls: Calls, stamp: Callable[[], dict[str, Any]]) -> None:
        """*stamp* returns what a mutation carries: request id, not-after time, actor."""
        self._calls, self._stamp = calls, stamp

    async def acquire(
        self, name: str, *, ttl_ms: int = TTL_MS, owner: str = "", wait_ms: int = 0
    ) -> LockView:
        """Have lock *name* for *ttl_ms*; return it, with its fencing token.

        It is waited for at most *wait_ms*. Raises `Conflict` when it was not free in time;
        `InvalidRequest`. Cancelled while it waits, it leaves the line.
        """
        stamp = self._stamp()
        until = time.monotonic() + wait_ms / 1000
        until_ms = int(time.time() * 1000) + wait_ms if wait_ms else 0
        pause_s = POLL_S_MIN
        try:
            while True:
                request = AcquireLock(
                    name=name, ttl_ms=ttl_ms, owner=owner, until_ms=until_ms, **stamp
                )
                found = await self._ask(name, request, LockView, within_s=MUTATION_S)
                if found.granted:
                    return found
                left_s = until - time.monotonic()
                if left_s < -MUTATION_S:
                    # Its clock is far behind ours.
                    raise Conflict(f"lock {name} was not free within {wait_ms} ms")
                await asyncio.sleep(min(pause_s, max(left_s, POLL_S_MIN)))
                pause_s = min(pause_s * 2, POLL_S_MAX)
                # The same request, sent later.
                stamp["not_after_ms"] = int((time.time() + MUTATION_S) * 1000)
        except asyncio.CancelledError:
            with contextlib.suppress(Unreachable):
                await asyncio.shield(self._leave(name, stamp["request_id"]))
            raise

    async def _leave(self, name: str, request_id: str) -> None:
        request = ReleaseLock(name=name, acquired_by=request_id, **self._stamp())
        await self._ask(name, request, type(None), within_s=1.0)

    async def renew(
        self, name: str, *, ttl_ms: int = TTL_MS, token: int = 0, owner: str = ""
    ) -> LockView:
        """Hold a lock for *ttl_ms* from now on. Raises `Conflict` when it is not held (so)."""
        request = RenewLock(name=name, ttl_ms=ttl_ms, token=token, owner=owner, **self._stamp())
        return await self._ask(name, request, LockView, within_s=MUTATION_S)

    async def release(
        self, name: str, *, token: int = 0, owner: str = "", force: bool = False
    ) -> None:
        """Give a lock back (*force*: whoever has it). Raises `Conflict` when it is not held so."""
        request = ReleaseLock(name=name, token=token, owner=owner, force=force, **self._stamp())
        await self._ask(name, request, type(None), within_s=MUTATION_S)

    async def get(self, name: str) -> LockView:
        """Return who has a lock; one that nobody has is free."""
        return await self._ask(name, GetLock(name=name), LockView)

    async def list(self) -> Sequence[LockView]:
        """Return all locks that somebody has, by name."""
        found: list[LockView] = []
        for shard in self._calls.routes.all_shards():
            subject = subjects.command(self._calls.namespace, shard)
            raw = await self._calls.ask(lambda subject=subject: subject, ListLocks())  # type: ignore[misc]
            found += result_of(list[LockView], raw)
        return sorted(found, key=lambda view: view.name)

    async def complete(self, explanation: Explanation) -> Explanation:
        """Say what only the home shards know of what a run waits for: who has it, until when."""
        for reason in [r for r in explanation.reasons if r.holder][:KEYS_ASKED_MAX]:
            found = await self._home(reason.key, GetKey(key=reason.key, holder=reason.holder))
            before, reason.reason = reason.reason, reason.reason + found.text
            reason.deadline_ms = found.due_ms or reason.deadline_ms
            if reason is explanation.reasons[0]:
                explanation.summary = explanation.summary.replace(before, reason.reason)
        return explanation

    async def _home(self, key: str, request: ClientRequest) -> KeyView:
        def subject() -> str:
            return subjects.command(self._calls.namespace, self._calls.shard(key, "journal"))

        return result_of(KeyView, await self._calls.ask(subject, request))

    async def _ask(
        self, name: str, request: ClientRequest, kind: type[T], *, within_s: float | None = None
    ) -> T:
        key = subjects.lock_key(self._calls.namespace, name)

        def subject() -> str:
            return subjects.command(self._calls.namespace, self._calls.shard(key, "journal"))

        return result_of(kind, await self._calls.ask(subject, request, within_s=within_s))
