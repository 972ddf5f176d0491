"""Expressions that only the worker can evaluate: `secrets`, its `vars`, `runner`, `hashFiles`.

They are evaluated right before the handler starts, in its inputs and env alone, and every secret
of this worker is hidden in the step's output from then on.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from headrace.errors import HeadraceError
from headrace.expressions import (
    Opaque,
    OpaqueValue,
    parse,
    resolve,
    template_expressions,
    truthy,
)
from headrace.payloads import reference as reference_of
from headrace.payloads import replaced
from headrace.worker.handlers import Context, HandlerError
from headrace.worker.scalars import text_of

PLACES: Final = "$at"
"""Key in `TaskOptions.deferred`: paths (``["inputs", "run"]``, ``["env", "TOKEN"]``) of the strings
to evaluate. All others are data, and may have come from anybody: data is never evaluated."""
ENV: Final = "$env"
"""Key: levels of the environment, ``[plain, texts]`` each; the texts see the level before."""
SECRETS: Final = "$secrets"
"""Key: of calls around the step, the outermost first, ``[texts, what they read]`` each; each level
sees the secrets of the one before, and nothing else is a secret inside."""
CONDITION: Final = "$if"
"""Key: the step's condition."""
STATUS: Final = "$status"
"""Key: by name, what `success()` and its like are in the condition."""
_KEYS: Final = frozenset((PLACES, ENV, SECRETS, CONDITION, STATUS))

HASH_FILES_MAX: Final = 100_000


class Known(NamedTuple):
    """What this worker knows beside the run."""

    secrets: Mapping[str, str] = {}
    variables: Mapping[str, str] = {}


class Filler(Protocol):
    """Fetches what lies in the object store."""

    async def filled(self, value: Any) -> Any:
        """Return *value* with every reference replaced by what it stands for."""
        ...


async def resolved(
    ctx: Context,
    inputs: Any,
    contexts: Mapping[str, Any],
    known: Known,
    filler: Filler,
) -> tuple[Any, dict[str, str]]:
    """Return *inputs* and env with their expressions evaluated, in a thread.

    Of what lies in the object store only that is fetched which an expression looks at, or which
    it passes on. Raises `HandlerError` of type `invalid-expression`, and what *filler* raises.
    """
    fetched: dict[str, Any] = {}

    def make(reference: dict[str, Any]) -> Any:
        blob = reference_of(reference)
        assert blob is not None
        return fetched.get(blob.ref, Opaque(reference))

    while True:
        seen = {name: replaced(value, make) for name, value in contexts.items()}
        call = functools.partial(resolve_deferred, ctx, inputs, seen, known)
        try:
            found, env = await asyncio.to_thread(call)
        except OpaqueValue as error:
            blob = reference_of(error.value)
            if blob is None or blob.ref in fetched:
                raise HandlerError("invalid-expression", str(error), retryable=False) from error
            fetched[blob.ref] = await filler.filled(dict(error.value))
            continue
        return await _with_passed_on(found, filler), env


async def _with_passed_on(value: Any, filler: Filler) -> Any:
    """Fill in what expressions have passed on unseen; data that only looks so stays data."""
    if isinstance(value, Opaque):
        return await filler.filled(dict(value))
    if isinstance(value, dict):
        return {key: await _with_passed_on(item, filler) for key, item in value.items()}
    if isinstance(value, list):
        return [await _with_passed_on(item, filler) for item in value]
    return value


def resolve_deferred(
    ctx: Context, inputs: Any, contexts: Mapping[str, Any], known: Known
) -> tuple[Any, dict[str, str]]:
    """Return *inputs* and env with their expressions evaluated. Reads files: call it in a thread.

    Raises `NotWanted`, `HandlerError` of type `invalid-expression`, and `OpaqueValue` when an
    expression looks at what is not here.
    """
    functions: dict[str, Callable[..., Any]] = {"hashfiles": hash_files(lambda: ctx.workspace)}
    try:
        available = _available(ctx, contexts, known, functions)
        value = {"inputs": inputs, "env": ctx.env}
        _tell_unknown(ctx, _texts(value, contexts), available)
        if ENV in contexts:
            available["env"] = _environment(contexts[ENV], available, functions)
            value["env"] = {**ctx.env, **available["env"]}
        if CONDITION in contexts:
            asked = functions | _status(contexts.get(STATUS, {}))
            if not truthy(parse(contexts[CONDITION]).evaluate(available, asked)):
                raise NotWanted
        if _KEYS & contexts.keys():
            resolved = _resolve_at(value, contexts.get(PLACES, ()), available, functions)
        else:
            resolved = resolve(value, available, functions)
    except OpaqueValue:
        raise
    except HeadraceError as error:
        raise HandlerError("invalid-expression", str(error), retryable=False) from error
    env = {str(name): _text(item) for name, item in resolved["env"].items()}
    return resolved["inputs"], env


class NotWanted(Exception):
    """The step's condition does not hold: it is skipped."""


def _available(
    ctx: Context,
    contexts: Mapping[str, Any],
    known: Known,
    functions: Mapping[str, Callable[..., Any]],
) -> dict[str, Any]:
    """Return the contexts of the step: those that came with it, and what this worker knows."""
    runner = runner_context()
    secrets: dict[str, Any] = dict(known.secrets)

    def complete(sent: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: value for name, value in sent.items() if name not in _KEYS}
        found["vars"] = _variables(sent.get("vars"), known.variables)
        return found | {"secrets": secrets, "runner": runner}

    for texts, read in contexts.get(SECRETS, ()):
        made = _resolve_at(texts, read.get(PLACES, ()), complete(read), functions)
        secrets = {name: _text(value) for name, value in made.items()}
        for value in secrets.values():
            # Perhaps made of a secret, and always meant as one.
            ctx.output.masker.add(value)
    return complete(contexts)


