"""Talking to the workflow function of a live run: updates, queries, and how a blocked one goes on.

Part of `Client`.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

import msgspec

from headrace.client._lookup import Lookup
from headrace.client._submit import MUTATION_S
from headrace.errors import Conflict, Unavailable
from headrace.messages import QueryAnswer, QueryRun, UnblockRun, UpdateRun, UpdateView, decode

WAIT_S: Final = 10.0
"""So long one request waits at the server; then it is sent again."""
UPDATE_S: Final = 60.0
QUERY_S: Final = 10.0


class FunctionCalls:
    """What `Client` can ask of workflow functions."""

    _lookup: Lookup

    def _stamp(self) -> dict[str, Any]:
        raise NotImplementedError

    async def update(
        self, run: str, name: str, argument: Any = None, *, timeout_s: float = UPDATE_S
    ) -> Any:
        """Have the handler *name* of a workflow function run, once; return what it returns.

        *argument*: plain data. Once it is in the log the update is never lost. Raises `Conflict`
        when the function refuses it, or the run ends without an answer; `Unavailable` when there
        is none within *timeout_s* (it may still be carried out); `NotFound`, `InvalidRequest`,
        `LimitExceeded`.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        stamp = self._stamp()
        while True:
            left_s = max(until_s - loop.time(), 0.0)
            wait_ms = int(min(left_s, WAIT_S) * 1_000)
            request = UpdateRun(run=run, name=name, argument=argument, wait_ms=wait_ms, **stamp)
            raw = await self._lookup.change(
                run, request, within_s=MUTATION_S + left_s, wait_s=wait_ms / 1_000
            )
            view = decode(UpdateView, raw)
            if view.state == "FAILED":
                raise Conflict(f"update {name} was refused: {view.error}")
            if view.state == "COMPLETED":
                return msgspec.msgpack.decode(view.value)
            if loop.time() >= until_s:
                raise Unavailable(
                    f"run {run} has not answered update {name} within {timeout_s:g} s; it has it, "
                    "and may still answer"
                )

    async def query(
        self, run: str, name: str, argument: Any = None, *, timeout_s: float = QUERY_S
    ) -> Any:
        """Return what the query handler *name* of a workflow function returns.

        Raises `Conflict` when the handler fails, or the run cannot be asked (blocked, paused,
        ended); `Unavailable` when no worker answers within *timeout_s*; `Busy`, `NotFound`,
        `InvalidRequest`.
        """
        wait_ms = max(int(timeout_s * 1_000), 1)
        request = QueryRun(
            run=run, id=secrets.token_hex(8), name=name, argument=argument, wait_ms=wait_ms
        )
        raw = await self._lookup.change(
            run, request, within_s=timeout_s + MUTATION_S, wait_s=timeout_s
        )
        answer = decode(QueryAnswer, raw)
        if answer.error is not None:
            raise Conflict(f"query {name} failed: {answer.error.type}: {answer.error.message}")
        return msgspec.msgpack.decode(answer.value)

    async def unblock(self, run: str, action: str, *, key: str = "") -> None:
        """Say how a run goes on whose journal and code contradict each other.

        *action*: `skip` (take what is recorded of *key*; empty: of the entry in the way), `patch`
        (the code that is deployed now fits) or `fail`. Raises `Conflict` for a run that is not
        blocked by its code; `NotFound`, `InvalidRequest`.
        """
        request = UnblockRun(run=run, action=action, key=key, **self._stamp())
        await self._lookup.change(run, request, within_s=MUTATION_S)
