"""Values to msgpack and back by their types.

msgspec structs, dataclasses and builtin types by msgspec. Where pydantic is in use, its models by
their own `model_dump` and `model_validate`, and what msgspec cannot tell apart (a union of models)
by a `TypeAdapter`.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.errors import InvalidRequest
from headrace.messages import UNREADABLE


class CodecError(InvalidRequest):
    """A value has no form in the journal, or does not fit its type."""


def _encode_other(value: Any) -> Any:
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(value, pydantic.BaseModel):
        raise NotImplementedError(f"objects of type {type(value).__qualname__}")
    try:
        return value.model_dump(mode="json", round_trip=True)
    except ValueError:
        # Bytes that are no text have no place in JSON; in msgpack they have.
        dumped = value.model_dump(round_trip=True)
        return msgspec.to_builtins(dumped, builtin_types=_KEPT, enc_hook=_encode_leaf)


def _encode_leaf(value: Any) -> Any:
    """Return what stands in a model, and is nothing that msgspec knows, as it is in JSON."""
    pydantic, kind = sys.modules["pydantic"], type(value)
    try:
        return pydantic.TypeAdapter(kind).dump_python(value, mode="json")
    except pydantic.errors.PydanticUserError:
        raise NotImplementedError(f"objects of type {kind.__qualname__}") from None


def _decode_other(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return _validated(validate, value)
    raise NotImplementedError(f"type {kind.__qualname__}")


def _validated(validate: Callable[..., Any], value: Any) -> Any:
    """Call a validation of pydantic. Raises `ValueError`, in one line."""
    try:
        return validate(value, **_names())
    except sys.modules["pydantic"].ValidationError as error:
        raise ValueError("; ".join(map(_problem, error.errors(include_url=False)))) from error


@functools.cache
def _names() -> dict[str, bool]:
    """Models are dumped by the names of their fields; people may use aliases, too. Pydantic has
    this choice since 2.11."""
    known = sys.modules["pydantic"].ConfigDict.__annotations__
    return {"by_alias": True, "by_name": True} if "validate_by_name" in known else {}


def _problem(found: Mapping[str, Any]) -> str:
    place = ".".join(map(str, found["loc"]))
    return f"{place}: {found['msg']}" if place else str(found["msg"])


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_ANY: Final = msgspec.msgpack.Decoder()


@functools.lru_cache(maxsize=1_024)
def _decoder(kind: Any) -> Callable[[bytes | msgspec.Raw], Any]:
    """Return what decodes msgpack as *kind*. Raises `TypeError` for what nobody knows."""
    try:
        return msgspec.msgpack.Decoder(kind, dec_hook=_decode_other).decode
    except TypeError as error:
        validate = _adapter(kind, error)
        return lambda data: _validated(validate, _ANY.decode(data))


def _adapter(kind: Any, refused: TypeError) -> Callable[..., Any]:
    """Return pydantic's validation of *kind*, which msgspec has *refused*. Raises `TypeError`."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is None:
        raise refused
    try:
        validate: Callable[..., Any] = pydantic.TypeAdapter(kind).validate_python
    except pydantic.errors.PydanticUserError:
        raise refused from None
    return validate


def encode(value: Any) -> bytes:
    """Return *value* as msgpack. Raises `CodecError` for what has no such form."""
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise CodecError(f"cannot be kept in a journal: {error}") from error


def decode(kind: Any, data: bytes | msgspec.Raw) -> Any:
    """Return the value in *data* as *kind* (`Any`: plain data). Raises `CodecError`."""
    try:
        if kind is Any:
            return _ANY.decode(data)
        return _decoder(kind)(data)
    except (*UNREADABLE, TypeError, ValueError, NotImplementedError) as error:
        raise CodecError(f"does not fit {name_of(kind)}: {error}") from error


def as_recorded(kind: Any, value: Any, data: bytes) -> Any:
    """Return what `decode` makes of *data*, which *value* was encoded to. Raises `CodecError`."""
    if type(value) is kind and kind in _PLAIN:
        return value
    return decode(kind, data)


def convert(kind: Any, value: Any) -> Any:
    """Return plain data as *kind*. Raises `CodecError`."""
    if kind is Any:
        return value
    try:
        try:
            return msgspec.convert(value, kind, dec_hook=_decode_other, builtin_types=_KEPT)
        except TypeError as error:
            return _validated(_adapter(kind, error), value)
    except (*UNREADABLE, TypeError, ValueError, NotImplementedError) as error:
        raise CodecError(f"does not fit {name_of(kind)}: {error}") from error


def digest(data: bytes) -> str:
    """Return 16 hex digits of encoded inputs."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def name_of(kind: Any) -> str:
    """Return a type's name for people."""
    return getattr(kind, "__qualname__", None) or str(kind)


_KEPT: Final = (bytes,)
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))
"""What nothing can change, and an encoding does not either."""


def to_json(value: Any) -> str:
    """Return *value* as JSON text. Raises `CodecError`."""
    try:
        return msgspec.json.encode(value, enc_hook=_encode_other).decode()
    except (TypeError, ValueError, NotImplementedError, OverflowError, RecursionError) as error:
        raise CodecError(f"has no form in JSON: {error}") from error