def _environment(
    levels: Iterable[tuple[dict[str, str], dict[str, str]]],
    available: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
) -> dict[str, str]:
    env: dict[str, str] = {}
    for plain, texts in levels:
        seen = {**available, "env": env}
        found = {name: _text(resolve(text, seen, functions)) for name, text in texts.items()}
        env = {**env, **plain, **found}
    return env


def _status(known: Mapping[str, bool]) -> dict[str, Callable[..., Any]]:
    """Return the status functions, as the coordinator has found them."""

    def make(name: str, value: bool) -> Callable[..., Any]:
        def function(*jobs: object) -> bool:
            if jobs:
                text = f"{name}() takes no names beside what only the worker knows"
                raise HandlerError("invalid-expression", text, False)
            return value

        return function

    return {name: make(name, value) for name, value in known.items()}


def _variables(declared: Any, offered: Mapping[str, str]) -> dict[str, Any]:
    """Return the `vars` context: what the workflow declares is fixed, the rest is the worker's."""
    found: dict[str, Any] = dict(declared) if isinstance(declared, Mapping) else {}
    taken = {name.lower() for name in found}
    return found | {name: value for name, value in offered.items() if name.lower() not in taken}


def _texts(value: Any, contexts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts with expressions for this worker."""
    for place in contexts.get(PLACES, ()):
        text: Any = value
        for step in place:
            if isinstance(text, list) and isinstance(step, int):
                text = text[step]
            else:
                text = text.get(step) if isinstance(text, dict) else None
        if isinstance(text, str):
            yield text
    for _, texts in contexts.get(ENV, ()):
        yield from texts.values()


def _tell_unknown(ctx: Context, texts: Iterable[str], available: Mapping[str, Any]) -> None:
    """Say which secrets and variables are not set here: they are empty, as on GitHub."""
    told: set[str] = set()
    for text in texts:
        for expression in template_expressions(text):
            for context in ("secrets", "vars"):
                there = {name.lower() for name in available[context]}
                for name in expression.properties().get(context) or ():
                    if name.lower() not in there:
                        told.add(f"{context}.{name}")
    for name in sorted(told):
        ctx.log(f"{name} is not set on this worker: it is empty", stream="system")


def runner_context() -> dict[str, str]:
    """Return GitHub's `runner` context for this machine."""
    system = {"Linux": "Linux", "Darwin": "macOS", "Windows": "Windows"}
    machine = {"x86_64": "X64", "AMD64": "X64", "aarch64": "ARM64", "arm64": "ARM64"}
    return {
        "os": system.get(platform.system(), platform.system()),
        "arch": machine.get(platform.machine(), platform.machine()),
        "name": platform.node(),
        "temp": tempfile.gettempdir(),
    }


def hash_files(workspace: Callable[[], Path]) -> Callable[..., str]:
    """Return the function `hashFiles`: SHA-256 over the SHA-256 of each matching file, sorted."""

    def function(*patterns: object) -> str:
        root = workspace()
        found: dict[Path, None] = {}
        for text in (line.strip() for pattern in patterns for line in str(pattern).splitlines()):
            if text.startswith("!"):
                for path in _matches(root, text[1:].lstrip()):
                    found.pop(path, None)
            elif text and text != _FOLLOW:
                found.update(dict.fromkeys(_matches(root, text)))
        if not found:
            return ""
        total = hashlib.sha256()
        for path in sorted(found):
            try:
                with path.open("rb") as file:
                    total.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                text = f"hashFiles: cannot read {path.name}: {error.strerror}"
                raise HandlerError("invalid-expression", text, False) from error
        return total.hexdigest()

    return function


_FOLLOW: Final = "--follow-symbolic-links"
"""GitHub's option: links are followed here in any case."""


def _matches(root: Path, pattern: str) -> Iterator[Path]:
    relative = pattern.removeprefix("./").lstrip("/")
    if not relative or ".." in Path(relative).parts:
        raise HandlerError("invalid-expression", f"hashFiles: {pattern!r} leaves the workspace")
    try:
        for count, path in enumerate(root.glob(relative)):
            if count >= HASH_FILES_MAX:
                text = f"hashFiles: {pattern!r} matches over {HASH_FILES_MAX} files"
                raise HandlerError("invalid-expression", text, False)
            if path.is_file():
                yield path
    except (ValueError, NotImplementedError, OSError) as error:
        text = f"hashFiles: {pattern!r}: {error}"
        raise HandlerError("invalid-expression", text, False) from error


def _resolve_at(
    value: Any,
    places: Iterable[Iterable[str | int]],
    contexts: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
) -> Any:
    """Evaluate the strings at *places*; *value* is changed only in copies of what leads there."""
    for place in places:
        value = _replaced(value, list(place), contexts, functions)
    return value


def _replaced(
    value: Any,
    place: list[str | int],
    contexts: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
) -> Any:
    if not place:
        return resolve(value, contexts, functions)
    head, rest = place[0], place[1:]
    if isinstance(value, dict) and head in value:
        return value | {head: _replaced(value[head], rest, contexts, functions)}
    if isinstance(value, list) and isinstance(head, int) and 0 <= head < len(value):
        return [
            _replaced(item, rest, contexts, functions) if index == head else item
            for index, item in enumerate(value)
        ]
    raise HandlerError("invalid-expression", f"nothing at {place!r} to evaluate", False)


def _text(value: Any) -> str:
    if isinstance(value, Opaque):
        raise OpaqueValue(value)
    return text_of(value)
