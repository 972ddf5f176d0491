"""Hiding secret values in everything that a step shows.

The values of the worker's secrets and those that a step gives by ``::add-mask::`` become ``***``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

SHOWN: Final = "***"
MASKS_MAX: Final = 1_000
"""Values of one step; further ones are refused, loudly, by `Masker.add`."""
_CHARS_MIN: Final = 2
"""Shorter values would turn every text into stars."""


class Masker:
    """Replaces a growing set of values. Multi-line values are hidden line by line, too."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._bytes: re.Pattern[bytes] | None = None
        for value in values:
            self.add(value)

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, value: str) -> bool:
        """Hide *value* from now on; False when there are too many already."""
        parts = {value.strip(), *(line.strip() for line in value.splitlines())}
        parts = {part for part in parts if len(part) >= _CHARS_MIN} - self._values
        if len(self._values) + len(parts) > MASKS_MAX:
            return False
        if parts:
            self._values |= parts
            self._pattern = self._bytes = None
        return True

    def text(self, text: str) -> str:
        """Return *text* without the values."""
        if not self._values:
            return text
        if self._pattern is None:
            # The longest first, so that a value which contains another one goes as a whole.
            ordered = sorted(self._values, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, ordered)))
        return self._pattern.sub(SHOWN, text)

    def packed(self, data: bytes) -> bytes:
        """Return a msgpack value with the values hidden in its strings."""
        if not self._values:
            return data
        if self._bytes is None:
            self._bytes = re.compile(b"|".join(re.escape(value.encode()) for value in self._values))
        if self._bytes.search(data) is None:
            return data
        return msgspec.msgpack.encode(self.value(msgspec.msgpack.decode(data)))

    def value(self, value: Any) -> Any:
        """Return a JSON value with the values hidden in its strings, keys too."""
        if not self._values:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value
