"""Clients and the system shard: variables of a namespace (`vars`). Each request goes through the
namespace that it is about, so that permissions on subjects say who may change them."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class SetVariable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="set-variable"
):
    """Set a variable, or delete it. Result: all `VariablesView`. `not-found`: none to delete."""

    name: str
    value: str | None = None
    """None: it is deleted."""
    request_id: str
    not_after_ms: int
    actor: str = ""


class GetVariables(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="variables"):
    """Result: `VariablesView`."""


VariableRequest: TypeAlias = SetVariable | GetVariables


class VariablesView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The variables of a namespace."""

    namespace: str
    values: dict[str, str] = {}
    """By name, in the order of names."""
