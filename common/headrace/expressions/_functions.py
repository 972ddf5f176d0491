"""The functions that every expression has. They are given nodes, so `case` and `format` can
leave arguments unevaluated, as GitHub does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from headrace.expressions._errors import (
    RESULT_LENGTH_MAX,
    VALUE_DEPTH_MAX,
    ExpressionError,
    over_limit,
)
from headrace.expressions._nodes import Node, Scope
from headrace.expressions._values import equals, fold, is_primitive, kind_of, to_string

ARGUMENTS_MAX = 255
_FORMAT_INDEX_MAX = 255
_PLACE = re.compile(r"([0-9]+)(?::((?:[^}]|\}\})*))?\}")


class Signature(NamedTuple):
    """How many arguments a function takes."""

    least: int
    most: int


def _contains(scope: Scope, arguments: Sequence[Node]) -> bool:
    search, item = (argument.evaluate(scope) for argument in arguments)
    if is_primitive(search):
        if not is_primitive(item):
            return False
        text = to_string(search)
        scope.spend(len(text))
        return fold(to_string(item)) in fold(text)
    if not isinstance(search, (list, tuple)):
        return False
    scope.spend(len(search))
    if not isinstance(item, str):
        return any(equals(item, value) for value in search)
    folded = fold(item)
    return any(_same_text(scope, folded, item, value) for value in search)


def _same_text(scope: Scope, folded: str, item: str, value: Any) -> bool:
    """Return ``item == value``, where *folded* is *item* folded, once for all values."""
    if not isinstance(value, str):
        return equals(item, value)
    if len(value) != len(folded):
        return False
    scope.spend(len(value))
    return fold(value) == folded


def _affix(method: Callable[[str, str], bool]) -> Callable[[Scope, Sequence[Node]], bool]:
    def evaluate(scope: Scope, arguments: Sequence[Node]) -> bool:
        text, part = (argument.evaluate(scope) for argument in arguments)
        if not (is_primitive(text) and is_primitive(part)):
            return False
        text, part = to_string(text), to_string(part)
        scope.spend(len(text) + len(part))
        return method(fold(text), fold(part))

    return evaluate


def _join(scope: Scope, arguments: Sequence[Node]) -> str:
    values = arguments[0].evaluate(scope)
    if is_primitive(values):
        return to_string(values)
    if not isinstance(values, (list, tuple)):
        return ""
    separator: Any = arguments[1].evaluate(scope) if len(arguments) > 1 else ","
    between = to_string(separator) if is_primitive(separator) else ","
    scope.spend(len(values))
    parts = [to_string(value) for value in values]
    scope.made(sum(map(len, parts)) + len(between) * max(len(parts) - 1, 0))
    return between.join(parts)


def _format(scope: Scope, arguments: Sequence[Node]) -> str:
    template = to_string(arguments[0].evaluate(scope))
    scope.spend(len(template))
    values: dict[int, str] = {}
    pieces: list[str] = []
    length, start = 0, 0
    while (brace := _next_brace(template, start)) >= 0:
        pieces.append(template[start:brace])
        if template[brace : brace + 2] in ("{{", "}}"):
            pieces.append(template[brace])
            start = brace + 2
        else:
            index, start = _place(template, brace, len(arguments) - 1)
            if index not in values:
                values[index] = to_string(arguments[index + 1].evaluate(scope))
            pieces.append(values[index])
        length += len(pieces[-1])
        if length > RESULT_LENGTH_MAX:
            raise over_limit("RESULT_LENGTH_MAX", RESULT_LENGTH_MAX)
    pieces.append(template[start:])
    result = "".join(pieces)
    scope.made(len(result))
    return result


def _next_brace(template: str, start: int) -> int:
    match = _BRACE.search(template, start)
    return match.start() if match else -1


_BRACE = re.compile(r"[{}]")


def _place(template: str, brace: int, count: int) -> tuple[int, int]:
    """Return the index in the place at *brace*, and where the text goes on."""
    match = _PLACE.match(template, brace + 1) if template[brace] == "{" else None
    if match is None or len(match[1]) > 9 or int(match[1]) > _FORMAT_INDEX_MAX:
        raise ExpressionError("evaluation", f"The following format string is invalid: {template}")
    index = int(match[1])
    if index >= count:
        raise ExpressionError(
            "evaluation",
            f"The following format string references more arguments than were supplied: {template}",
        )
    if match[2]:
        raise ExpressionError(
            "evaluation", f"The format specifiers '{match[2]}' are not valid: {template}"
        )
    return index, match.end()


def _case(scope: Scope, arguments: Sequence[Node]) -> Any:
    for index in range(0, len(arguments) - 1, 2):
        predicate = arguments[index].evaluate(scope)
        if not isinstance(predicate, bool):
            raise ExpressionError("evaluation", "case predicate must evaluate to a boolean value")
        if predicate:
            return arguments[index + 1].evaluate(scope)
    return arguments[-1].evaluate(scope)


def _from_json(scope: Scope, arguments: Sequence[Node]) -> Any:
    text = to_string(arguments[0].evaluate(scope))
    scope.made(len(text))
    if not text.strip():
        raise _not_json("empty input")
    try:
        value = msgspec.json.decode(text.strip())
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _not_json(str(error)) from error
    except RecursionError as error:
        raise over_limit("VALUE_DEPTH_MAX", VALUE_DEPTH_MAX) from error
    _check_depth(value)
    return value


def _not_json(reason: str) -> ExpressionError:
    return ExpressionError("evaluation", f"Error parsing JSON when evaluating fromJson: {reason}")


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(VALUE_DEPTH_MAX):
        below: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
        if not below:
            return
        level = below
    raise over_limit("VALUE_DEPTH_MAX", VALUE_DEPTH_MAX)


def _to_json(scope: Scope, arguments: Sequence[Node]) -> str:
    pieces: list[str] = []
    _write_json(scope, arguments[0].evaluate(scope), pieces, "\n")
    result = "".join(pieces)
    scope.made(len(result))
    return result


def _write_json(scope: Scope, value: Any, pieces: list[str], newline: str) -> None:
    """Append *value* to *pieces*, indented by two blanks; *newline* holds the indentation."""
    if len(newline) > 2 * VALUE_DEPTH_MAX:
        raise over_limit("VALUE_DEPTH_MAX", VALUE_DEPTH_MAX)
    kind = kind_of(value)
    if kind == "Array":
        opening, closing = "[", "]"
    elif kind == "Object" and isinstance(value, Mapping):
        opening, closing = "{", "}"
    else:
        text = _json_scalar(value)
        scope.spend(len(text))
        pieces.append(text)
        return
    scope.spend(1 + len(newline) * (len(value) + 1))
    if not value:
        pieces.append(opening + closing)
        return
    separator, inner = opening, newline + "  "
    for item in value:
        pieces.append(separator + inner)
        separator = ","
        if kind == "Object":
            pieces.append(json.dumps(to_string(item), ensure_ascii=False) + ": ")
            item = value[item]
        _write_json(scope, item, pieces, inner)
    pieces.append(newline + closing)


def _json_scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return to_string(value) if is_primitive(value) else "{}"


BUILTIN: dict[str, tuple[Signature, Callable[[Scope, Sequence[Node]], Any]]] = {
    "case": (Signature(3, ARGUMENTS_MAX), _case),
    "contains": (Signature(2, 2), _contains),
    "endswith": (Signature(2, 2), _affix(str.endswith)),
    "format": (Signature(1, ARGUMENTS_MAX), _format),
    "fromjson": (Signature(1, 1), _from_json),
    "join": (Signature(1, 2), _join),
    "startswith": (Signature(2, 2), _affix(str.startswith)),
    "tojson": (Signature(1, 1), _to_json),
}

STATUS: dict[str, Signature] = {
    "always": Signature(0, 0),
    "cancelled": Signature(0, 0),
    "failure": Signature(0, ARGUMENTS_MAX),
    "success": Signature(0, ARGUMENTS_MAX),
}
"""Functions of conditions; whoever evaluates supplies them."""

SUPPLIED: dict[str, Signature] = {**STATUS, "hashfiles": Signature(1, ARGUMENTS_MAX)}
"""All functions that whoever evaluates supplies."""
