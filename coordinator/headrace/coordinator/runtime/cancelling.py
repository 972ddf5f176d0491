"""Cancels that come while something is ending for another reason."""

from __future__ import annotations

import asyncio


def heed_cancel() -> None:
    """Raise a cancel of this task that has come and was not heeded yet.

    Before Python 3.13 an `asyncio.TaskGroup` that is ending because one of its tasks has failed
    forgets a cancel that comes then; what goes on behind it all the same is waited for, for ever,
    by whoever has cancelled it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
