"""Clients and the system shard: registered definitions, by name and version.

All go to shard 0 (`subjects.SYSTEM_SHARD`), whatever the name.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class RegisterDefinition(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="register"
):
    """Keep a plan under a name and a version. Result: `DefinitionView`.

    What is registered already, with the same content, is answered again.
    """

    name: str
    plan: bytes
    version: str = ""
    """Empty: the newest one if it is the same plan, else the next whole number."""
    request_id: str
    not_after_ms: int
    actor: str = ""


class DeleteDefinition(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="unregister"
):
    """Forget a version, or with an empty one the whole name. Result: list of `DefinitionView`.

    Runs that were started from it go on.
    """

    name: str
    version: str = ""
    request_id: str
    not_after_ms: int
    actor: str = ""


class GetDefinition(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="definition"
):
    """Result: `DefinitionView` with its plan."""

    name: str
    version: str = ""
    """Empty: the newest."""


class ListDefinitions(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="definitions"
):
    """Result: list of `DefinitionView` by name, the newest version first, without plans."""

    name: str = ""
    """Empty: all names."""


DefinitionRequest: TypeAlias = (
    RegisterDefinition | DeleteDefinition | GetDefinition | ListDefinitions
)


class DefinitionView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A registered version as people see it."""

    name: str
    version: str
    namespace: str = "default"
    digest: str
    """Of its plan."""
    number: int = 0
    """Counts what was registered in the cluster; of two versions the higher is the newer."""
    latest: bool = False
    created_ms: int = 0
    actor: str = ""
    plan: bytes = b""
