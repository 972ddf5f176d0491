"""Settings of a namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.client._calls import Calls
from headrace.client._submit import MUTATION_S
from headrace.messages import GetNamespace, NamespaceView, SetNamespace


class NamespaceSettings:
    """Those of one namespace. Every method may raise `Unreachable` or `Busy`, as the client's."""

    def __init__(self, calls: Calls, stamp: Callable[[], dict[str, Any]]) -> None:
        """*stamp* returns what a mutation carries: request id, not-after time, actor."""
        self._calls, self._stamp = calls, stamp

    async def set(self, *, weight: float) -> NamespaceView:
        """Set its share of what it competes for with others; return its settings.

        Raises `InvalidRequest` for a weight that cannot be one.
        """
        request = SetNamespace(weight=weight, **self._stamp())
        return await self._calls.of_namespace(NamespaceView, request, within_s=MUTATION_S)

    async def get(self) -> NamespaceView:
        """Return its settings."""
        return await self._calls.of_namespace(NamespaceView, GetNamespace())
