"""How a group of tasks ends: by which error, and a cancel that comes meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any


def heed_cancel() -> None:
    """Raise a cancel of this task that has come and was not heeded yet.

    Before Python 3.13 an `asyncio.TaskGroup` that is ending because one of its tasks has failed
    forgets a cancel that comes then; what goes on behind it all the same is waited for, for ever,
    by whoever has cancelled it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def first_of(group: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first error of a group, however deep."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
