"""What a run keeps of its containers: iterations of loops, and figures of children. Data only."""

from __future__ import annotations

from typing import Any


class Scope:
    """One iteration of a loop: instances from `base` on stand for the nodes from `body` on."""

    __slots__ = ("base", "body", "index", "item", "label", "loop")

    def __init__(self, base: int, body: int, loop: int, index: int, item: Any, label: str) -> None:
        self.base, self.body, self.loop = base, body, loop
        self.index, self.item, self.label = index, item, label


class Counts:
    """Children of a running container."""

    __slots__ = ("bad", "cancelled", "ended", "needed", "ok", "total", "window")

    def __init__(self, total: int, needed: int = -1, window: int = 0) -> None:
        self.total, self.needed, self.window = total, needed, window
        self.ended = self.ok = self.bad = self.cancelled = 0

    def image(self) -> list[int]:
        """Return the figures as plain data."""
        return [
            self.total,
            self.needed,
            self.window,
            self.ended,
            self.ok,
            self.bad,
            self.cancelled,
        ]

    @classmethod
    def of(cls, image: list[int]) -> Counts:
        """Return what `image` was made of."""
        counts = cls(image[0], image[1], image[2])
        counts.ended, counts.ok, counts.bad, counts.cancelled = image[3:7]
        return counts
