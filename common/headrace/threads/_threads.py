"""Daemon threads for blocking calls: as many as run at a time, kept for a while.

Not `concurrent.futures`: its threads are joined at exit, so one call that never returns would keep
the process alive for ever. These die with the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

IDLE_S: Final = 30.0
"""An idle thread ends after this long."""

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]", contextvars.Context]


class Threads:
    """As many threads as calls run at the same time; the caller bounds that."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def start(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run *call* in a thread, with this task's context; the future is the running loop's.

        Nobody can stop a thread: cancelling the future only means that what the call still does
        changes nothing.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        with self._lock:
            fresh = self._idle <= 0
            if not fresh:
                self._idle -= 1
        self._jobs.put((call, future, contextvars.copy_context()))
        if fresh:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def _work(self) -> None:
        while True:
            try:
                call, future, context = self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    # A job may have been counted on us in this moment.
                    if self._idle > 0:
                        self._idle -= 1
                        return
                continue
            value, error = _outcome(context, call)
            with self._lock:
                # Before the future is: whoever waits for it may start the next call at once.
                self._idle += 1
            _settle(future, value, error)
            del call, future, context, value, error


def _outcome(
    context: contextvars.Context, call: Callable[[], Any]
) -> tuple[Any, BaseException | None]:
    try:
        return context.run(call), None
    except StopIteration as error:
        # A future refuses it, and a generator would take it for its own end.
        return None, RuntimeError(f"the function raised StopIteration: {error}")
    except BaseException as error:
        return None, error


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    def done() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    loop = future.get_loop()
    try:
        loop.call_soon_threadsafe(done)
    except RuntimeError:
        # The loop is closed: the process is on its way out and nobody waits any more.
        return
