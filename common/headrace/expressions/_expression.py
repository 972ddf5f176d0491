"""Parsed expressions, conditions, and strings with ``${{ }}`` parts in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any

from headrace.expressions._errors import (
    RESULT_LENGTH_MAX,
    TEMPLATE_LENGTH_MAX,
    VALUE_DEPTH_MAX,
    ExpressionError,
    over_limit,
)
from headrace.expressions._functions import STATUS, SUPPLIED, Signature
from headrace.expressions._nodes import Call, Filtered, Index, Literal, Name, Node, Scope
from headrace.expressions._parser import Parser
from headrace.expressions._values import to_string

_CACHE_ENTRIES_MAX = 4_096
_OPENING = "${{"
_NO_FUNCTIONS: Mapping[str, Callable[..., Any]] = {}


class Expression:
    """A parsed expression; immutable, safe to share and to evaluate at the same time."""

    __slots__ = ("_functions", "_names", "_node", "source")

    def __init__(self, source: str, node: Node) -> None:
        self.source = source
        self._node = node
        nodes = tuple(node.walk())
        self._names = frozenset(n.name.lower() for n in nodes if isinstance(n, Name))
        self._functions = frozenset(n.name.lower() for n in nodes if isinstance(n, Call))

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"

    def evaluate(
        self,
        contexts: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]] = _NO_FUNCTIONS,
    ) -> Any:
        """Return the value: JSON as it stands in *contexts*, not a copy of it.

        *functions* supplies the status functions and `hashFiles` (and any that `parse` was
        told of); they are called with evaluated arguments. Raises `ExpressionError`: of kind
        `evaluation`, or `parsing` for a context or function that is not there.
        """
        try:
            value = self._node.evaluate(Scope(self.source, contexts, functions))
        except RecursionError as error:
            raise over_limit("VALUE_DEPTH_MAX", VALUE_DEPTH_MAX) from error
        return list(value) if isinstance(value, Filtered) else value

    def names(self) -> frozenset[str]:
        """Return the contexts that are used, in lower case."""
        return self._names

    def functions(self) -> frozenset[str]:
        """Return the functions that are called, in lower case."""
        return self._functions

    def properties(self) -> dict[str, frozenset[str] | None]:
        """Return which properties of each context are read, by the context's name in lower case.

        None: not only properties that are written out, so perhaps all of it.
        """
        uses = Counter(n.name.lower() for n in self._node.walk() if isinstance(n, Name))
        spelled = [
            (node.target.name.lower(), node.key.value)
            for node in self._node.walk()
            if isinstance(node, Index)
            and isinstance(node.target, Name)
            and isinstance(node.key, Literal)
            and isinstance(node.key.value, str)
        ]
        written = Counter(name for name, _ in spelled)
        return {
            name: frozenset(key for context, key in spelled if context == name)
            if written[name] == count
            else None
            for name, count in uses.items()
        }

    def paths(self) -> set[tuple[str, ...]]:
        """Return what is read, as far as it is written out: ``("steps", "a", "outputs")``.

        The context's name is lowered; a path ends before the first key that is computed or ``*``.
        """
        found: set[tuple[str, ...]] = set()
        inner: set[int] = set()
        for node in self._node.walk():
            # Outer nodes come first, so the longest path of each chain does.
            if id(node) not in inner and isinstance(node, (Name, Index)):
                found.add(_path(node, inner))
        found.discard(())
        return found


def _path(node: Name | Index, inner: set[int]) -> tuple[str, ...]:
    """Return the path that ends in *node*; notes the nodes that it leads through in *inner*."""
    keys: list[Node | None] = []
    at: Node = node
    while isinstance(at, Index):
        keys.append(at.key)
        at = at.target
        inner.add(id(at))
    if not isinstance(at, Name):
        return ()
    path = [at.name.lower()]
    for key in reversed(keys):
        if not (isinstance(key, Literal) and isinstance(key.value, str)):
            break
        path.append(key.value)
    return tuple(path)


def parse(
    source: str,
    *,
    contexts: Collection[str] | None = None,
    functions: Mapping[str, tuple[int, int]] | None = None,
) -> Expression:
    """Return the expression in *source* (without ``${{ }}``).

    With *contexts*, any other name is an error. *functions* maps further functions, lower case,
    to how many arguments they take (least, most); None stands for the status functions and
    `hashFiles`. Raises `ExpressionError` of kind `lexing` or `parsing`. Cached if both are None.
    """
    if contexts is None and functions is None:
        return _parse_cached(source)
    signatures = SUPPLIED
    if functions is not None:
        signatures = {name: Signature(*arity) for name, arity in functions.items()}
    return Expression(source, Parser(source, contexts, signatures).parse())


@lru_cache(maxsize=_CACHE_ENTRIES_MAX)
def _parse_cached(source: str) -> Expression:
    return Expression(source, Parser(source, None, SUPPLIED).parse())


@lru_cache(maxsize=_CACHE_ENTRIES_MAX)
def parse_condition(source: str) -> Expression:
    """Return the condition in *source* as GitHub reads it.

    Empty means ``success()``; a condition that calls no status function gets ``success() &&`` in
    front. Raises `ExpressionError`, whose positions are those of *source*.
    """
    expression = parse(source)
    if not source.strip():
        return parse("success()")
    if expression.functions() & STATUS.keys():
        return expression
    return parse(f"success() && ({source})")


Part = str | Expression


def parse_template(text: str) -> tuple[Part, ...]:
    """Return the parts of *text*: strings, and an `Expression` for each ``${{ }}``.

    Raises `ExpressionError` of kind `lexing` or `parsing`; its `offset` counts in *text*.
    """
    return _parts_cached(text) if len(text) <= _CACHED_LENGTH_MAX else _parts(text)


_CACHED_LENGTH_MAX = 4_096
"""Longer texts are not kept: the cache stays within some megabytes."""


def _parts(text: str) -> tuple[Part, ...]:
    if len(text) > TEMPLATE_LENGTH_MAX:
        raise ExpressionError("parsing", f"Exceeded max template length {TEMPLATE_LENGTH_MAX}")
    parts: list[Part] = []
    start = 0
    while (opening := text.find(_OPENING, start)) >= 0:
        if opening > start:
            parts.append(text[start:opening])
        inside = opening + len(_OPENING)
        closing = _closing(text, inside)
        source = text[inside:closing].strip()
        if not source:
            raise ExpressionError("parsing", "An expression was expected", offset=opening)
        try:
            parts.append(parse(source))
        except ExpressionError as error:
            lead = text.index(source, inside) if source else inside
            error.offset = lead + max(error.offset, 0)
            raise
        start = closing + 2
    if start < len(text):
        parts.append(text[start:])
    return tuple(parts)


_parts_cached = lru_cache(maxsize=_CACHE_ENTRIES_MAX)(_parts)


def _closing(text: str, inside: int) -> int:
    """Return where the ``}}`` stands that ends the expression at *inside*, not one in a string."""
    at, closing = inside, -1
    while True:
        if closing < at:
            closing = text.find("}}", at)
        if closing < 0:
            raise ExpressionError(
                "parsing",
                "The expression is not closed. An unescaped ${{ sequence was found, "
                "but the closing }} sequence was not found.",
                offset=inside - len(_OPENING),
            )
        quote = text.find("'", at, closing)
        if quote < 0:
            return closing
        end = text.find("'", quote + 1)
        at = len(text) if end < 0 else end + 1


def template_expressions(text: str) -> list[Expression]:
    """Return the expressions in *text*. Raises `ExpressionError`, as `parse_template` does."""
    if _OPENING not in text:
        return []
    return [part for part in parse_template(text) if isinstance(part, Expression)]


def evaluate_template(
    text: str,
    contexts: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]] = _NO_FUNCTIONS,
) -> Any:
    """Return *text* with its ``${{ }}`` parts evaluated.

    A text that is one expression and nothing else keeps the value's type; otherwise a string.
    Raises `ExpressionError`.
    """
    if _OPENING not in text:
        return text
    parts = parse_template(text)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return parts[0].evaluate(contexts, functions)
    pieces: list[str] = []
    length = 0
    for part in parts:
        piece = part if isinstance(part, str) else to_string(part.evaluate(contexts, functions))
        length += len(piece)
        if length > RESULT_LENGTH_MAX:
            raise over_limit("RESULT_LENGTH_MAX", RESULT_LENGTH_MAX)
        pieces.append(piece)
    return "".join(pieces)


def resolve(
    value: Any,
    contexts: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]] = _NO_FUNCTIONS,
) -> Any:
    """Return the JSON *value* with every string in it evaluated, keys too.

    What holds no expression is returned as the very same object. Raises `ExpressionError`.
    """
    return _resolve(value, contexts, functions, VALUE_DEPTH_MAX)


def _resolve(
    value: Any,
    contexts: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
    depth_left: int,
) -> Any:
    if isinstance(value, str):
        return evaluate_template(value, contexts, functions) if _OPENING in value else value
    if not isinstance(value, (dict, list, tuple)) or not value:
        return value
    if depth_left == 0:
        raise over_limit("VALUE_DEPTH_MAX", VALUE_DEPTH_MAX)
    if isinstance(value, dict):
        items = [
            (
                to_string(evaluate_template(key, contexts, functions)) if _OPENING in key else key,
                _resolve(item, contexts, functions, depth_left - 1),
            )
            for key, item in value.items()
        ]
        same = all(
            new is item and name is key
            for (name, new), (key, item) in zip(items, value.items(), strict=True)
        )
        return value if same else dict(items)
    resolved = [_resolve(item, contexts, functions, depth_left - 1) for item in value]
    same = all(new is item for new, item in zip(resolved, value, strict=True))
    return value if same else resolved
