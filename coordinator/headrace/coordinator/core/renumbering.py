"""What a patch does to the numbers of a run's instances, and how everybody else names them.

A patch renumbers: nodes of the new plan stand elsewhere. Workers, leases and other shards keep the
number that they were given, the *wire number*: it holds how often the run had been patched by
then, so no two instances ever have the same. Of a run that was never patched both are the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

from headrace.coordinator.core.program import Program

WIRE_BITS: Final = 24
"""Of a wire number, for the instance; `Limits.nodes` is far below."""
_INSTANCE: Final = (1 << WIRE_BITS) - 1
PATCHES_MAX: Final = 100
"""Of one run: each keeps its plan, and where its nodes went."""

Span = tuple[int, int, int]
"""``(first, count, new first)``"""


class Move:
    """One patch: where the instances went."""

    __slots__ = ("event", "gone", "program", "spans")

    def __init__(
        self, event: int, program: Program, spans: Sequence[Span], gone: dict[int, str]
    ) -> None:
        self.event = event
        """Number of the event that says so."""
        self.program = program
        """Of the plan before."""
        self.spans = [(first, count, to) for first, count, to in spans]
        self.gone = gone
        """Paths of instances that are gone although events name them."""

    def of(self, instance: int) -> int:
        """Return the number that *instance* has since; -1: it is gone."""
        at = bisect_right(self.spans, instance, key=_first) - 1
        if at < 0:
            return -1
        first, count, to = self.spans[at]
        return instance - first + to if instance < first + count else -1


def _first(span: Span) -> int:
    return span[0]


class Patches:
    """All patches of one run."""

    __slots__ = ("moves", "wired")

    def __init__(self, moves: Iterable[Move] = (), wired: dict[int, int] | None = None) -> None:
        self.moves = list(moves)
        self.wired: dict[int, int] = wired or {}
        """Instance -> wire number, of what was named to others before the last patch."""

    def wire(self, instance: int) -> int:
        """Return how others know *instance*."""
        known = self.wired.get(instance)
        return len(self.moves) << WIRE_BITS | instance if known is None else known

    def instance(self, wire: int) -> int:
        """Return which instance others mean; -1: one that is gone, or never was."""
        made, found = wire >> WIRE_BITS, wire & _INSTANCE
        if not 0 <= made <= len(self.moves):
            return -1
        for move in self.moves[made:]:
            found = move.of(found)
            if found < 0:
                return -1
        return found

    def since(self, event: int, instance: int) -> tuple[int, str]:
        """Return (today's number of what *event* calls *instance*, its path if it is gone)."""
        for move in self.moves:
            if move.event > event:
                after = move.of(instance)
                if after < 0:
                    return -1, move.gone.get(instance, "")
                instance = after
        return instance, ""


def spans_of(moved: Sequence[int]) -> list[Span]:
    """Return the spans of a map from old numbers (the positions) to new ones, -1 for none."""
    spans: list[Span] = []
    first = count = to = 0
    for old, new in enumerate(moved):
        if count and new == to + count and old == first + count:
            count += 1
            continue
        if count:
            spans.append((first, count, to))
        first, count, to = old, int(new >= 0), new
    if count:
        spans.append((first, count, to))
    return spans


def map_of(spans: Iterable[Sequence[int]], size: int) -> list[int]:
    """Return the map that *spans* were made of."""
    moved = [-1] * size
    for first, count, to in spans:
        moved[first : first + count] = range(to, to + count)
    return moved
