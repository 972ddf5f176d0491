"""Variables of a namespace (`vars`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from headrace.client._calls import Calls
from headrace.client._submit import MUTATION_S
from headrace.messages import GetVariables, SetVariable, VariablesView


class Variables:
    """Those of one namespace. Every method may raise `Unreachable` or `Busy`, as the client's.

    A run that begins after a change sees it, a moment later at most; one that has begun does not.
    """

    def __init__(self, calls: Calls, stamp: Callable[[], dict[str, Any]]) -> None:
        """*stamp* returns what a mutation carries: request id, not-after time, actor."""
        self._calls, self._stamp = calls, stamp

    async def all(self) -> dict[str, str]:
        """Return all, by name."""
        return (await self._calls.of_namespace(VariablesView, GetVariables())).values

    async def set(self, name: str, value: str) -> None:
        """Set one; names do not mind their case. Raises `InvalidRequest`, `LimitExceeded`."""
        await self._change(SetVariable(name=name, value=value, **self._stamp()))

    async def delete(self, name: str) -> None:
        """Delete one. Raises `NotFound`."""
        await self._change(SetVariable(name=name, **self._stamp()))

    async def _change(self, request: SetVariable) -> None:
        await self._calls.of_namespace(msgspec.Raw, request, within_s=MUTATION_S)
