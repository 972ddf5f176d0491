"""Clients and the system shard: settings of a namespace. Each goes through the namespace that it is
about, so that permissions on subjects say who may change it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class SetNamespace(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="set-namespace"
):
    """Change the namespace's settings. Result: `NamespaceView`."""

    weight: float
    """Share of what namespaces compete for, against the others' weights."""
    request_id: str
    not_after_ms: int
    actor: str = ""


class GetNamespace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="namespace"):
    """Result: `NamespaceView`."""


NamespaceRequest: TypeAlias = SetNamespace | GetNamespace


class NamespaceView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A namespace's settings, as they are, or as they are without a word."""

    name: str
    weight: float = 1.0
