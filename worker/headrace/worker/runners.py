"""The tasks in which attempts run: one takes from the queue, each other is an attempt's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from headrace.eager import Standby
from headrace.worker.core import Assignments

log = logging.getLogger(__name__)

NAME: Final = "worker-runner"


class Runners:
    """One executor's. At most one runner takes from the queue, while there is a free slot."""

    def __init__(
        self,
        assignments: Assignments,
        take: Callable[[], Coroutine[Any, Any, None]],
        *,
        at_once: bool,
    ) -> None:
        """*take*: take attempts until none is left or one suspends. *at_once*: begin it in `wake`
        and not when the event loop comes to it."""
        self._assignments, self._take, self._at_once = assignments, take, at_once
        self.tasks: set[asyncio.Task[None]] = set()
        self.taker: asyncio.Task[None] | None = None
        """The runner that takes from the queue, or is about to."""
        self.idle = asyncio.Event()
        """Nothing is queued or running."""
        self.idle.set()
        self._standby: Standby | None = None
        self._beginning = self._over = False

    def wake(self) -> None:
        """Attempts may wait, or a slot be free."""
        if self.taker is not None or self._over:
            return
        if self._at_once:
            self._take_now()
        if not self._assignments.held:
            if not self.idle.is_set():
                self.idle.set()
        elif self.taker is None and not self._beginning and self._may_take():
            self.idle.clear()
            self._keep(asyncio.get_running_loop().create_task(self._take(), name=NAME))

    def _may_take(self) -> bool:
        assignments = self._assignments
        return bool(assignments.queue) and assignments.running < assignments.slots

    def _take_now(self) -> None:
        """Run what waits before this returns, up to the first that suspends."""
        if self._beginning or not self._may_take():
            # Whoever begins looks again.
            return
        standby = self._standby
        if standby is None or not standby.ready:
            if standby is None or standby.task.done():
                self._standby = Standby(asyncio.get_running_loop(), NAME)
            return
        self._beginning, self.taker = True, standby.task
        try:
            if standby.begin(self._take()):
                self._standby = None
                self.idle.clear()
                self._watch(standby.task)
        except BaseException as error:
            self.taker = None
            if not isinstance(error, Exception):
                raise
            log.exception("runner failed")
        finally:
            self._beginning = False

    def _keep(self, runner: asyncio.Task[None]) -> None:
        self.taker = runner
        self._watch(runner)

    def _watch(self, runner: asyncio.Task[None]) -> None:
        self.tasks.add(runner)
        runner.add_done_callback(self._done)

    def _done(self, runner: asyncio.Task[None]) -> None:
        self.tasks.discard(runner)
        self.leave(runner)
        if not runner.cancelled() and runner.exception() is not None:
            log.error("runner failed", exc_info=runner.exception())
        self.wake()

    def leave(self, runner: asyncio.Task[Any]) -> None:
        """*runner* takes no more from the queue: another one may."""
        if self.taker is runner:
            self.taker = None

    def close(self) -> None:
        """Begin nothing more, and cancel what runs."""
        self._over = True
        for runner in self.tasks:
            runner.cancel()
        if self._standby is not None:
            self._standby.task.cancel()
