"""A client's transport without a network: subjects become calls into the engine of this process."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from headrace.client import Transport
from headrace.coordinator.archive import Archive
from headrace.coordinator.core import Refusal
from headrace.coordinator.runtime.closed import Pages, answer
from headrace.coordinator.runtime.explicit import check_explicit
from headrace.coordinator.runtime.inbox import PendingBatch, reply_of
from headrace.coordinator.runtime.owner import Owner
from headrace.coordinator.shardlog import Level
from headrace.errors import HeadraceError, Unreachable
from headrace.local.lines import KeptLines
from headrace.messages import ClientBatch, GetInfo, ServerInfo, ShardInfo, decode, subjects

ADDRESS: Final = "the engine of this process"
SHARD: Final = 0
_LINES: Final = subjects.step_logs(SHARD, "")


class LocalTransport(Transport):
    """What `Client` needs; closing it leaves the engine alone."""

    def __init__(
        self,
        owner: Callable[[], Owner],
        archive: Archive,
        builtin: frozenset[str],
        level: Level,
        listeners: set[Callable[[bytes], None]],
        lines: KeptLines,
        asked: Callable[[], None],
    ) -> None:
        """*owner* returns the running owner or raises why there is none; *listeners* are called
        after each tick that changed something; *lines* are those that steps have written;
        *asked* is called before anything is asked."""
        self._owner, self._archive, self._builtin = owner, archive, builtin
        self._pages = Pages()
        self._level: Level = level
        self._listeners, self._lines = listeners, lines
        self._asked = asked

    @property
    def address(self) -> str:
        """See `Transport.address`."""
        return ADDRESS

    async def request(self, subject: str, data: bytes, *, timeout_s: float) -> bytes:
        """See `Transport.request`. Raises the engine's own error if it has failed."""
        self._owner()
        self._asked()
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def respond(answer: bytes) -> None:
            if not reply.done():
                reply.set_result(answer)

        batch = decode(ClientBatch, data)
        pending = PendingBatch(batch.namespace, batch.requests, respond, len(data))
        try:
            async with asyncio.timeout(timeout_s):
                await self._route(subject, pending)
                return await reply
        except TimeoutError as error:
            raise Unreachable("no answer in time") from error

    async def _route(self, subject: str, pending: PendingBatch) -> None:
        if subject in (subjects.INFO, subjects.everybody(subjects.INFO)):
            await self._each(pending, self._info)
        elif subjects.everybody(subject):
            await self._each(pending, self._closed)
        else:
            owner = self._owner()
            await check_explicit(self._archive, owner, pending)
            owner.post_requests(pending)

    async def _each(
        self, pending: PendingBatch, ask: Callable[[str, object], Awaitable[object]]
    ) -> None:
        for index, request in enumerate(pending.requests):
            pending.answer(index, reply_of(await ask(pending.namespace, request)))

    async def _info(self, namespace: str, request: object) -> object:
        if not isinstance(request, GetInfo):
            return Refusal("invalid-request", "only GetInfo is answered here")
        owner = self._owner()
        runs = len(owner.machine.state.runs) if owner.machine is not None else 0
        return ServerInfo(
            version=1,
            release=_release(),
            # The one shard takes runs of any level that a client asks for.
            slots=[SHARD, subjects.SLOTS],
            shards=[ShardInfo(shard=SHARD, level=self._level, runs=runs)],
        )

    async def _closed(self, namespace: str, request: object) -> object:
        return await answer(self._archive, self._builtin, namespace, request, pages=self._pages)  # type: ignore[arg-type]

    async def publish(self, subject: str, data: bytes) -> None:
        """See `Transport.publish`: there are no workers elsewhere to give orders to."""
        raise HeadraceError(f"{ADDRESS} takes no orders for workers")

    async def subscribe(
        self, subject: str, callback: Callable[[bytes], None]
    ) -> Callable[[], Awaitable[None]]:
        """See `Transport.subscribe`: of lines of a run, or else of each tick."""
        listeners = self._listeners
        if subject.startswith(_LINES):
            listeners = self._lines.listeners.setdefault(subject, set())
        listeners.add(callback)

        async def unsubscribe() -> None:
            listeners.discard(callback)
            if not listeners:
                self._lines.listeners.pop(subject, None)

        return unsubscribe

    async def stored(
        self, stream: str, subject: str, *, after: int = 0
    ) -> AsyncIterator[tuple[int, bytes]]:
        """See `Transport.stored`: the newest lines of steps, and nothing else."""
        for message in self._lines.stored(subject, after):
            yield message

    async def close(self) -> None:
        """See `Transport.close`."""


def _release() -> str:
    try:
        return importlib.metadata.version("headrace")
    except importlib.metadata.PackageNotFoundError:
        return "0"
