"""One encoder, one cached decoder a type."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from headrace.errors import InvalidRequest

T = TypeVar("T")
UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""What msgspec raises for bytes from outside: wrong types, text that is no UTF-8, deep nesting."""
encode = msgspec.msgpack.Encoder().encode


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def decode(kind: type[T], data: bytes) -> T:
    """Return *data* as *kind*; raises `InvalidRequest` on anything else (peers may be hostile)."""
    try:
        return cast("T", _decoder(cast("Any", kind)).decode(data))
    except UNREADABLE as error:
        name = getattr(kind, "__name__", str(kind))
        # What is said of a tag that nobody here knows.
        unknown = str(error).startswith("Invalid value ")
        hint = "; if a newer release has sent it, upgrade this one" if unknown else ""
        raise InvalidRequest(f"not a {name}: {error}{hint}") from error
