"""Driving a coroutine whose first step was taken by hand, and the timers beside it."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any


class Work:
    """The runner of a suspended attempt, and its timers."""

    __slots__ = ("runner", "timeout", "watch")

    def __init__(self, runner: asyncio.Task[Any]) -> None:
        self.runner = runner
        self.timeout: asyncio.TimerHandle | None = None
        self.watch: asyncio.TimerHandle | None = None

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
