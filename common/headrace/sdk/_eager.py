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

if sys.version_info >= (3, 12):

    def begin(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Take the first step of *work* now; return its task, None if it has ended in that."""
        loop = asyncio.get_running_loop()
        task = asyncio.Task(work, loop=loop, name=name, eager_start=True)
        return None if task.done() and not task.cancelled() else task

else:
    # The part of asyncio that is for other implementations of tasks ("Extending" in its manual).
    from asyncio.tasks import _enter_task, _leave_task

    def begin(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None] | None:
        """Take the first step of *work* now; return its task, None if it has ended in that."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        begun = _Begun(work)
        task: asyncio.Task[None] = asyncio.Task(begun, loop=loop, name=name, context=context)
        caller = asyncio.current_task(loop)
        if caller is not None:
            _leave_task(loop, caller)
        _enter_task(loop, task)
        try:
            begun.waiting = context.run(work.send, None)
        except StopIteration:
            # The task finds that out for itself; nobody has to wait for it.
            begun.over = True
            return None
        except BaseException as error:
            begun.error = error
        finally:
            _leave_task(loop, task)
            if caller is not None:
                _enter_task(loop, caller)
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
