"""Expressions that only the worker can evaluate.

Those are: `secrets`, `runner`, `hashFiles`, variables (`vars`) that the workflow does not declare,
`env` that is written with any of these, and whatever looks at a value that lies in the object
store. A string with such an expression travels as it stands, with what it reads of the contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headrace.expressions import (
    Expression,
    ExpressionError,
    Opaque,
    OpaqueValue,
    lookup,
    resolve,
    template_expressions,
)

_CONTEXTS = frozenset({"secrets", "runner"})
PLACES = "$at"
_FUNCTIONS = frozenset({"hashfiles"})


def resolve_for_worker(
    value: Any,
    contexts: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
    deferred: dict[str, Any],
    place: tuple[str | int, ...],
    *,
    texts: bool = False,
) -> Any:
    """Return *value* with its expressions evaluated, but for those that only a worker can.

    What these need of the contexts is added to *deferred*, and where they stand (below *place*)
    under ``$at``: all other strings are data by then, and data is never evaluated. *texts*: every
    result is going to be text, so a value in the object store cannot just be passed on. Raises
    `ExpressionError`.
    """
    if isinstance(value, str):
        if "${{" not in value:
            return value
        expressions = template_expressions(value)
        if not any(_is_the_workers(expression, contexts) for expression in expressions):
            try:
                found = resolve(value, contexts, functions)
            except OpaqueValue:
                pass
            else:
                if not (texts and isinstance(found, Opaque)):
                    return plain(found)
        _defer(expressions, contexts, deferred)
        deferred.setdefault(PLACES, []).append(list(place))
        return value
    if isinstance(value, dict):
        return {
            key: resolve_for_worker(item, contexts, functions, deferred, (*place, key), texts=texts)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            resolve_for_worker(item, contexts, functions, deferred, (*place, index), texts=texts)
            for index, item in enumerate(value)
        ]
    return value


def _is_the_workers(expression: Expression, contexts: Mapping[str, Any]) -> bool:
    names = expression.names()
    if names & _CONTEXTS or expression.functions() & _FUNCTIONS:
        return True
    return not names.isdisjoint(("vars", "env")) and _reads_beyond(expression, contexts)


def _reads_beyond(expression: Expression, contexts: Mapping[str, Any]) -> bool:
    """Tell whether *expression* reads variables or `env` that are not known here."""
    read = expression.properties()
    if "vars" in read:
        declared, wanted = contexts["vars"], read["vars"]
        if wanted is None or any(lookup(declared, key, declared) is declared for key in wanted):
            return True
    if "env" not in read:
        return False
    env, wanted = contexts["env"], read["env"]
    late: Iterable[str] = getattr(contexts, "secret_env", ())
    if wanted is None:
        return any(name in env for name in late)
    folded = {key.lower() for key in wanted}
    return any(name.lower() in folded for name in late)


def _defer(
    expressions: Iterable[Expression], contexts: Mapping[str, Any], deferred: dict[str, Any]
) -> None:
    """Add to *deferred* what the expressions read: named properties, or whole contexts."""
    for expression in expressions:
        for name, properties in expression.properties().items():
            if name in _CONTEXTS:
                continue
            context = _context(contexts, name)
            if properties is None or not isinstance(context, Mapping):
                deferred[name] = plain(context)
                continue
            known = deferred.setdefault(name, {})
            for key in properties:
                found = lookup(context, key, known)
                if found is not known:
                    known[key] = plain(found)


def _context(contexts: Mapping[str, Any], name: str) -> Any:
    try:
        return contexts[name]
    except KeyError:
        raise ExpressionError("parsing", f"Unrecognized named-value: '{name}'") from None


def plain(value: Any) -> Any:
    """Turn lazily built contexts into plain JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
