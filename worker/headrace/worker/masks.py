"""Hiding secret values in everything that a step shows.

The values of the worker's secrets and those that a step gives by ``::add-mask::`` become ``***``,
and so do the forms in which programs print them: in base64 (at any place within a longer text), in
JSON, in URLs, in XML, in shells, and multi-line values line by line.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self
from xml.sax.saxutils import escape

import msgspec

SHOWN: Final = "***"
MASKS_MAX: Final = 1_000
"""Values of one step; further ones are refused, loudly, by `Masker.add`."""
_CHARS_MIN: Final = 2
"""Shorter values would turn every text into stars."""
_LINE_CHARS_MIN: Final = 4
"""A line of a value that is shorter may be a mere bracket."""
_ENCODED_CHARS_MIN: Final = 8
"""Shorter pieces of base64 stand in many texts by chance."""
_WIDTHS: Final = (64, 76)


class Masker:
    """Replaces a growing set of values, in all their forms."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._given: set[str] = set()
        self._values: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._bytes: re.Pattern[bytes] | None = None
        for value in values:
            self.add(value)

    def __bool__(self) -> bool:
        return bool(self._values)

    def copy(self) -> Self:
        """Return a masker of its own with the same values."""
        made = type(self)()
        made._given, made._values = set(self._given), set(self._values)
        # Patterns are replaced and never changed, so they can be shared.
        made._pattern, made._bytes = self._pattern, self._bytes
        return made

    def add(self, value: str) -> bool:
        """Hide *value* from now on; False when there are too many already."""
        if value in self._given:
            return True
        forms = set(forms_of(value)) - self._values
        if not forms:
            return True
        if len(self._given) >= MASKS_MAX:
            return False
        self._given.add(value)
        self._values |= forms
        self._pattern = self._bytes = None
        return True

    def tail(self, text: str) -> str:
        """Return what may be shown of the end of a longer text: it may begin within a value."""
        if not self._values:
            return text
        cut = max(map(len, self._values)) - 1
        for found in self._in_text().finditer(text):
            if found.end() > cut:
                # Cut before a value, never within one.
                cut = min(cut, found.start())
                break
        return text[cut:]

    def text(self, text: str) -> str:
        """Return *text* without the values."""
        return self._in_text().sub(SHOWN, text) if self._values else text

    def packed(self, data: bytes) -> bytes:
        """Return a msgpack value with the values hidden in its strings."""
        if not self._values or self._in_bytes().search(data) is None:
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
        if isinstance(value, bytes | bytearray):
            return self._in_bytes().sub(SHOWN.encode(), bytes(value))
        return value

    def _ordered(self) -> list[str]:
        # The longest first, so that a value which contains another one goes as a whole.
        return sorted(self._values, key=len, reverse=True)

    def _in_text(self) -> re.Pattern[str]:
        if self._pattern is None:
            self._pattern = re.compile("|".join(map(re.escape, self._ordered())))
        return self._pattern

    def _in_bytes(self) -> re.Pattern[bytes]:
        if self._bytes is None:
            self._bytes = re.compile(
                b"|".join(re.escape(value.encode("utf-8", "replace")) for value in self._ordered())
            )
        return self._bytes


def forms_of(value: str) -> Iterator[str]:
    """Yield the texts in which *value* may show."""
    whole = value.strip()
    if len(whole) < _CHARS_MIN:
        return
    yield whole
    lines = [line.strip() for line in whole.splitlines()]
    if len(lines) > 1:
        for line in lines:
            if len(line) >= _LINE_CHARS_MIN:
                yield line
                yield from _encoded(line.encode("utf-8", "surrogateescape"))
    for text in {value, whole}:
        yield from _escaped(text)
        yield from _encoded(text.encode("utf-8", "surrogateescape"))


def _escaped(text: str) -> Iterator[str]:
    """Yield *text* as JSON, URLs, XML and shells write it, where that makes a difference."""
    once = json.dumps(text)[1:-1]
    forms = (
        once,
        json.dumps(text, ensure_ascii=False)[1:-1],
        # JSON within JSON.
        json.dumps(once)[1:-1],
        repr(text)[1:-1],
        urllib.parse.quote(text, safe="", errors="replace"),
        urllib.parse.quote(text, errors="replace"),
        urllib.parse.quote_plus(text, errors="replace"),
        escape(text),
        escape(text, {'"': "&quot;", "'": "&apos;"}),
        html.escape(text),
        shlex.quote(text),
    )
    yield from (form for form in forms if form != text and len(form) >= _CHARS_MIN)


def _encoded(data: bytes) -> Iterator[str]:
    """Yield base64 of *data* on its own, and what of it stays the same inside longer data.

    Base64 turns three bytes into four characters: behind one or two other bytes the characters
    differ, and those at the ends depend on the neighbours.
    """
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        whole = encode(data).decode()
        if len(whole) >= _ENCODED_CHARS_MIN:
            yield whole
        for width in _WIDTHS:
            # What `base64` and `openssl` print in lines; the last one may be too short to hide.
            lines = [whole[at : at + width] for at in range(0, len(whole), width)]
            yield from (line for line in lines if len(line) >= _ENCODED_CHARS_MIN)
        for before in range(3):
            skipped = -(-before * 8 // 6)
            sure = (before + len(data)) * 8 // 6
            piece = encode(b"\0" * before + data).decode()[skipped:sure]
            if len(piece) >= _ENCODED_CHARS_MIN:
                yield piece
