"""Checks cron expressions: five fields, as POSIX and GitHub have them; not when they fire."""

from __future__ import annotations

import re
from typing import NamedTuple

_ITEM = re.compile(r"(\*|([0-9]+|[a-z]{3})(?:-([0-9]+|[a-z]{3}))?)(?:/([0-9]+))?\Z", re.ASCII)
_LENGTH_MAX = 200
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class _Field(NamedTuple):
    name: str
    least: int
    most: int
    words: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of the month", 1, 31, {}),
    _Field("month", 1, 12, {name: index for index, name in enumerate(_MONTHS, 1)}),
    _Field("day of the week", 0, 7, {name: index for index, name in enumerate(_DAYS)}),
)


def cron_problem(text: str) -> str:
    """Return what is wrong with a cron expression, '' if nothing is."""
    fields = text.lower().split()
    if len(text) > _LENGTH_MAX:
        return f"is over {_LENGTH_MAX} characters"
    if text.startswith("@"):
        return "has no names such as @daily: write '0 0 * * *'"
    if len(fields) != len(_FIELDS):
        names = ", ".join(field.name for field in _FIELDS)
        return f"has 5 fields ({names}), not {len(fields)}"
    for field, written in zip(_FIELDS, fields, strict=True):
        for item in written.split(","):
            if not _fits(field, item):
                kind = f"{field.least} to {field.most}"
                if field.words:
                    kind += f" or {', '.join(field.words)}"
                return f"has '{item}' as {field.name}: {kind}, '*', 'a-b', '*/n' or a list"
    return ""


def _fits(field: _Field, item: str) -> bool:
    match = _ITEM.match(item)
    if match is None:
        return False
    step = match[4]
    if step is not None and not 1 <= int(step[:9]) <= field.most:
        return False
    if match[1] == "*":
        return True
    first = _number(field, match[2])
    last = first if match[3] is None else _number(field, match[3])
    return field.least <= first <= last <= field.most


def _number(field: _Field, text: str) -> int:
    return int(text[:9]) if text.isdigit() else field.words.get(text, -1)
