"""Work that is done in pieces: generators that yield where something else may be done.

What looks at all of a long run takes a third of a second; the owner's loop must not stand still for
that long. Whoever has the time runs all pieces at once (`finished`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
Pieces: TypeAlias = Generator[None, None, T]
"""Yields between pieces, returns the result."""

PIECE: Final = 200
"""Cost of one piece: some 1 to 2 ms. A step or an event costs 1, and what its bytes cost."""
UNIT_BYTES: Final = 128
"""So many bytes to decode cost 1."""

_HEAD_BYTES: Final = 5
"""Of the longest form in which msgpack begins an array."""
_encode = msgspec.msgpack.Encoder().encode


class Piece:
    """How much of a piece is done."""

    __slots__ = ("_done",)

    def __init__(self) -> None:
        self._done = 0

    def full(self, size: int = 0) -> bool:
        """One more item, of *size* bytes, is done; tell whether that is enough for one piece."""
        self._done += 1 + size // UNIT_BYTES
        if self._done < PIECE:
            return False
        self._done = 0
        return True


def finished(pieces: Pieces[T]) -> T:
    """Do all pieces at once; return the result."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            result: T = end.value
            return result


class Sink(Protocol[T_contra]):
    """Where items go: a list, or bytes."""

    def append(self, item: T_contra, /) -> object:
        """Take one item."""
        ...


class Packed:
    """A list as msgpack, encoded item by item: to free 50,000 views at once takes a while, too."""

    __slots__ = ("_count", "_data")

    def __init__(self) -> None:
        self._data = bytearray(_HEAD_BYTES)
        self._count = 0

    def append(self, item: object) -> None:
        """Take one item."""
        self._data += _encode(item)
        self._count += 1

    def raw(self) -> msgspec.Raw:
        """Return what the list's msgpack is; nothing may be appended any more."""
        self._data[:_HEAD_BYTES] = b"\xdd" + self._count.to_bytes(4, "big")
        return msgspec.Raw(self._data)


def array_head(length: int) -> bytes:
    """Return how msgpack begins an array."""
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    return b"\xdd" + length.to_bytes(4, "big")
