"""Collects what is wrong with a definition, each problem with its place and the line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn, Protocol

from headrace.errors import InvalidDefinition, Problem
from headrace.language._limits import PROBLEMS_MAX

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_SHOWN_MAX = 240
"""Characters of an offending line that are shown."""
_SHOWN_BEFORE = 80
"""So many of them stand before the place, where that is far from the line's beginning."""
_SUGGESTIONS_FROM_MAX = 1_000
_LISTED_MAX = 12


class Place(Protocol):
    """Something with a place in the file, counted from 1."""

    @property
    def line(self) -> int:
        """The line."""
        ...

    @property
    def column(self) -> int:
        """The column."""
        ...


class Spot(NamedTuple):
    """A place inside a node."""

    line: int
    column: int


class Text(Place, Protocol):
    """A text with a place."""

    text: str
    block: bool
    """The text begins on the line behind."""
    folded: bool
    """Its line breaks are not those of the file."""


class Report:
    """The problems of one file, and of the files that it calls: their reports are made by `of`."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._text = text
        self._lines: list[str] | None = None
        self._main = self
        self._problems: dict[Problem, None] = {}

    def of(self, text: str, file: str) -> Report:
        """Return the report of another file, whose problems are told together with these."""
        report = Report(text, file)
        report._main, report._problems = self._main, self._problems
        return report

    def add(self, message: str, at: Place | None = None, hint: str = "") -> None:
        """Note a problem; raises `InvalidDefinition` at once when there are `PROBLEMS_MAX`."""
        line, column = (at.line, at.column) if at is not None else (0, 0)
        self._note(message, line, column, hint)

    def add_at(self, message: str, line: int, column: int, hint: str = "") -> None:
        """Note a problem at a place that no node stands for."""
        self._note(message, line, column, hint)

    def fatal(self, message: str, line: int = 0, column: int = 0, hint: str = "") -> NoReturn:
        """Note a problem that ends the reading; raises `InvalidDefinition`."""
        self._note(message, line, column, hint)
        self.finish()
        raise AssertionError("unreachable")  # pragma: no cover

    def finish(self) -> None:
        """Raise `InvalidDefinition` with all problems in their files' order, if there are any."""
        if self._problems:
            ordered = sorted(self._problems, key=lambda p: (p.file, p.line, p.column))
            raise InvalidDefinition(ordered, file=self._main.file)

    def inside(self, node: Text, index: int) -> Place:
        """Return where character *index* of the text *node* stands, its own place if in doubt."""
        before = node.text[:index]
        line = node.line + node.block + before.count("\n")
        if node.folded or (line != node.line and not node.block):
            return node
        wanted = _LINE_BREAK.split(node.text[: index + _SHOWN_MAX])[before.count("\n")]
        at = self._source(line).find(wanted, 0 if node.block else node.column - 1)
        if at < 0:
            return node
        return Spot(line, at + 1 + len(before) - (before.rfind("\n") + 1))

    def _note(self, message: str, line: int, column: int, hint: str) -> None:
        file = "" if self is self._main else self.file
        if len(self._problems) < PROBLEMS_MAX:
            far = column + _SHOWN_BEFORE > _SHOWN_MAX
            begin = column - _SHOWN_BEFORE if far else 1
            source = self._source(line)[begin - 1 : begin - 1 + _SHOWN_MAX]
            # A file that is called twice has its problems once.
            self._problems[Problem(message, line, column, source, hint, file, begin)] = None
        if len(self._problems) >= PROBLEMS_MAX:
            text = f"too many problems: PROBLEMS_MAX = {PROBLEMS_MAX} are shown"
            self._problems[Problem(text, line=1 << 31)] = None
            self.finish()

    def _source(self, line: int) -> str:
        if line <= 0:
            return ""
        if self._lines is None:
            self._lines = _LINE_BREAK.split(self._text)
        return self._lines[line - 1] if line <= len(self._lines) else ""


def near_or_all(name: str, options: Iterable[str]) -> str:
    """Return `did_you_mean`, else what there is if that is a handful, else ''."""
    names = list(options)
    there_are = f"there are: {', '.join(names)}" if 0 < len(names) <= _LISTED_MAX else ""
    return did_you_mean(name, names) or there_are


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the option nearest to *name*, '' if none is near."""
    candidates = list(options)[:_SUGGESTIONS_FROM_MAX]
    folded = {option.lower(): option for option in candidates}
    near = difflib.get_close_matches(name.lower()[:200], folded, n=1, cutoff=0.6)
    return f"did you mean '{folded[near[0]]}'?" if near else ""
