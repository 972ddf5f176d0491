"""An event loop whose clock stands still while things happen, and jumps when nothing does.

So how long something waits can be asserted exactly, on a busy machine too, and without waiting.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
QUIET_S = 0.1
"""Real time without anything to read, after which the rest of a wait is skipped."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """Use: `run_jumping`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return the seconds that were waited."""
        return self.now_s


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not timeout:
            return super().select(timeout)
        found = super().select(min(timeout, QUIET_S))
        if not found:
            self._loop.now_s += timeout
        return found


def run_jumping(action: Callable[[], Awaitable[T]]) -> tuple[T, float]:
    """Run *action*; return its result and the seconds that it waited."""

    async def whole() -> T:
        return await action()

    loop = JumpingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(whole()), loop.now_s
