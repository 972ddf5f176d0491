"""The classes; see the package for the tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


class HeadraceError(Exception):
    """Base of every error that crosses an interface of ours.

    `code` is stable and travels on the wire; `exit_code` is what `flowctl` exits with.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file, and where: lines and columns count from 1."""

    message: str
    line: int = 0
    column: int = 0
    source: str = ""
    """The offending line as it stands in the file, or the part of a long one around the place."""
    hint: str = ""
    """What to do, for instance ``did you mean 'needs'?``."""
    file: str = ""
    """Where it stands, if that is another file than the one at hand."""
    source_column: int = 1
    """Where `source` begins in its line."""

    def render(self, file: str) -> str:
        """Return ``file:line:column: message`` with the line, a caret, and the hint below it."""
        file = self.file or file
        place = f"{file}:{self.line}:{self.column}: " if self.line else f"{file}: "
        text = f"{place}{self.message}"
        if self.source:
            shown, before = self.source.replace("\t", " "), self.column - self.source_column
            if self.source_column > 1:
                shown, before = f"… {shown}", before + 2
            text += f"\n    {shown}\n    {' ' * max(before, 0)}^"
        return text + (f"\n    {self.hint}" if self.hint else "")


class InvalidDefinition(HeadraceError):
    """A workflow definition, or its input, cannot be accepted; holds every problem found."""

    code = "invalid-definition"
    exit_code = 3

    def __init__(self, problems: Sequence[Problem], *, file: str = "<workflow>") -> None:
        self.problems = tuple(problems)
        self.file = file
        super().__init__("\n".join(problem.render(file) for problem in self.problems))


class InvalidConfig(HeadraceError):
    """A configuration key or value is wrong."""

    code = "invalid-config"
    exit_code = 3

    def __init__(self, key: str, reason: str) -> None:
        self.key, self.reason = key, reason
        super().__init__(f"configuration {key}: {reason}")


class _Sentence(HeadraceError):
    """An error that is one sentence and nothing more."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class InvalidRequest(_Sentence):
    """The request cannot mean anything, whatever the state."""

    code = "invalid-request"
    exit_code = 3


class NotFound(_Sentence):
    """The thing named does not exist."""

    code = "not-found"
    exit_code = 4


class Conflict(_Sentence):
    """The request contradicts what exists: an id that is taken, a run that has ended."""

    code = "conflict"
    exit_code = 3


class LimitExceeded(_Sentence):
    """A configured hard limit would be passed; nothing was changed."""

    code = "limit-exceeded"
    exit_code = 3


class Busy(HeadraceError):
    """Back-pressure: the request was not taken; send it again after `retry_after_ms`."""

    code = "busy"
    exit_code = 5

    def __init__(self, message: str, *, retry_after_ms: int = 100) -> None:
        self.message, self.retry_after_ms = message, retry_after_ms
        super().__init__(f"{message} (retry after {retry_after_ms} ms)")


class Unreachable(_Sentence):
    """Nobody answered in time; the request may have taken effect, and may safely be sent again."""

    code = "unreachable"
    exit_code = 5


class Unavailable(_Sentence):
    """The server answered, and cannot do this now."""

    code = "unavailable"
    exit_code = 5


_SENTENCES: dict[str, type[_Sentence]] = {
    cls.code: cls
    for cls in (InvalidRequest, NotFound, Conflict, LimitExceeded, Unreachable, Unavailable)
}


def from_wire(code: str, message: str, *, retry_after_ms: int = 0) -> HeadraceError:
    """Return the error that a server's answer stands for (unknown codes: `HeadraceError`)."""
    if code == Busy.code:
        return Busy(message, retry_after_ms=retry_after_ms)
    if code == InvalidDefinition.code:
        return InvalidDefinition([Problem(message)])
    cls = _SENTENCES.get(code)
    return cls(message) if cls else HeadraceError(f"{code}: {message}")
