"""Handlers: functions that run steps, with their input and output types."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from headrace.errors import InvalidConfig, InvalidRequest
from headrace.messages import UNREADABLE
from headrace.sdk import resolved
from headrace.worker.handlers._errors import HandlerError

F = TypeVar("F", bound=Callable[..., Any])

EMPTY_MAP = b"\x80"
_HANDLER = "__headrace_handler__"
DESCRIPTION_CHARS_MAX = 300
DETAILS_BYTES_MAX = 4_096
"""Of one heartbeat of a step: they travel with each of its worker's."""


class Handler:
    """One handler: `function(ctx, inputs)`, plain or async.

    A plain function runs in a thread, an async one on the event loop, where it must not block.
    """

    __slots__ = (
        "_decoder",
        "builtin",
        "function",
        "input_type",
        "is_async",
        "name",
        "output_type",
        "takes_raw",
        "version",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        version: str = "",
        builtin: bool = False,
        outputs: type | None = None,
    ) -> None:
        self.name, self.function, self.version, self.builtin = name, function, version, builtin
        self.is_async = inspect.iscoroutinefunction(function)
        self.input_type = _input_type(name, function)
        self.output_type: Any = outputs or _output_type(function)
        """A type that describes the outputs, or None: nothing is known of them."""
        self._decoder: msgspec.msgpack.Decoder[Any] | None = None
        self.takes_raw = self.input_type is msgspec.Raw
        """Inputs are given to it as they are."""
        if not self.takes_raw:
            # Not strict: values of expressions and of GitHub's `with:` are often text.
            self._decoder = msgspec.msgpack.Decoder(self.input_type, strict=False)

    def decode(self, raw: msgspec.Raw | bytes) -> Any:
        """Return the inputs; raises `HandlerError` of type `invalid-input`."""
        if self._decoder is None:
            return raw
        try:
            return self._decoder.decode(raw)
        except UNREADABLE as error:
            raise self._invalid(error) from error

    def convert(self, inputs: Mapping[str, Any]) -> Any:
        """Return decoded *inputs* as the handler's type; raises as `decode` does."""
        if self._decoder is None:
            return msgspec.Raw(msgspec.msgpack.encode(inputs))
        try:
            return msgspec.convert(inputs, self.input_type, strict=False)
        except msgspec.MsgspecError as error:
            raise self._invalid(error) from error

    def describe(self) -> dict[str, Any]:
        """Return inputs and, where they are declared, outputs as JSON Schema, with the version."""
        described: dict[str, Any] = {"version": self.version} if self.version else {}
        text = inspect.getdoc(self.function)
        if text:
            described["description"] = text.partition("\n\n")[0][:DESCRIPTION_CHARS_MAX]
        described["inputs"] = _schema(self.input_type)
        if self.output_type is not None:
            described["outputs"] = _schema(self.output_type)
        return described

    def _invalid(self, error: Exception) -> HandlerError:
        return HandlerError("invalid-input", f"{self.name}: {error}", retryable=False)


def handler(name: str, *, version: str = "", outputs: type | None = None) -> Callable[[F], F]:
    """Make a function the handler *name*: ``@handler("crm/create-order")``.

    The function takes a `Context` and its inputs, annotated as a msgspec struct, a dataclass or
    ``dict``; it returns a struct, a dict or None, or raises `HandlerError`. It can still be
    called as it is, in tests for instance. *outputs* describes what it returns, where the
    annotation of the return value does not.
    """

    def mark(function: F) -> F:
        setattr(function, _HANDLER, Handler(name, function, version=version, outputs=outputs))
        return function

    return mark


def handler_of(thing: object) -> Handler | None:
    """Return the handler that `@handler` made of *thing*, if it did."""
    if isinstance(thing, Handler):
        return thing
    found = getattr(thing, _HANDLER, None)
    return found if isinstance(found, Handler) else None


def encode_output(value: Any) -> bytes:
    """Return what a handler returned as a msgpack map; a bare value becomes ``{"result": …}``.

    Raises `HandlerError` of type `invalid-output` when there is no such form.
    """
    if value is None:
        return EMPTY_MAP
    if type(value) is msgspec.Raw:
        data = bytes(value)
        return EMPTY_MAP if data == EMPTY_MAP else data
    try:
        data = msgspec.msgpack.encode(value)
        if not _is_map(data):
            return msgspec.msgpack.encode({"result": value})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise HandlerError("invalid-output", f"cannot be encoded: {error}", False) from error
    if type(value) is dict and not all(type(key) is str for key in value):
        raise HandlerError("invalid-output", "names of outputs must be text", False)
    return data


def encode_details(value: Any) -> msgspec.Raw:
    """Return details of a heartbeat as msgpack, at most `DETAILS_BYTES_MAX`.

    Raises `HandlerError` (`invalid-details`, `details-too-large`), which no retry mends.
    """
    try:
        data = msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise HandlerError("invalid-details", f"cannot be encoded: {error}", False) from error
    if len(data) > DETAILS_BYTES_MAX:
        text = f"details of a heartbeat take {len(data)} bytes, over {DETAILS_BYTES_MAX}"
        raise HandlerError("details-too-large", text, False)
    return msgspec.Raw(data)


def load_attribute(reference: str) -> Any:
    """Return what ``package.module:attribute`` names; raises `InvalidConfig`."""
    module_name, colon, attribute = reference.partition(":")
    if not (module_name and colon and attribute):
        raise InvalidConfig("worker.apps", f"{reference!r} is not package.module:name")
    try:
        return resolved(reference)
    except InvalidRequest as error:
        # The cause is what the user's code has raised.
        raise InvalidConfig("worker.apps", str(error)) from error.__cause__


def _is_map(data: bytes) -> bool:
    return 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF)


def _input_type(name: str, function: Callable[..., Any]) -> Any:
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2:
        raise InvalidConfig(
            f"handler {name}", f"takes {len(parameters)} parameters, not (ctx, inputs)"
        )
    hints = typing.get_type_hints(function)
    kind = hints.get(parameters[1].name, dict[str, Any])
    if kind is Any or kind is dict or typing.get_origin(kind) is Mapping:
        return dict[str, Any]
    try:
        msgspec.msgpack.Decoder(kind)
    except TypeError as error:
        raise InvalidConfig(f"handler {name}", f"input type {kind!r}: {error}") from error
    return kind


def _output_type(function: Callable[..., Any]) -> Any:
    """Return the annotation of the return value if it is a struct or a dataclass, else None."""
    try:
        kind = typing.get_type_hints(function).get("return")
    except Exception:
        # A name that only type checkers know: a description is not worth a refusal.
        return None
    if isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind)
    ):
        return kind
    return None


def _schema(kind: Any) -> dict[str, Any]:
    try:
        return msgspec.json.schema(kind)
    except TypeError:
        return {"type": "object"}
