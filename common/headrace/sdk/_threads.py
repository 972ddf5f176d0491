"""Daemon threads for plain functions: as many as calls run at a time, kept for a while.

Not `concurrent.futures`: its threads are joined at exit, so a step that never returns would keep
the process alive for ever.
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
_jobs: Final[queue.SimpleQueue[_Job]] = queue.SimpleQueue()
_lock: Final = threading.Lock()
_idle = 0


async def in_thread(call: Callable[[], Any]) -> Any:
    """Run *call* in a thread, with this task's context, and return its result.

    Nobody can stop a thread: when this is cancelled it returns at once, and what the call still
    does changes nothing.
    """
    global _idle
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    with _lock:
        fresh = _idle <= 0
        if not fresh:
            _idle -= 1
    _jobs.put((call, future, contextvars.copy_context()))
    if fresh:
        threading.Thread(target=_work, name="headrace-step", daemon=True).start()
    return await future


def _work() -> None:
    global _idle
    while True:
        try:
            call, future, context = _jobs.get(timeout=IDLE_S)
        except queue.Empty:
            with _lock:
                # A job may have been counted on us in this moment.
                if _idle > 0:
                    _idle -= 1
                    return
            continue
        value, error = _outcome(context, call)
        with _lock:
            _idle += 1
        _settle(future, value, error)
        del call, future, context, value, error


def _outcome(
    context: contextvars.Context, call: Callable[[], Any]
) -> tuple[Any, BaseException | None]:
    try:
        return context.run(call), None
    except StopIteration as error:
        # A future refuses it.
        return None, RuntimeError(f"the step raised StopIteration: {error}")
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

    try:
        future.get_loop().call_soon_threadsafe(done)
    except RuntimeError:
        # The loop is closed, and nobody waits any more.
        return
