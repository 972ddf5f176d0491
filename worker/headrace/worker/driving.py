"""Driving a coroutine whose first step was taken by hand, and the timers beside it."""

from __future__ import annotations

import asyncio
import contextvars
import types
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from headrace.worker.core import Assignment, Stop


class Standby:
    """A task whose coroutine takes its first step before the event loop comes to the task.

    What ``asyncio.eager_task_factory`` does (Python 3.12), and cheaper where the coroutine ends
    with that step: the task is not used up then, but stands by for the next one. Whoever asks who
    runs is told of the task from the first line on, by the hooks that the documentation of
    `asyncio` has for makers of tasks ("Extending").
    """

    __slots__ = ("_began", "_context", "_loop", "_there", "_work", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
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
        loop = self._loop
        caller = asyncio.current_task(loop)
        if caller is not None:
            _leave_task(loop, caller)
        _enter_task(loop, self.task)
        try:
            waiting = self._context.run(work.send, None)
        except StopIteration:
            return False
        finally:
            _leave_task(loop, self.task)
            if caller is not None:
                _enter_task(loop, caller)
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


class Work:
    """The runner of a suspended attempt, and its timers."""

    __slots__ = ("runner", "timeout", "watch")

    def __init__(self, runner: asyncio.Task[Any]) -> None:
        self.runner = runner
        self.timeout: asyncio.TimerHandle | None = None
        self.watch: asyncio.TimerHandle | None = None

    def arm(
        self,
        assignment: Assignment,
        *,
        now_ms: Callable[[], int],
        stop: Callable[[Assignment, Stop], None],
    ) -> None:
        """Have the attempt stopped when it runs too long, or shows no life for too long."""
        options = assignment.task.options
        if options is None:
            return
        if options.timeout_ms:
            left_ms = options.timeout_ms - (now_ms() - assignment.started_ms)
            late = Stop("timeout", f"ran longer than {options.timeout_ms} ms")
            loop = asyncio.get_running_loop()
            self.timeout = loop.call_later(max(left_ms, 0) / 1000, stop, assignment, late)
        if options.heartbeat_timeout_ms:
            assignment.beat_ms = now_ms()
            self._watch(assignment, options.heartbeat_timeout_ms, now_ms, stop)

    def _watch(
        self,
        assignment: Assignment,
        limit_ms: int,
        now_ms: Callable[[], int],
        stop: Callable[[Assignment, Stop], None],
    ) -> None:
        silent_ms = now_ms() - assignment.beat_ms
        if silent_ms >= limit_ms:
            stop(assignment, Stop("timeout", f"no heartbeat for {limit_ms} ms"))
            return
        self.watch = asyncio.get_running_loop().call_later(
            (limit_ms - silent_ms) / 1000, self._watch, assignment, limit_ms, now_ms, stop
        )

    def disarm(self) -> None:
        """Cancel the timers."""
        if self.timeout is not None:
            self.timeout.cancel()
        if self.watch is not None:
            self.watch.cancel()


@types.coroutine
def resumed(work: Coroutine[Any, Any, Any], waiting: Any) -> Generator[Any, Any, Any]:
    """Go on with *work*, whose last step yielded *waiting*, in the current task.

    What ``yield from`` does (PEP 380), but from the second step on.
    """
    while True:
        try:
            sent = yield waiting
        except GeneratorExit:
            work.close()
            raise
        except BaseException as error:
            try:
                waiting = work.throw(error)
            except StopIteration as end:
                return end.value
        else:
            try:
                waiting = work.send(sent)
            except StopIteration as end:
                return end.value
