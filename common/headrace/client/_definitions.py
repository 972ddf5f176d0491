"""Registered definitions: plans that the cluster keeps under a name and a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.client._calls import Calls
from headrace.client._submit import MUTATION_S
from headrace.messages import (
    DefinitionView,
    DeleteDefinition,
    GetDefinition,
    ListDefinitions,
    RegisterDefinition,
)
from headrace.plan import Plan, decode_plan, encode_plan


class Definitions:
    """Those of one namespace. Every method may raise `Unreachable` or `Busy`, as the client's."""

    def __init__(self, calls: Calls, stamp: Callable[[], dict[str, Any]]) -> None:
        """*stamp* returns what a mutation carries: request id, not-after time, actor."""
        self._calls, self._stamp = calls, stamp

    async def register(self, plan: Plan, *, name: str = "", version: str = "") -> DefinitionView:
        """Keep *plan* under *name* (empty: its own) and *version*; return what is registered.

        Without *version* that is the newest one if it is the same plan, else the next number. The
        same again changes nothing. Raises `Conflict` when the version has another content,
        `InvalidRequest` for a name that cannot be one, `LimitExceeded`.
        """
        request = RegisterDefinition(
            name=name or plan.name, version=version, plan=encode_plan(plan), **self._stamp()
        )
        return await self._calls.of_namespace(DefinitionView, request, within_s=MUTATION_S)

    async def get(self, name: str, version: str = "") -> DefinitionView:
        """Return a version (empty: the newest) with its encoded plan. Raises `NotFound`."""
        return await self._calls.of_namespace(
            DefinitionView, GetDefinition(name=name, version=version)
        )

    async def plan(self, name: str, version: str = "") -> Plan:
        """Return the plan of a version (empty: the newest). Raises `NotFound`."""
        return decode_plan((await self.get(name, version)).plan)

    async def list(self, name: str = "") -> Sequence[DefinitionView]:
        """Return all versions (of one name), by name, the newest first."""
        return await self._calls.of_namespace(list[DefinitionView], ListDefinitions(name=name))

    async def delete(self, name: str, version: str = "") -> Sequence[DefinitionView]:
        """Forget a version, or all of a name; return them. Runs go on. Raises `NotFound`."""
        request = DeleteDefinition(name=name, version=version, **self._stamp())
        return await self._calls.of_namespace(list[DefinitionView], request, within_s=MUTATION_S)
