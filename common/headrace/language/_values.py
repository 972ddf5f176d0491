"""Texts of a definition that mean something: durations, names, expressions in strings."""

from __future__ import annotations

import re

from headrace.language._limits import DURATION_MS_MAX, NAME_LENGTH_MAX

_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_DURATION = re.compile(r"(?:\d{1,15}(?:\.\d{1,9})?(?:ms|[smhdw]))+\Z", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_PLAIN_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?\Z", re.ASCII)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z", re.ASCII)
_NOT_SLUG = re.compile(r"[^a-z0-9_]+")
_SLUG_LENGTH_MAX = 48


def duration_ms(text: str) -> int | None:
    """Return ``500ms``, ``1h30m``, ``3d`` or a number of seconds in ms; None if it is neither.

    None too for more than `DURATION_MS_MAX`.
    """
    text = text.strip().lower()
    if _PLAIN_NUMBER.match(text):
        total = float(text) * 1_000
    elif len(text) <= NAME_LENGTH_MAX and _DURATION.match(text):
        parts = _DURATION_PART.findall(text)
        total = sum(float(number) * _UNITS_MS[unit] for number, unit in parts)
    else:
        return None
    return round(total) if total <= DURATION_MS_MAX else None


def is_identifier(text: str) -> bool:
    """Tell whether *text* can be an id: a letter or ``_``, then letters, digits, ``_``, ``-``."""
    return len(text) <= NAME_LENGTH_MAX and _IDENTIFIER.match(text) is not None


def slug(text: str) -> str:
    """Return a path segment like *text*, '' if nothing of it can stand in one."""
    return _NOT_SLUG.sub("-", text[: 4 * _SLUG_LENGTH_MAX].lower()).strip("-")[:_SLUG_LENGTH_MAX]


class Names:
    """The names of siblings; case does not matter."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}

    def claim(self, name: str) -> bool:
        """Take *name*; return False if it is taken already."""
        folded = name.lower()
        if folded in self._taken:
            return False
        self._taken.add(folded)
        return True

    def derive(self, segment: str) -> str:
        """Take *segment* and return it, numbered if it is taken already."""
        if self.claim(segment):
            return segment
        number = self._last.get(segment, 1) + 1
        while not self.claim(f"{segment}-{number}"):
            number += 1
        self._last[segment] = number
        return f"{segment}-{number}"
