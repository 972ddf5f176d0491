"""Queries and updates that a workflow function answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from headrace.messages import NOTHING, StepError
from headrace.sdk import _codec
from headrace.sdk._errors import StepFailure, error_of
from headrace.sdk._signature import Signature


class Handlers:
    """By name; the newest one counts."""

    def __init__(self) -> None:
        self._queries: dict[str, tuple[Callable[..., Any], Signature]] = {}
        self._updates: dict[
            str, tuple[Callable[..., Any], Callable[..., Any] | None, Signature]
        ] = {}

    def clear(self) -> None:
        """Forget all of them."""
        self._queries.clear()
        self._updates.clear()

    def add_query(self, name: str, function: Callable[..., Any]) -> None:
        """Let *function*, which takes one argument or none, answer query *name*."""
        self._queries[name] = (function, Signature(function))

    def add_update(
        self, name: str, function: Callable[..., Any], validate: Callable[..., Any] | None
    ) -> None:
        """Let *function* carry out update *name* once *validate* has not raised."""
        self._updates[name] = (function, validate, Signature(function))

    def answer(self, name: str, argument: msgspec.Raw) -> tuple[msgspec.Raw, StepError | None]:
        """Return the answer to a query, or why there is none."""
        found = self._queries.get(name)
        if found is None:
            known = ", ".join(sorted(self._queries)) or "none"
            return NOTHING, StepError("no-such-query", f"no query {name!r} (there are: {known})")
        function, signature = found
        try:
            value = function(*_arguments(signature, argument))
            return msgspec.Raw(_codec.encode(value)), None
        except Exception as error:
            return NOTHING, error_of(error)

    async def update(self, name: str, argument: msgspec.Raw) -> Any:
        """Carry out an update. Raises `StepFailure`, or what the handler raises."""
        found = self._updates.get(name)
        if found is None:
            known = ", ".join(sorted(self._updates)) or "none"
            text = f"no update {name!r} (there are: {known})"
            raise StepFailure("no-such-update", text, retryable=False)
        function, validate, signature = found
        arguments = _arguments(signature, argument)
        if validate is not None:
            validate(*arguments)
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result


def _arguments(signature: Signature, argument: msgspec.Raw) -> list[Any]:
    if not signature.names:
        return []
    if argument == NOTHING and signature.names[0] not in signature.required:
        return []
    return [_codec.decode(signature.hints.get(signature.names[0], Any), argument)]
