"""An asyncio event loop on virtual time, and processes in it that freeze and die at any await.

A process is a context: every callback that was scheduled from inside one bears it. The callbacks
of a frozen process are kept until it thaws, those of a dead one until the world ends, so a
process stops between any two steps of any of its tasks, as one does under SIGSTOP and SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from heapq import heappop, heappush
from typing import Any, TypeVar

T = TypeVar("T")

SPIN_MAX = 20_000
"""Callbacks at one instant of virtual time; more is a loop that waits for nothing."""

_current: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current_process() -> Process | None:
    """Return the process that runs now."""
    return _current.get(None)


class Process:
    """One life of one simulated process."""

    def __init__(self, loop: SimLoop, name: str) -> None:
        self.loop, self.name = loop, name
        loop.processes.append(self)
        self.alive = True
        self.frozen = False
        self.stopped = False
        """Nothing of it runs now."""
        self.steps = 0
        """How often it went on after an await, or sent something: each a point to die at."""
        self.fatal = 0
        """The step that it does not live to see; 0: none."""
        self.dying: Callable[[], None] = self.kill
        """What happens at its fatal step."""
        self.held: list[asyncio.Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(_current.set, self)

    def die_at(self, step: int, dying: Callable[[], None]) -> None:
        """Let it die right before a step, of an await or of something that it sends."""
        self.fatal, self.dying = step, dying

    def acts(self) -> bool:
        """Something is about to leave the process: False when it dies before that."""
        self.steps += 1
        if self.steps == self.fatal and self.alive:
            self.dying()
        return self.alive

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* in this process; what it raises is the world's business."""
        task = self.loop.create_task(work, context=self.context)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.errors.append({"message": f"{self.name} dies", "exception": error})

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call *callback* in this process."""
        self.loop.call_at(self.loop.now_s + delay_s, callback, *args, context=self.context)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = self.stopped = True

    def thaw(self) -> None:
        """SIGCONT: what became due meanwhile runs now."""
        self.frozen = False
        self.stopped = not self.alive
        self.release()

    def kill(self) -> None:
        """SIGKILL: what was to run never runs."""
        self.alive, self.stopped = False, True

    def release(self) -> None:
        """Let run what was held."""
        held, self.held = self.held, []
        self.loop.again(held)


class SimTask(asyncio.Task[Any]):
    """A task whose hash is its number: sets of tasks have the same order in every replay."""

    def __init__(self, *args: Any, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class SimHandle(asyncio.Handle):
    """A handle without what is for debugging: half of a world's callbacks are its making."""

    __slots__ = ()

    def __init__(
        self,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: SimLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = context if context is not None else contextvars.copy_context()
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled = False
        self._repr = self._source_traceback = None


class SimTimer(asyncio.TimerHandle):
    """The same, of a timer."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        loop: SimLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = context if context is not None else contextvars.copy_context()
        self._loop, self._callback, self._args = loop, callback, args
        self._cancelled = self._scheduled = False
        self._repr = self._source_traceback = None
        self._when = when


class Stuck(Exception):
    """Nothing is scheduled any more, or too much at one instant."""


class SimLoop(asyncio.BaseEventLoop):
    """See the module. Time starts at 0 and jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.callbacks = 0
        self.errors: list[dict[str, Any]] = []
        self.tasks: list[SimTask] = []
        self.processes: list[Process] = []
        self._order = itertools.count()
        self._timers: list[tuple[float, int, SimTimer]] = []
        self._spins = 0
        self._numbers = itertools.count(1)
        self._pending: Any = self.__dict__["_ready"]
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self.now_s

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = SimTimer(when, callback, args, self, context)
        heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = SimHandle(callback, args, self, context)
        self._pending.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Threads are not simulated: the function runs at once."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def again(self, handles: list[asyncio.Handle]) -> None:
        """Run what was held back."""
        self._pending.extend(handles)

    def shut_down(self) -> None:
        """Cancel everything that still runs, dead processes' tasks too, and wait for the end."""
        for process in self.processes:
            process.alive, process.frozen, process.stopped, process.fatal = True, False, False, 0
            process.release()
        live = [task for task in self.tasks if not task.done()]
        for task in live:
            task.cancel()
        if live:
            self.run_until_complete(asyncio.wait(live, timeout=600))
        self.close()

    # -- inside --------------------------------------------------------------------------------

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        **options: Any,
    ) -> asyncio.Task[Any]:
        task = SimTask(work, loop=loop, number=next(self._numbers), **options)
        self.tasks.append(task)
        return task

    def _run_once(self) -> None:
        ready, timers = self._pending, self._timers
        if not ready:
            while timers:
                when, _, handle = heappop(timers)
                if handle._cancelled:
                    continue
                if when > self.now_s:
                    self.now_s = when
                    self._spins = 0
                ready.append(handle)
                break
            else:
                raise Stuck("nothing is scheduled any more")
        now_s = self.now_s
        while timers and timers[0][0] <= now_s:
            ready.append(heappop(timers)[2])
        count = len(ready)
        self._spins += count
        self.callbacks += count
        if self._spins > SPIN_MAX:
            raise Stuck(f"{SPIN_MAX} callbacks at {now_s:.3f} s, the last one {ready[0]!r}")
        for _ in range(count):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_current)
            if process is not None:
                if not process.stopped:
                    process.steps += 1
                    if process.steps == process.fatal:
                        process.dying()
                if process.stopped:
                    process.held.append(handle)
                    continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"in {handle!r}", "exception": error})

    def _write_to_self(self) -> None:
        return

    def _process_events(self, event_list: Any) -> None:
        return
