"""A coroutine's first step in the name of a task that it has not come to yet."""

from __future__ import annotations

import asyncio
import contextvars
import types

# The part of asyncio that is for other implementations of tasks ("Extending" in its manual).
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine, Generator
from typing import Any


def first_step(
    work: Coroutine[Any, Any, Any], task: asyncio.Task[Any], context: contextvars.Context
) -> Any:
    """Take the first step of *work* from another task or none, as if *task* took it, in *context*.

    Return what it waits for. Raises `StopIteration` when that was all, and what the step raises.
    """
    loop = task.get_loop()
    caller = asyncio.current_task(loop)
    if caller is not None:
        _leave_task(loop, caller)
    _enter_task(loop, task)
    try:
        return context.run(work.send, None)
    finally:
        _leave_task(loop, task)
        if caller is not None:
            _enter_task(loop, caller)


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
