"""The runner of an attempt that has suspended, and the timers beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from headrace.worker.core import Assignment, Stop


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
