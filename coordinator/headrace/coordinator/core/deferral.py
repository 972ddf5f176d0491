"""Expressions that only the worker can evaluate.

Those are: `secrets`, `runner`, `hashFiles`, variables (`vars`) that the workflow does not declare,
whatever looks at a value that lies in the object store, and whatever reads an `env` that is written
with any of these. A string with such an expression travels as it stands, with what it reads of the
contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from headrace.expressions import (
    Expression,
    ExpressionError,
    Opaque,
    OpaqueValue,
    fold,
    lookup,
    resolve,
    template_expressions,
    to_string,
)

_CONTEXTS = frozenset({"secrets", "runner"})
_FUNCTIONS = frozenset({"hashfiles"})
PLACES = "$at"
ENV = "$env"
"""Levels of the environment, the outer one first: ``[plain, texts]`` each."""
SECRETS = "$secrets"
"""Of calls around the step, the outermost first: ``[texts, what they read]`` each."""
CONDITION = "$if"
"""The step's condition; if it does not hold, the step is skipped."""
STATUS = "$status"
"""What `success()` and its like are there, by name."""

Functions = Mapping[str, Callable[..., Any]]


class EnvLevel(NamedTuple):
    """One level of the environment: what is known, and texts that the worker evaluates."""

    plain: dict[str, str]
    texts: dict[str, str]


class Contexts(Protocol):
    """The contexts of a place, with an environment that may be the worker's to evaluate."""

    def __getitem__(self, name: str, /) -> Any:
        """Return a context; raises `KeyError`."""
        ...

    def env_levels(self) -> list[EnvLevel]:
        """Return the levels of `env` that are there so far."""
        ...


def resolve_for_worker(
    value: Any,
    contexts: Contexts,
    functions: Functions,
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
        if not any(is_the_workers(expression, contexts) for expression in expressions):
            try:
                found = resolve(value, contexts, functions)  # type: ignore[arg-type]
            except OpaqueValue:
                pass
            else:
                if not (texts and isinstance(found, Opaque)):
                    return plain(found)
        defer(expressions, contexts, deferred)
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


def is_always_the_workers(expression: Expression) -> bool:
    """Tell whether only a worker can evaluate *expression*, wherever it stands."""
    return bool(expression.names() & _CONTEXTS or expression.functions() & _FUNCTIONS)


def is_the_workers(expression: Expression, contexts: Contexts) -> bool:
    """Tell whether only a worker can evaluate *expression* in the place of *contexts*."""
    if is_always_the_workers(expression):
        return True
    names = expression.names()
    if "vars" in names:
        declared, read = contexts["vars"], expression.properties()["vars"]
        if read is None or any(lookup(declared, key, declared) is declared for key in read):
            return True
    return "env" in names and _reads_hidden_env(expression, contexts)


def _reads_hidden_env(expression: Expression, contexts: Contexts) -> bool:
    # Asked for first: to ask for `env` is what makes its levels.
    assert contexts["env"] is not None
    hidden = {fold(name) for level in contexts.env_levels() for name in level.texts}
    if not hidden:
        return False
    read = expression.properties()["env"]
    return read is None or not hidden.isdisjoint(map(fold, read))


def split_env(written: Mapping[str, Any], contexts: Contexts, functions: Functions) -> EnvLevel:
    """Return *written* as a level: evaluated where that can be done here."""
    level = EnvLevel({}, {})
    for name, text in written.items():
        noted: dict[str, Any] = {}
        value = resolve_for_worker(text, contexts, functions, noted, (), texts=True)
        if PLACES in noted:
            level.texts[name] = text
        else:
            level.plain[name] = to_string(value)
    return level


def defer_env(contexts: Contexts, deferred: dict[str, Any]) -> bool:
    """Add the environment to *deferred* if a part of it is the worker's; tell whether it is."""
    levels = contexts.env_levels()
    if not any(level.texts for level in levels):
        return False
    if ENV not in deferred:
        deferred[ENV] = [list(level) for level in levels]
        for level in levels:
            for text in level.texts.values():
                defer(template_expressions(text), contexts, deferred)
    return True


def defer(expressions: Iterable[Expression], contexts: Contexts, deferred: dict[str, Any]) -> None:
    """Add to *deferred* what the expressions read: named properties, or whole contexts."""
    for expression in expressions:
        for name, properties in expression.properties().items():
            if name in _CONTEXTS:
                continue
            context = _context(contexts, name)
            if name == "env" and defer_env(contexts, deferred):
                continue
            if properties is None or not isinstance(context, Mapping):
                deferred[name] = plain(context)
                continue
            known = deferred.setdefault(name, {})
            for key in properties:
                found = lookup(context, key, known)
                if found is not known:
                    known[key] = plain(found)


def _context(contexts: Contexts, name: str) -> Any:
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
