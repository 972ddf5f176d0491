"""Names in expressions: what may be named where, and what does not exist."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from headrace.expressions import STATUS_FUNCTIONS, Expression
from headrace.language._contexts import (
    ALL,
    GITHUB_HINTS,
    HINTS,
    ITEMS,
    PROPERTIES,
    RUN_PROPERTIES,
    Place,
)
from headrace.language._report import Place as Spot
from headrace.language._report import Report, did_you_mean, near_or_all
from headrace.language._yaml import Scalar

Known = dict[str, str]
"""Names that a context has: in lower case, and as they are written."""


class Scope:
    """What expressions in one place of the file may name.

    *added* are contexts that this part of the file has beside those of the place (variables of
    loops); *known* the names that a context has: one that is not in there is not checked.
    """

    __slots__ = ("added", "contexts", "files", "known")

    def __init__(
        self,
        place: Place,
        known: Mapping[str, Known],
        added: frozenset[str] = frozenset(),
    ) -> None:
        self.contexts = place.contexts | added if added else place.contexts
        self.files = place.files
        self.known = known
        self.added = added

    def at(self, place: Place) -> Scope:
        """Return this scope in another place."""
        return Scope(place, self.known, self.added)

    def with_known(self, **known: Known) -> Scope:
        """Return this scope, with the names of further contexts known."""
        return self._changed({**self.known, **known}, self.added)

    def with_variable(self, name: str) -> Scope:
        """Return this scope inside a loop over *name*."""
        return self._changed(self.known, self.added | {name.lower(), "loop"})

    def with_loop(self) -> Scope:
        """Return this scope inside a loop that has no items."""
        return self._changed(self.known, self.added | {"loop"})

    def with_failure(self) -> Scope:
        """Return this scope in what handles a failure."""
        return self._changed(self.known, self.added | {"failure"})

    def _changed(self, known: Mapping[str, Known], added: frozenset[str]) -> Scope:
        return Scope(Place(self.contexts, self.files), known, added)


_VARS_HINT = "declare it under 'vars:'; a filter sees no others"


class _Reference(NamedTuple):
    known: Known
    path: tuple[str, ...]
    expression: Expression
    node: Scalar


class Names:
    """Checks the names in one file's expressions, and notes in *report* what is wrong."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.job_outputs: dict[str, Known] = {}
        """By job, in lower case, the outputs that it declares."""
        self._references: list[_Reference] = []

    def check(
        self, expression: Expression, node: Scalar, what: str, scope: Scope, *, condition: bool
    ) -> None:
        """Note what *expression* may not name in the place of *scope*."""
        for name in sorted(expression.names() - scope.contexts):
            self._unavailable(name, expression, node, what, scope)
        functions = expression.functions()
        if not condition and functions & STATUS_FUNCTIONS:
            names = ", ".join(sorted(functions & STATUS_FUNCTIONS))
            place = self._place_of(expression, node)
            self._report.add(f"'{names}' is only for conditions ('if:')", place)
        if "hashfiles" in functions and not scope.files:
            place = self._place_of(expression, node)
            hint = "only the worker has files: use it in a step's 'if', 'run', 'with' or 'env'"
            self._report.add(f"'hashFiles' is not available in {what}", place, hint)
        for path in expression.paths():
            if len(path) > 1 and path[0] in scope.contexts:
                self._check_path(path, expression, node, scope)

    def _unavailable(
        self, name: str, expression: Expression, node: Scalar, what: str, scope: Scope
    ) -> None:
        place = self._place_of(expression, node)
        if name in ALL:
            hint = HINTS.get(name, "")
            here = ", ".join(sorted(scope.contexts))
            self._report.add(f"'{name}' is not available in {what} (here: {here})", place, hint)
            return
        self._report.add(
            f"unrecognized name '{name}' in expression: {expression.source}",
            place,
            did_you_mean(name, scope.contexts),
        )

    def _check_path(
        self, path: tuple[str, ...], expression: Expression, node: Scalar, scope: Scope
    ) -> None:
        """Check the properties that a path names; those that come later wait for the end."""
        context, name = path[0], path[1]
        if context in ("github", "run"):
            self._check_run(context, name, expression, node)
            return
        fixed = PROPERTIES.get(context)
        if fixed is not None:
            self._check_property(context, name, fixed, expression, node)
        items = ITEMS.get(context)
        if items is not None and len(path) > 2:
            self._check_property(f"{context}.{name}", path[2], items, expression, node)
        known = scope.known.get(context)
        if context == "vars" and "event" not in scope.contexts:
            return  # the namespace, or the worker that evaluates it, may have it
        if known is not None:
            self._references.append(_Reference(known, path, expression, node))

    def _check_run(self, context: str, name: str, expression: Expression, node: Scalar) -> None:
        if name.lower() in RUN_PROPERTIES:
            return
        hint = GITHUB_HINTS.get(name) if context == "github" else None
        if hint is None:
            self._check_property(context, name, RUN_PROPERTIES, expression, node)
            return
        place = self._place_of(expression, node)
        self._report.add(f"'github.{name}' has no meaning here", place, hint)

    def _check_property(
        self, of: str, name: str, names: Collection[str], expression: Expression, node: Scalar
    ) -> None:
        if name.lower() not in names:
            hint = did_you_mean(name, names) or "it has: " + ", ".join(names)
            if of == "event":
                hint = f"what the publisher has sent is 'event.data': 'event.data.{name}'?"
            self._report.add(
                f"'{of}.{name}' does not exist", self._place_of(expression, node), hint
            )

    def _place_of(self, expression: Expression, node: Scalar) -> Spot:
        return self._report.inside(node, max(node.text.find(expression.source), 0))

    def finish(self) -> None:
        """Note the references to names that do not exist; to be called when all names are known."""
        for known, path, expression, node in self._references:
            context, name = path[0], path[1]
            place = self._place_of(expression, node)
            if name.lower() not in known:
                hint = did_you_mean(name, known.values())
                if context == "vars":
                    hint = hint or _VARS_HINT
                hint = hint or near_or_all(name, known.values())
                self._report.add(f"'{context}.{name}' does not exist", place, hint)
            elif context in ("needs", "jobs") and len(path) > 3 and path[2].lower() == "outputs":
                declared = self.job_outputs.get(name.lower())
                if declared is not None and path[3].lower() not in declared:
                    self._unknown_output(path, declared, place)

    def _unknown_output(self, path: tuple[str, ...], declared: Known, place: Spot) -> None:
        hint = did_you_mean(path[3], declared.values())
        if not hint:
            names = ", ".join(declared.values())
            hint = f"job '{path[1]}' has the outputs: {names}" if names else ""
            hint = hint or f"job '{path[1]}' declares no 'outputs:'"
        self._report.add(f"'{'.'.join(path[:4])}' does not exist", place, hint)
