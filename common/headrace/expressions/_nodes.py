"""The tree of a parsed expression, and how each node is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from headrace.expressions._errors import (
    RESULT_LENGTH_MAX,
    WORK_MAX,
    Opaque,
    OpaqueValue,
    over_limit,
)
from headrace.expressions._lexer import located
from headrace.expressions._values import (
    equals,
    is_primitive,
    less,
    lookup,
    to_number,
    to_string,
    truthy,
)

_INDEX_MAX = 2**31 - 1
_MISSING = object()


class Filtered(list[Any]):
    """What a `*` yields; further indexes apply to each of its items."""


class Scope:
    """What one evaluation can see, and the work that it may still do."""

    __slots__ = ("contexts", "functions", "source", "work_left")

    def __init__(
        self,
        source: str,
        contexts: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.source, self.contexts, self.functions = source, contexts, functions
        self.work_left = WORK_MAX

    def spend(self, amount: int) -> None:
        """Pay for *amount* characters or items; raises `ExpressionError` past `WORK_MAX`."""
        self.work_left -= amount
        if self.work_left < 0:
            raise over_limit("WORK_MAX", WORK_MAX)

    def made(self, amount: int) -> None:
        """Pay for a result of *amount* characters or items, within `RESULT_LENGTH_MAX`."""
        if amount > RESULT_LENGTH_MAX:
            raise over_limit("RESULT_LENGTH_MAX", RESULT_LENGTH_MAX)
        self.spend(amount)


class Node:
    """A vertex of the tree."""

    __slots__ = ()

    def evaluate(self, scope: Scope) -> Any:
        """Return the node's value."""
        raise NotImplementedError

    def children(self) -> Sequence[Node]:
        """Return the nodes directly below."""
        return ()

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for child in self.children():
            yield from child.walk()


class Literal(Node):
    """A constant."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def evaluate(self, scope: Scope) -> Any:
        """Return the constant."""
        return self.value


class Name(Node):
    """A context."""

    __slots__ = ("name", "offset")

    def __init__(self, name: str, offset: int) -> None:
        self.name, self.offset = name, offset

    def evaluate(self, scope: Scope) -> Any:
        """Return the context's value; raises `ExpressionError` if there is none of that name."""
        value = lookup(scope.contexts, self.name, _MISSING)
        if value is _MISSING:
            raise located(
                "parsing", "Unrecognized named-value", self.name, self.offset, scope.source
            )
        return value


class Not(Node):
    """``!x``."""

    __slots__ = ("operand",)

    def __init__(self, operand: Node) -> None:
        self.operand = operand

    def evaluate(self, scope: Scope) -> Any:
        """Return whether the operand is false."""
        return not truthy(self.operand.evaluate(scope))

    def children(self) -> Sequence[Node]:
        """Return the operand."""
        return (self.operand,)


class Comparison(Node):
    """``== != < <= > >=``."""

    __slots__ = ("left", "operator", "right")

    _OPERATORS: ClassVar[dict[str, Callable[[Any, Any], bool]]] = {
        "==": equals,
        "!=": lambda left, right: not equals(left, right),
        "<": less,
        "<=": lambda left, right: equals(left, right) or less(left, right),
        ">": lambda left, right: less(right, left),
        ">=": lambda left, right: equals(left, right) or less(right, left),
    }

    def __init__(self, left: Node, operator: str, right: Node) -> None:
        self.left, self.operator, self.right = left, operator, right

    def evaluate(self, scope: Scope) -> Any:
        """Return the truth of the comparison."""
        left, right = self.left.evaluate(scope), self.right.evaluate(scope)
        for side in (left, right):
            if isinstance(side, str):
                scope.spend(len(side))
        return self._OPERATORS[self.operator](left, right)

    def children(self) -> Sequence[Node]:
        """Return both sides."""
        return (self.left, self.right)


class Logical(Node):
    """A chain of ``&&`` or of ``||``: the first operand that decides it, else the last one."""

    __slots__ = ("operands", "stop_at")

    def __init__(self, operator: str, operands: Sequence[Node]) -> None:
        self.stop_at = operator == "||"
        self.operands = operands

    def evaluate(self, scope: Scope) -> Any:
        """Return the deciding operand's own value; later operands are not evaluated."""
        value = None
        for operand in self.operands:
            value = operand.evaluate(scope)
            if truthy(value) is self.stop_at:
                break
        return value

    def children(self) -> Sequence[Node]:
        """Return the operands."""
        return self.operands


class Index(Node):
    """``a.b``, ``a[b]``, and with *key* None ``a.*`` or ``a[*]``."""

    __slots__ = ("key", "target")

    def __init__(self, target: Node, key: Node | None) -> None:
        self.target, self.key = target, key

    def evaluate(self, scope: Scope) -> Any:
        """Return what stands at the key, null where nothing does, a `Filtered` for ``*``."""
        target = self.target.evaluate(scope)
        if self.key is None:
            return self._star(target, scope)
        key = self.key.evaluate(scope)
        if isinstance(target, Filtered):
            scope.made(len(target))
            found = (_at(item, key, scope) for item in target)
            return Filtered(item for item in found if item is not _MISSING)
        value = _at(target, key, scope)
        return None if value is _MISSING else value

    @staticmethod
    def _star(target: Any, scope: Scope) -> Filtered:
        if not isinstance(target, Filtered):
            values = _values_of(target)
            scope.made(len(values))
            return Filtered(values)
        result = Filtered()
        for item in target:
            values = _values_of(item)
            result.extend(values)
            scope.made(len(values) + 1)
        return result

    def children(self) -> Sequence[Node]:
        """Return the target and, unless it is a star, the key."""
        return (self.target,) if self.key is None else (self.target, self.key)


def _values_of(value: Any) -> Sequence[Any]:
    if isinstance(value, Opaque):
        raise OpaqueValue(value)
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else ()


def _at(target: Any, key: Any, scope: Scope) -> Any:
    """Return what *target* has at *key*, `_MISSING` if nothing."""
    if isinstance(target, Opaque):
        raise OpaqueValue(target)
    if isinstance(target, Mapping):
        if not is_primitive(key):
            return _MISSING
        name = to_string(key)
        if isinstance(target, dict):
            if name in target:
                return target[name]
            scope.spend(len(target))
        return lookup(target, name, _MISSING)
    if not isinstance(target, (list, tuple)):
        return _MISSING
    number = to_number(key)
    if math.isnan(number) or number < 0 or number > _INDEX_MAX:
        return _MISSING
    index = math.floor(number)
    return target[index] if index < len(target) else _MISSING


class Call(Node):
    """A function call. Built-in functions get their arguments unevaluated, others evaluated."""

    __slots__ = ("arguments", "builtin", "name", "offset")

    def __init__(
        self,
        name: str,
        offset: int,
        arguments: Sequence[Node],
        builtin: Callable[[Scope, Sequence[Node]], Any] | None,
    ) -> None:
        self.name, self.offset, self.arguments = name, offset, arguments
        self.builtin = builtin

    def evaluate(self, scope: Scope) -> Any:
        """Return the function's result; raises `ExpressionError` if it is not to be had here."""
        if self.builtin is not None:
            return self.builtin(scope, self.arguments)
        function = lookup(scope.functions, self.name)
        if function is None:
            raise located("parsing", "Unrecognized function", self.name, self.offset, scope.source)
        return function(*(argument.evaluate(scope) for argument in self.arguments))

    def children(self) -> Sequence[Node]:
        """Return the arguments."""
        return self.arguments
