"""Text to tokens. Rules and wording as in GitHub's own lexers; positions count UTF-16 units."""

from __future__ import annotations

import math
import re
from typing import Any, Literal, NamedTuple

from headrace.expressions._errors import LENGTH_MAX, ExpressionError, Kind
from headrace.expressions._values import parse_number

TokenKind = Literal[
    "(", ")", "[", "]", ",", ".", "*", "!", "!=", "==", ">", ">=", "<", "<=", "&&", "||",
    "number", "string", "name", "constant", "end",
]  # fmt: skip

_OPERATORS = frozenset(("!=", "==", ">=", "<=", "&&", "||"))
_SINGLE: dict[str, TokenKind] = {
    "(": "(", ")": ")", "[": "[", "]": "]", ",": ",", "*": "*", "!": "!", ">": ">", "<": "<",
}  # fmt: skip
_BOUNDARY = frozenset("([)],.!><=&|")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z", re.ASCII)
_CONSTANTS: dict[str, Any] = {
    "true": True, "false": False, "null": None, "NaN": math.nan, "Infinity": math.inf,
}  # fmt: skip


class Token(NamedTuple):
    """One token; `text` is what error messages quote."""

    kind: TokenKind
    text: str
    offset: int
    value: Any = None


def position(source: str, offset: int) -> int:
    """Return the position, from 1, that GitHub prints for *offset*."""
    prefix = source[:offset]
    if prefix.isascii():
        return offset + 1
    return len(prefix.encode("utf-16-le", "surrogatepass")) // 2 + 1


def located(kind: Kind, what: str, token_text: str, offset: int, source: str) -> ExpressionError:
    """Return the error *what* about the token at *offset*."""
    return ExpressionError(
        kind,
        f"{what}: '{token_text}'. Located at position {position(source, offset)} "
        f"within expression: {source}",
        offset=offset,
    )


def tokens_of(source: str) -> list[Token]:
    """Return the tokens of *source*, the last one of kind `end`.

    Raises `ExpressionError` of kind `lexing`, or of kind `parsing` when *source* is too long.
    """
    if len(source) > LENGTH_MAX:
        raise ExpressionError("parsing", f"Exceeded max expression length {LENGTH_MAX}")
    tokens: list[Token] = []
    offset, end = 0, len(source)
    while offset < end:
        if source[offset].isspace():
            offset += 1
            continue
        token, offset = _next(source, offset, tokens[-1].kind if tokens else "end")
        tokens.append(token)
    tokens.append(Token("end", "", end))
    return tokens


def _next(source: str, start: int, previous: TokenKind) -> tuple[Token, int]:
    char = source[start]
    pair = source[start : start + 2]
    if pair in _OPERATORS:
        return Token(pair, pair, start), start + 2  # type: ignore[arg-type]
    if char in _SINGLE:
        return Token(_SINGLE[char], char, start), start + 1
    if char == "'":
        return _string(source, start)
    if char == "." and previous in ("name", "]", ")", "*"):
        return Token(".", char, start), start + 1
    if char in ".+-" or "0" <= char <= "9":
        return _number(source, start)
    return _word(source, start, after_dot=previous == ".")


def _end_of_word(source: str, start: int, inside: str = "") -> int:
    stop = start + 1
    while stop < len(source):
        char = source[stop]
        if char not in inside and (char in _BOUNDARY or char.isspace()):
            break
        stop += 1
    return stop


def _number(source: str, start: int) -> tuple[Token, int]:
    stop = _end_of_word(source, start, inside=".")
    text = source[start:stop]
    value = parse_number(text)
    if math.isnan(value):
        raise located("lexing", "Unexpected symbol", text, start, source)
    whole = int(value) if value.is_integer() and abs(value) < 2**53 else value
    return Token("number", text, start, whole), stop


def _string(source: str, start: int) -> tuple[Token, int]:
    stop = start + 1
    while True:
        stop = source.find("'", stop)
        if stop < 0:
            raise located("lexing", "Unexpected symbol", source[start:], start, source)
        if source[stop + 1 : stop + 2] != "'":
            break
        stop += 2
    value = source[start + 1 : stop].replace("''", "'")
    return Token("string", value, start, value), stop + 1


def _word(source: str, start: int, *, after_dot: bool) -> tuple[Token, int]:
    stop = _end_of_word(source, start)
    text = source[start:stop]
    if not _NAME.match(text):
        raise located("lexing", "Unexpected symbol", text, start, source)
    if text in _CONSTANTS and not after_dot:
        return Token("constant", text, start, _CONSTANTS[text]), stop
    return Token("name", text, start), stop
