"""A task that stands by for coroutines that mostly end with their first step."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

from headrace.eager._step import first_step, resumed


class Standby:
    """A task whose coroutine takes its first step before the event loop comes to the task.

    As with `begin`, and cheaper where the coroutine ends with that step: the task is not used up
    then, but stands by for the next one. All that it stands by for have one context.
    """

    __slots__ = ("_began", "_context", "_there", "_work", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._context = contextvars.copy_context()
        self._work: tuple[Coroutine[Any, Any, Any], Any] | None = None
        self._began: asyncio.Future[None] = loop.create_future()
        self._there = False
        self.task = loop.create_task(self._go(), name=name, context=self._context)

    @property
    def ready(self) -> bool:
        """Whether `begin` may be called: the event loop has come to the task, and nobody has
        cancelled it; a cancel that comes before the first step of a task would be its end."""
        return self._there and not self._began.done()

    def begin(self, work: Coroutine[Any, Any, None]) -> bool:
        """Take the first step of *work*, from another task or none; tell whether there are more:
        then the task goes on with it. Raises what that step does."""
        try:
            waiting = first_step(work, self.task, self._context)
        except StopIteration:
            return False
        self._work = (work, waiting)
        if not self._began.done():
            self._began.set_result(None)
        return True

    async def _go(self) -> None:
        self._there = True
        try:
            await self._began
        except asyncio.CancelledError as error:
            if self._work is None:
                raise
            # It is for the work, which has begun.
            work, _ = self._work
            try:
                waiting = work.throw(error)
            except StopIteration:
                return
        else:
            assert self._work is not None
            work, waiting = self._work
        await resumed(work, waiting)
