"""Tasks that take their first step at once.

Most steps of a workflow function that do no I/O of their own end without ever suspending; for
them a trip through the event loop would be most of the cost. So a step's coroutine is begun where
it is started, as its own task and in its own context from the first line on, so that
`asyncio.timeout`, task groups and context variables find what they would find in any task. One
that suspends goes on as that task.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Coroutine
from typing import Any

from headrace.eager._step import first_step

if sys.version_info >= (3, 12):

    def begin(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Take the first step of *work* now; return its task, None if it has ended in that."""
        loop = asyncio.get_running_loop()
        task = asyncio.Task(work, loop=loop, name=name, eager_start=True)
        return None if task.done() and not task.cancelled() else task

else:

    def begin(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Take the first step of *work* now; return its task, None if it has ended in that."""
        context = contextvars.copy_context()
        begun = _Begun(work)
        task: asyncio.Task[None] = asyncio.Task(begun, name=name, context=context)
        try:
            begun.waiting = first_step(work, task, context)
        except StopIteration:
            # The task finds that out for itself; nobody has to wait for it.
            begun.over = True
            return None
        except BaseException as error:
            begun.error = error
        return task

    class _Begun(Coroutine[Any, Any, None]):
        """A coroutine whose first step was taken outside of its task."""

        __slots__ = ("_met", "_work", "error", "over", "waiting")

        def __init__(self, work: Coroutine[Any, Any, None]) -> None:
            self._work = work
            self._met = False
            """The task has heard what came of the first step."""
            self.waiting: Any = None
            self.over = False
            self.error: BaseException | None = None

        def send(self, value: Any) -> Any:
            if self._met:
                return self._work.send(value)
            self._met = True
            if self.over:
                raise StopIteration
            if self.error is not None:
                raise self.error
            return self.waiting

        def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
            if not self._met:
                self._met = True
                if self.over:
                    raise StopIteration
                if self.error is not None:
                    raise self.error
                if asyncio.isfuture(self.waiting):
                    # As a task does that is cancelled while it waits.
                    self.waiting.cancel()
            return self._work.throw(kind, value, traceback)

        def close(self) -> None:
            self._work.close()

        def __await__(self) -> Any:
            raise TypeError("it belongs to its task")
