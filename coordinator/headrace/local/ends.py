"""Who waits for the end of which run, inside this process."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from typing import Final

from headrace.coordinator.core import Refusal, Run
from headrace.coordinator.runtime.inbox import PendingBatch
from headrace.errors import HeadraceError, from_wire
from headrace.messages import ClientReply, ClientRequest

ALONE_MAX: Final = 7
"""Runs that begin one after the other without looking for company, before one looks again."""


class Ends:
    """Futures by run key; each gets the ended run, which nothing changes any more."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[Run]]] = {}

    def __len__(self) -> int:
        """Return how many runs are waited for."""
        return len(self._waiting)

    def expect(self, key: str) -> asyncio.Future[Run]:
        """Return a new future for the run's end; to be given to `forget` unless it was met."""
        future: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = [future]
        else:
            waiting.append(future)
        return future

    def forget(self, key: str, future: asyncio.Future[Run]) -> None:
        """Nobody waits for *future* any more; known already is fine."""
        waiting = self._waiting.get(key)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[key]
        if future.done() and not future.cancelled():
            # Whoever gave up waiting has no use for an error that came meanwhile.
            future.exception()

    def tell(self, run: Run) -> None:
        """*run* has ended, and that is in the log."""
        for future in self._waiting.pop(run.key, ()):
            if not future.done():
                future.set_result(run)

    def fail(self, error: HeadraceError) -> None:
        """The engine has ended: no run will."""
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
        self._waiting.clear()


class Start(PendingBatch):
    """A submit whose acknowledgement nobody waits for: only a refusal is told."""

    __slots__ = ("_ended",)
    wants_views = False

    def __init__(
        self, namespace: str, requests: list[ClientRequest], ended: asyncio.Future[Run]
    ) -> None:
        # Not the base's: it prepares for replies.
        self.namespace, self.size = namespace, 0
        self.requests = list(requests)
        self.new_runs = 0
        self._ended = ended

    @property
    def is_answered(self) -> bool:
        """See `PendingBatch.is_answered`: it was refused, or the run has ended."""
        return self._ended.done()

    def answer(self, index: int, reply: ClientReply) -> None:
        """See `PendingBatch.answer`."""
        if reply.code and not self._ended.done():
            self._ended.set_exception(from_wire(reply.code, reply.message))

    def refuse(self, refusal: Refusal) -> None:
        """See `PendingBatch.refuse`."""
        if not self._ended.done():
            self._ended.set_exception(from_wire(refusal.code, refusal.message))


class Company:
    """Whether runs begin together: then they wait a turn of the loop for each other, so that one
    tick has them all. Who was alone lately goes on without one, a few times."""

    def __init__(self) -> None:
        self._waiting = self._alone = 0
        """Runs that wait for others now; how many may go on alone."""

    def goes_alone(self, live: int) -> bool:
        """Tell whether a run that begins goes on without waiting; *live* runs are awaited."""
        if self._alone and live == 1:
            self._alone -= 1
            return True
        return False

    @types.coroutine
    def gathered(self) -> Generator[None, None, None]:
        """Return when whoever else begins a run now has posted it, too."""
        self._waiting += 1
        # `asyncio.sleep(0)`, without its questions.
        yield
        if self._waiting:
            # The first to go on: all who waited are here.
            self._alone = ALONE_MAX if self._waiting == 1 else 0
            self._waiting = 0
