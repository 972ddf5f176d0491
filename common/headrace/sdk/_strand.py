"""A coroutine that is driven by hand, and its place in the names of entries."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any


class Strand:
    """The workflow function, or a branch of it. Keys inside count by themselves, so that branches
    do not depend on each other's order."""

    __slots__ = ("_ordinals", "coroutine", "ended", "on_end", "scope", "waiting")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        scope: str,
        on_end: Callable[[Any, BaseException | None], None],
    ) -> None:
        self.coroutine, self.scope, self.on_end = coroutine, scope, on_end
        self.waiting: Any = None
        """The operation that it awaits."""
        self.ended = False
        self._ordinals: dict[str, int] = {}

    def key(self, name: str) -> str:
        """Return the next key of *name*: ``name#1``, ``name#2``, …"""
        ordinal = self._ordinals.get(name, 0) + 1
        self._ordinals[name] = ordinal
        return f"{self.scope}{name}#{ordinal}"
