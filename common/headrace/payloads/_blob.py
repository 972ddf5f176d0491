"""The reference: how it looks, how it is found, and how values are put in its place."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

BLOB_NAME: Final = "$blob"
BLOB_KEY: Final = b"\xa5$blob"
"""The key as it stands in msgpack: a cheap first look."""

Fetch = Callable[["Blob"], Awaitable[bytes]]
"""Returns the msgpack of the value that a reference stands for."""


class Blob(msgspec.Struct, frozen=True):
    """What a reference says."""

    ref: str
    """``<run key>/<name>``: a run's blobs lie together, and a namespace's below it."""
    size: int
    """Bytes of the value as msgpack."""


def reference_to(ref: str, size: int) -> dict[str, Any]:
    """Return the reference as plain data."""
    return {BLOB_NAME: {"ref": ref, "size": size}}


def reference(value: Any) -> Blob | None:
    """Return what *value* refers to; None if it is no reference (a user's own key of that name)."""
    if not isinstance(value, dict) or len(value) != 1 or BLOB_NAME not in value:
        return None
    try:
        return msgspec.convert(value[BLOB_NAME], Blob)
    except msgspec.ValidationError:
        return None


def replaced(value: Any, make: Callable[[dict[str, Any]], Any]) -> Any:
    """Return *value* with every reference (the plain map) replaced by what *make* makes of it."""
    if isinstance(value, list):
        return [replaced(item, make) for item in value]
    if not isinstance(value, dict):
        return value
    if reference(value) is not None:
        return make(value)
    return {key: replaced(item, make) for key, item in value.items()}


async def filled(value: Any, fetch: Fetch) -> Any:
    """Return *value* with every reference replaced by what it stands for.

    What *fetch* raises goes through. Values that came from the store are not looked into.
    """
    if isinstance(value, list):
        return [await filled(item, fetch) for item in value]
    if not isinstance(value, dict):
        return value
    blob = reference(value)
    if blob is None:
        return {key: await filled(item, fetch) for key, item in value.items()}
    return msgspec.msgpack.decode(await fetch(blob))
