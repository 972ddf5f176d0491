"""Long answers, made a piece at a time: the loop has ticks, heartbeats and appends to attend to."""

from __future__ import annotations

import asyncio
from typing import Final, TypeVar

from headrace.coordinator.core.pieces import Pieces

T = TypeVar("T")

PAUSE_S: Final = 0.002
"""Behind each piece: about a third of the loop's time at most is for long answers."""


class Slices:
    """One process's: of all long answers one piece is made at a time, in turns."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self.made = 0
        """Pieces so far."""

    async def make(self, pieces: Pieces[T]) -> T:
        """Do *pieces* with pauses between them; return their result, or raise what they raise."""
        while True:
            async with self._turn:
                self.made += 1
                try:
                    next(pieces)
                except StopIteration as end:
                    result: T = end.value
                    return result
                await asyncio.sleep(PAUSE_S)
