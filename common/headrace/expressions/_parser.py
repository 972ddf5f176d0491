"""Tokens to tree, by recursive descent: ``||``, ``&&``, ``== !=``, ``< <= > >=``, ``!``, index.

The nesting that counts towards `DEPTH_MAX`, and the token that each error names, are GitHub's.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping

from headrace.expressions._errors import DEPTH_MAX, ExpressionError
from headrace.expressions._functions import BUILTIN, Signature
from headrace.expressions._lexer import Token, TokenKind, located, tokens_of
from headrace.expressions._nodes import (
    Call,
    Comparison,
    Index,
    Literal,
    Logical,
    Name,
    Node,
    Not,
)

_EQUALITY: tuple[TokenKind, ...] = ("==", "!=")
_ORDER: tuple[TokenKind, ...] = ("<", "<=", ">", ">=")


class Parser:
    """Reads one expression. *contexts* None allows every name; *functions* beside the built-in."""

    def __init__(
        self,
        source: str,
        contexts: Collection[str] | None,
        functions: Mapping[str, Signature],
    ) -> None:
        self._source = source
        self._contexts = None if contexts is None else {name.lower() for name in contexts}
        self._functions = functions
        self._tokens = tokens_of(source)
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        """Return the tree; an expression without tokens is null.

        Raises `ExpressionError` of kind `parsing`.
        """
        if self._at_end():
            return Literal(None)
        node = self._expression()
        if not self._at_end():
            raise self._unexpected()
        return node

    @property
    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _at_end(self) -> bool:
        return self._tokens[self._at].kind == "end"

    def _accept(self, *kinds: TokenKind) -> Token | None:
        token = self._tokens[self._at]
        if token.kind not in kinds:
            return None
        self._at += 1
        return token

    def _expect(self, kind: TokenKind) -> None:
        if self._accept(kind) is None:
            raise self._unexpected()

    def _unexpected(self) -> ExpressionError:
        if self._at_end():
            return self._error("Unexpected end of expression", self._tokens[self._at - 1])
        return self._error("Unexpected symbol", self._peek)

    def _error(self, what: str, token: Token) -> ExpressionError:
        return located("parsing", what, token.text, token.offset, self._source)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise ExpressionError("parsing", f"Exceeded max expression depth {DEPTH_MAX}")

    def _expression(self) -> Node:
        self._deeper()
        node = self._chain("||", self._conjunction)
        self._depth -= 1
        return node

    def _conjunction(self) -> Node:
        return self._chain("&&", self._equality)

    def _chain(self, operator: TokenKind, operand: Callable[[], Node]) -> Node:
        first = operand()
        if self._peek.kind != operator:
            return first
        self._deeper()
        operands = [first]
        while self._accept(operator):
            operands.append(operand())
        self._depth -= 1
        return Logical(operator, operands)

    def _equality(self) -> Node:
        return self._binary(_EQUALITY, self._order)

    def _order(self) -> Node:
        return self._binary(_ORDER, self._unary)

    def _binary(self, operators: tuple[TokenKind, ...], operand: Callable[[], Node]) -> Node:
        node = operand()
        chained = 0
        while token := self._accept(*operators):
            # The tree leans to the left, and evaluation goes down it: as deep as it is long.
            self._deeper()
            chained += 1
            node = Comparison(node, token.kind, operand())
        self._depth -= chained
        return node

    def _unary(self) -> Node:
        if not self._accept("!"):
            return self._index()
        self._deeper()
        node = Not(self._unary())
        self._depth -= 1
        return node

    def _index(self) -> Node:
        indexable = self._peek.kind in ("name", "(")
        node = self._primary()
        depth = self._depth
        while indexable:
            if self._accept("["):
                key = None if self._accept("*") else self._expression()
                self._expect("]")
                self._deeper()
            elif self._accept("."):
                self._deeper()
                if token := self._accept("name"):
                    key = Literal(token.text)
                elif self._accept("*"):
                    key = None
                else:
                    raise self._unexpected()
            else:
                break
            node = Index(node, key)
        self._depth = depth
        return node

    def _primary(self) -> Node:
        if token := self._accept("constant", "number", "string"):
            return Literal(token.value)
        if token := self._accept("name"):
            return self._call(token) if self._accept("(") else self._name(token)
        if self._accept("("):
            node = self._expression()
            self._expect(")")
            return node
        raise self._unexpected()

    def _name(self, token: Token) -> Node:
        if self._contexts is not None and token.text.lower() not in self._contexts:
            raise self._error("Unrecognized named-value", token)
        return Name(token.text, token.offset)

    def _call(self, token: Token) -> Node:
        name = token.text.lower()
        builtin = BUILTIN.get(name)
        signature = builtin[0] if builtin else self._functions.get(name)
        if signature is None:
            error = self._error("Unrecognized function", token)
            near = difflib.get_close_matches(name[:200], (*BUILTIN, *self._functions), n=1)
            error.hint = f"did you mean '{near[0]}'?" if near else ""
            raise error
        arguments: list[Node] = []
        if not self._accept(")"):
            arguments.append(self._expression())
            while self._accept(","):
                arguments.append(self._expression())
            self._expect(")")
        if len(arguments) < signature.least:
            raise self._error("Too few parameters supplied", token)
        if len(arguments) > signature.most:
            raise self._error("Too many parameters supplied", token)
        if name == "case" and len(arguments) % 2 == 0:
            raise self._error(
                "Even number of parameters supplied, requires an odd number of parameters", token
            )
        return Call(token.text, token.offset, arguments, builtin[1] if builtin else None)
