"""Parameters of steps and workflows: names, types, and arguments to data and back."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.errors import InvalidRequest
from headrace.sdk import _codec

_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)
_RAW_MAP: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_RAW_CALL: Final = msgspec.msgpack.Decoder(tuple[list[msgspec.Raw], dict[str, msgspec.Raw]])


class Signature:
    """What a function takes behind its first *skip* parameters, and returns.

    Annotations are read when they are first needed: types may be defined below the function.
    """

    __slots__ = ("_function", "_hints", "_parameters", "_result", "names", "required", "variadic")

    def __init__(self, function: Callable[..., Any], *, skip: int = 0) -> None:
        self._function = function
        parameters = list(inspect.signature(function).parameters.values())[skip:]
        self._parameters = {p.name: p for p in parameters}
        self.names: tuple[str, ...] = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
        """Of parameters that may be given by position."""
        self.required = frozenset(
            p.name
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        )
        self.variadic = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
        self._hints: dict[str, Any] | None = None
        self._result: Any = None

    @property
    def hints(self) -> Mapping[str, Any]:
        """Types by parameter, and `return`. Raises `InvalidRequest` for an unknown name."""
        if self._hints is None:
            try:
                self._hints = typing.get_type_hints(self._function, include_extras=True)
            except Exception as error:
                name = getattr(self._function, "__qualname__", repr(self._function))
                raise InvalidRequest(f"annotations of {name}: {error}") from error
        return self._hints

    @property
    def result(self) -> Any:
        """Type of the result; `Any` where nothing is said, and None is what it is."""
        if self._result is None:
            self._result = self.hints.get("return", Any)
            if self._result is None:
                self._result = type(None)
        return self._result

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all parameters."""
        return tuple(self._parameters)

    def packed(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the arguments as msgpack; the same however they were given.

        Raises `CodecError` for what has no such form.
        """
        if not kwargs:
            return self._encoded(args)
        rest = dict(kwargs)
        row = list(args)
        for name in self.names[len(args) :]:
            if name not in rest:
                break
            row.append(rest.pop(name))
        return self._encoded([*row, rest] if rest else row)

    def as_map(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return arguments by name, as msgpack. Raises `InvalidRequest` for what does not fit."""
        if len(args) > len(self.names):
            raise InvalidRequest(f"{self._name()} takes {len(self.names)} inputs, not {len(args)}")
        found = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name in found or (name not in self._parameters and not self.variadic):
                raise InvalidRequest(f"{self._name()} has no free input {name!r}")
            found[name] = value
        self._need(found)
        return self._encoded(found)

    def from_map(self, data: bytes | msgspec.Raw) -> dict[str, Any]:
        """Return keyword arguments from an encoded map. Raises `InvalidRequest`, `CodecError`."""
        raws = _RAW_MAP.decode(data)
        for name in raws:
            if name not in self._parameters and not self.variadic:
                raise InvalidRequest(f"{self._name()} has no input {name!r}")
        self._need(raws)
        return {name: self._decoded(name, raw) for name, raw in raws.items()}

    def from_call(self, data: bytes | msgspec.Raw) -> tuple[list[Any], dict[str, Any]]:
        """Return arguments from an encoded ``[args, kwargs]``. Raises `CodecError`."""
        args, kwargs = _RAW_CALL.decode(data)
        names = [*self.names, *([""] * max(len(args) - len(self.names), 0))]
        row = [self._decoded(name, raw) for name, raw in zip(names, args, strict=False)]
        return row, {name: self._decoded(name, raw) for name, raw in kwargs.items()}

    def _need(self, given: Mapping[str, Any]) -> None:
        if not given.keys() >= self.required:
            missing = ", ".join(sorted(self.required - given.keys()))
            raise InvalidRequest(f"{self._name()}: missing input {missing}")

    def _encoded(self, given: Any) -> bytes:
        try:
            return _codec.encode(given)
        except _codec.CodecError as error:
            raise _codec.CodecError(f"{self._name()}: what it is given {error}") from error

    def _decoded(self, name: str, raw: msgspec.Raw) -> Any:
        try:
            return _codec.decode(self.hints.get(name, Any), raw)
        except _codec.CodecError as error:
            raise _codec.CodecError(f"{self._name()}: {name} {error}") from error

    def _name(self) -> str:
        return getattr(self._function, "__qualname__", repr(self._function))
