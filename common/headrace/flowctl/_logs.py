"""What `flowctl logs` makes of workflow commands in a step's output: annotations, groups. Pure.

The syntax is that of GitHub Actions ("Workflow commands"): ``::name key=value::message``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from headrace.flowctl._text import paint, plain

_COMMAND = re.compile(r"^\s*::([A-Za-z][\w-]*)(?:\s+([^:]*(?::(?!:)[^:]*)*))?::(.*)$")
_LEVELS = {"error": "FAILED", "warning": "WAITING", "notice": "RUNNING"}
"""Annotations, and the state whose colour they have."""
_CODES = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}


class Shown(NamedTuple):
    """A line to print, and which one it was."""

    text: str
    number: int
    time_ms: int


class StepLog:
    """Turns the lines of one attempt of a step into those that people read.

    With *fold* a group is one line with the number of its lines; annotations in it are shown.
    Groups do not nest: another one, or the end, ends the one before.
    """

    def __init__(self, *, fold: bool, colour: bool = False) -> None:
        self._fold, self._colour = fold, colour
        self._stopped = ""
        """Token that ends a `::stop-commands::`."""
        self._group: Shown | None = None
        self._lines = 0
        self._notes: list[Shown] = []

    def line(self, text: str, number: int, time_ms: int) -> Iterator[Shown]:
        """Yield what one line gives."""
        found = _COMMAND.match(text) if "::" in text else None
        name = found[1].lower() if found is not None else ""
        if self._stopped:
            if name == self._stopped:
                self._stopped = ""
                return
            name = ""
        if found is not None and name == "group":
            yield from self.end()
            self._group = Shown(plain(found[3]) or "group", number, time_ms)
            if not self._fold:
                yield self._group._replace(text=f"▾ {self._group.text}")
        elif name == "endgroup":
            yield from self.end()
        elif found is not None and name == "stop-commands" and found[3]:
            self._stopped = found[3].lower()
        elif found is not None and name in _LEVELS:
            note = self._annotation(name, found[2] or "", found[3])
            yield from self._line(Shown(note, number, time_ms), note=True)
        elif name != "add-mask":
            yield from self._line(Shown(text, number, time_ms))

    def end(self) -> Iterator[Shown]:
        """Yield what is left when the group, or the output, ends."""
        group, self._group = self._group, None
        if group is not None and self._fold:
            lines = f"{self._lines} line{'' if self._lines == 1 else 's'}"
            yield group._replace(text=f"▸ {group.text} ({lines})")
            yield from self._notes
        self._lines, self._notes = 0, []

    def _line(self, shown: Shown, *, note: bool = False) -> Iterator[Shown]:
        if self._group is None or not self._fold:
            yield shown
            return
        self._lines += 1
        if note:
            self._notes.append(shown)

    def _annotation(self, level: str, raw: str, message: str) -> str:
        """Return ``error: a.py:3:7: title: message``."""
        given: dict[str, str] = {}
        for part in raw.split(","):
            key, equals, value = part.partition("=")
            if equals:
                given[key.strip().lower()] = _unescape(value)
        place = ":".join(given[key] for key in ("file", "line", "col") if given.get(key))
        told = [level, place, given.get("title", ""), _unescape(message)]
        text = plain(": ".join(part for part in told if part).replace("\n", " "))
        return paint(_LEVELS[level], colour=self._colour, text=text)


def _unescape(text: str) -> str:
    for code, char in _CODES.items():
        text = text.replace(code, char)
    return text
