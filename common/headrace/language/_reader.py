"""Reads values out of the tree: types, expressions, and what is wrong with them.

Every method takes a node, or None for a key that is absent; null counts as absent. A problem is
noted in the report and some harmless value returned, so that one reading finds all problems.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from headrace.expressions import (
    Expression,
    ExpressionError,
    parse,
    parse_template,
    to_string,
)
from headrace.language import _yaml
from headrace.language._report import Place, Report, did_you_mean
from headrace.language._scope import Names, Scope
from headrace.language._values import duration_ms
from headrace.language._yaml import Scalar, Sequence, Tree, to_json


class Reader:
    """Reads one file's tree into *report*."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.names = Names(report)

    # -- shapes -----------------------------------------------------------------------------

    def mapping(
        self,
        node: Tree | None,
        what: str,
        allowed: Collection[str] | None = None,
        unsupported: Mapping[str, str] | None = None,
    ) -> dict[str, Tree]:
        """Return the entries of a mapping, without those that are not *allowed* (None: any)."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return {}
        if not isinstance(node, _yaml.Mapping):
            self.report.add(f"{what} must be a mapping, not {shape(node)}", node)
            return {}
        if allowed is None:
            return node.entries
        if node.entries.keys() <= set(allowed):
            return node.entries
        found: dict[str, Tree] = {}
        for key, value in node.entries.items():
            if key in allowed:
                found[key] = value
            elif unsupported and key in unsupported:
                self.report.add(f"'{key}' is not supported", node.keys[key], unsupported[key])
            else:
                hint = did_you_mean(key, allowed) or "keys: " + ", ".join(sorted(allowed))
                self.report.add(f"unknown key '{key}' in {what}", node.keys[key], hint)
        return found

    def sequence(self, node: Tree | None, what: str) -> list[Tree]:
        """Return the items of a list."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return []
        if not isinstance(node, Sequence):
            self.report.add(f"{what} must be a list, not {shape(node)}", node)
            return []
        return node.items

    # -- scalars ----------------------------------------------------------------------------

    def text(self, node: Tree | None, what: str, scope: Scope | None = None) -> str:
        """Return a scalar as it is written; with *scope* it may hold expressions."""
        if node is None:
            return ""
        if not isinstance(node, Scalar):
            self.report.add(f"{what} must be text, not {shape(node)}", node)
            return ""
        if node.value is None:
            return ""
        if "${{" in node.text:
            self.template(node, what, scope)
        return node.text

    def texts(self, node: Tree | None, what: str, scope: Scope | None = None) -> list[str]:
        """Return one text or a list of them."""
        return [text for text, _ in self.placed_texts(node, what, scope)]

    def placed_texts(
        self, node: Tree | None, what: str, scope: Scope | None = None
    ) -> list[tuple[str, Place]]:
        """Return one text or a list of them, each with its place."""
        if isinstance(node, Sequence):
            items: Iterable[Tree] = node.items
        else:
            items = () if node is None else (node,)
        pairs = ((self.text(item, what, scope), item) for item in items)
        return [(text, item) for text, item in pairs if text]

    def flag(self, node: Tree | None, what: str, scope: Scope | None = None) -> bool | str:
        """Return true or false, or with *scope* an expression; False if absent."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return False
        if isinstance(node, Scalar):
            if isinstance(node.value, bool):
                return node.value
            if scope is not None and self.is_expression(node, what, scope):
                return node.text
        self.report.add(f"{what} must be true or false, not {shape(node)}", node)
        return False

    def boolean(self, node: Tree | None, what: str) -> bool:
        """Return true or false; False if absent."""
        return self.flag(node, what) is True

    def integer(self, node: Tree | None, what: str, least: int, most: int) -> int | None:
        """Return a whole number from *least* to *most*; None if absent."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, bool) or not isinstance(value, int):
            self.report.add(f"{what} must be a whole number, not {shape(node)}", node)
            return None
        if not least <= value <= most:
            self.report.add(f"{what} must be from {least} to {most}, not {value}", node)
            return None
        return value

    def count(self, node: Tree | None, what: str, scope: Scope) -> int | str | None:
        """Return a number from 1, or an expression; None if absent."""
        if isinstance(node, Scalar) and isinstance(node.value, str):
            if self.is_expression(node, what, scope):
                return node.text
            self.report.add(f"{what} must be a number, not {shape(node)}", node)
            return None
        return self.integer(node, what, 1, 1_000_000)

    def number(self, node: Tree | None, what: str, least: float, most: float) -> float | None:
        """Return a number from *least* to *most*; None if absent."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.report.add(f"{what} must be a number, not {shape(node)}", node)
            return None
        if not least <= value <= most:
            self.report.add(f"{what} must be from {least:g} to {most:g}, not {value:g}", node)
            return None
        return float(value)

    def choice(self, node: Tree | None, what: str, options: Collection[str]) -> str | None:
        """Return one of *options*; None if absent."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        text = node.text if isinstance(node, Scalar) else ""
        if text in options:
            return text
        allowed = ", ".join(options)
        found = f"'{text}'" if text else shape(node)
        hint = did_you_mean(text, options) if text else ""
        self.report.add(f"{what} must be one of {allowed}, not {found}", node, hint)
        return None

    def duration(self, node: Tree | None, what: str) -> int | None:
        """Return a duration in ms (``10s``, ``1h30m``, seconds), more than 0; None if absent."""
        if node is None or (isinstance(node, Scalar) and node.value is None):
            return None
        value_ms = None
        if isinstance(node, Scalar) and not isinstance(node.value, bool):
            value_ms = duration_ms(node.text)
        if not value_ms:
            hint = "write 500ms, 90s, 1h30m, 3d, or a number of seconds"
            self.report.add(f"{what} must be a duration, not {shape(node)}", node, hint)
            return None
        return value_ms

    def duration_or_expression(
        self, node: Tree | None, what: str, scope: Scope
    ) -> int | str | None:
        """Return a duration in ms, or an expression that gives one; None if absent."""
        if isinstance(node, Scalar) and self.is_expression(node, what, scope):
            return node.text
        return self.duration(node, what)

    def minutes(self, node: Tree | None, what: str, scope: Scope) -> int | str | None:
        """Return a number of minutes in ms, or an expression that gives minutes."""
        if isinstance(node, Scalar) and self.is_expression(node, what, scope):
            return node.text
        value = self.number(node, what, 0, 60 * 24 * 366 * 100)
        if value is None:
            return None
        if value <= 0:
            self.report.add(f"{what} must be more than 0", node)
            return None
        return max(1, round(value * 60_000))

    # -- collections ------------------------------------------------------------------------

    def environment(self, node: Tree | None, what: str, scope: Scope | None) -> dict[str, str]:
        """Return names and texts; numbers and booleans as GitHub prints them, null as ''."""
        result: dict[str, str] = {}
        for name, value in self.mapping(node, what).items():
            if not isinstance(value, Scalar):
                self.report.add(f"{what}: '{name}' must be text, not {shape(value)}", value)
                continue
            if "${{" in value.text:
                self.template(value, f"{what}: '{name}'", scope)
            result[name] = value.text if isinstance(value.value, str) else to_string(value.value)
        return result

    def json(self, node: Tree, what: str, scope: Scope | None) -> Any:
        """Return *node* as JSON, its strings (and keys) checked for expressions."""
        self._check_json(node, what, scope)
        return to_json(node)

    def _check_json(self, node: Tree, what: str, scope: Scope | None) -> None:
        if isinstance(node, Scalar):
            if "${{" in node.text:
                self.template(node, what, scope)
        elif isinstance(node, Sequence):
            for item in node.items:
                self._check_json(item, what, scope)
        else:
            for key, value in node.entries.items():
                if "${{" in key:
                    self.template(node.keys[key], what, scope)
                self._check_json(value, what, scope)

    # -- expressions ------------------------------------------------------------------------

    def template(self, node: Scalar, what: str, scope: Scope | None) -> None:
        """Check the ``${{ }}`` parts of a text."""
        if scope is None:
            self.report.add(f"{what} cannot hold an expression", node)
            return
        try:
            parts = parse_template(node.text)
        except ExpressionError as error:
            place = self.report.inside(node, max(error.offset, 0))
            self.report.add(f"invalid expression: {error.message}", place, error.hint)
            return
        for part in parts:
            if isinstance(part, Expression):
                self.names.check(part, node, what, scope, condition=False)

    def is_expression(self, node: Scalar, what: str, scope: Scope) -> bool:
        """Tell whether a scalar is text with an expression in it; checks the expression."""
        if not isinstance(node.value, str) or "${{" not in node.text:
            return False
        self.template(node, what, scope)
        return True

    def condition(self, node: Tree | None, what: str, scope: Scope) -> str:
        """Return an `if:` without ``${{ }}``; '' if absent."""
        if node is None:
            return ""
        if not isinstance(node, Scalar):
            self.report.add(f"{what} must be an expression, not {shape(node)}", node)
            return ""
        source = "" if node.value is None else node.text.strip()
        if "${{" in source:
            source = self._unwrapped(source, node)
        if not source:
            return ""
        try:
            expression = parse(source)
        except ExpressionError as error:
            self._bad_condition(error, source, node)
            return ""
        self.names.check(expression, node, what, scope, condition=True)
        return source

    def _bad_condition(self, error: ExpressionError, source: str, node: Scalar) -> None:
        index = max(node.text.find(source), 0) + max(error.offset, 0)
        place = self.report.inside(node, index)
        self.report.add(f"invalid expression: {error.message}", place, error.hint)

    def _unwrapped(self, source: str, node: Scalar) -> str:
        try:
            parts = parse_template(source)
        except ExpressionError as error:
            self._bad_condition(error, source, node)
            return ""
        if len(parts) == 1 and isinstance(parts[0], Expression):
            return parts[0].source
        self.report.add(
            "text around ${{ }} makes this condition true always",
            node,
            "put the whole condition inside one ${{ }}, or leave ${{ }} out",
        )
        return ""


def shape(node: Tree | None) -> str:
    """Return what *node* is, for messages."""
    if node is None:
        return "nothing"
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, _yaml.Mapping):
        return "a mapping"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    if isinstance(node.value, (int, float)):
        return f"the number {node.text[:40]}"
    text = node.text if len(node.text) <= 40 else node.text[:40] + "…"
    return f"'{text}'"
