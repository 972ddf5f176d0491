"""The error of expressions, and the limits that it names."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from headrace.errors import HeadraceError

LENGTH_MAX = 21_000
"""Characters of one expression; GitHub's own limit."""
DEPTH_MAX = 50
"""Nesting of one expression; GitHub's own limit."""
TEMPLATE_LENGTH_MAX = 4_194_304
"""Characters of a string with ``${{ }}`` parts."""
RESULT_LENGTH_MAX = 10_485_760
"""Characters of one string that an expression makes, and items of one list."""
WORK_MAX = 50_000_000
"""Characters and items that one evaluation may read or write, all its functions together."""
VALUE_DEPTH_MAX = 200
"""Nesting of a value that is read from or written as JSON."""

Kind = Literal["lexing", "parsing", "evaluation"]


class ExpressionError(HeadraceError):
    """An expression that cannot be read or evaluated; `message` is worded as GitHub words it."""

    code: ClassVar[str] = "invalid-expression"
    exit_code: ClassVar[int] = 3

    def __init__(self, kind: Kind, message: str, *, offset: int = -1, hint: str = "") -> None:
        self.kind: Kind = kind
        self.message = message
        self.offset = offset
        """Index of the offending token in the expression; -1 where none is to blame."""
        self.hint = hint
        """What may have been meant; '' where nothing is near."""
        super().__init__(message)


class Opaque(dict[str, Any]):
    """A value that lies elsewhere: it can be passed on, and not looked at. It counts as true."""


class OpaqueValue(ExpressionError):
    """An expression needs to know what an `Opaque` stands for; evaluate it where that is known."""

    def __init__(self, value: Opaque) -> None:
        self.value = value
        text = (
            "a value is too large for this place, or a secret: only inputs and env of steps see it"
        )
        super().__init__("evaluation", text)


def over_limit(name: str, limit: int) -> ExpressionError:
    """Return the error of an evaluation that has passed the limit *name*."""
    return ExpressionError("evaluation", f"expression limit exceeded: {name} = {limit}")
