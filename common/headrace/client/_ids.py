"""Ids that a client makes, sortable run ids and request ids; and whose they are."""

from __future__ import annotations

import base64
import getpass
import os
import time

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_TRANSLATE = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _CROCKFORD.encode())
_TAIL_MAX = (1 << 80) - 1
_PAIRS = [a + b for a in _CROCKFORD for b in _CROCKFORD]
_LOW_BITS = 20
"""What the last four characters hold; those before them change once in a million ids."""
_LOW_MAX = (1 << _LOW_BITS) - 1
_HEAD_SHIFTS, _STEM_SHIFTS = range(40, -1, -10), range(70, _LOW_BITS - 1, -10)
"""Ten bits are a pair: of 50 bits of milliseconds, and of the random 80 but for the low ones."""


class RunIds:
    """Makes ids of 26 lower-case characters that sort by time, like a ULID.

    48 bits of milliseconds and 80 bits that are random for the first id of a millisecond and one
    more for each id after it, so that ids of one client never repeat and keep their order.
    """

    def __init__(self) -> None:
        self._last_ms = -1
        self._head = self._stem = ""
        self._tail = 0

    def next(self, now_ms: int | None = None) -> str:
        """Return a new id; a clock that steps back makes no earlier id."""
        if now_ms is None:
            now_ms = int(time.time() * 1000)
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._head = _head(now_ms)
            self._begin(int.from_bytes(os.urandom(10), "big") >> 1)
        elif self._tail & _LOW_MAX == _LOW_MAX:
            self._begin(min(self._tail + 1, _TAIL_MAX))
        else:
            self._tail += 1
        low = self._tail & _LOW_MAX
        return f"{self._stem}{_PAIRS[low >> 10]}{_PAIRS[low & 1023]}"

    def _begin(self, tail: int) -> None:
        self._tail = tail
        self._stem = self._head + "".join([_PAIRS[(tail >> at) & 1023] for at in _STEM_SHIFTS])


def _head(now_ms: int) -> str:
    return "".join([_PAIRS[(now_ms >> at) & 1023] for at in _HEAD_SHIFTS])


class RequestIds:
    """Makes short request ids: a random name of this client and a counter."""

    def __init__(self) -> None:
        self._prefix = base64.b32encode(os.urandom(5)).translate(_TRANSLATE).decode()
        self._count = 0

    def next(self) -> str:
        """Return an id that no other request bears."""
        self._count += 1
        return f"{self._prefix}-{self._count:x}"


def user_name() -> str:
    """Return who is at work here, for the log of what was asked; '' if nobody can tell."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
