"""Values to msgpack and back by their types.

msgspec structs, dataclasses and builtin types by msgspec; pydantic models, where pydantic is
installed, by their own `model_dump` and `model_validate`.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from typing import Any, Final

import msgspec

from headrace.errors import InvalidRequest
from headrace.messages import UNREADABLE


class CodecError(InvalidRequest):
    """A value has no form in the journal, or does not fit its type."""


def _encode_other(value: Any) -> Any:
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"objects of type {type(value).__qualname__}")


def _decode_other(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return validate(value)
    raise NotImplementedError(f"type {kind.__qualname__}")


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_ANY: Final = msgspec.msgpack.Decoder()


@functools.lru_cache(maxsize=1_024)
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode_other)


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
        return _decoder(kind).decode(data)
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
        return msgspec.convert(value, kind, dec_hook=_decode_other, builtin_types=_KEPT)
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
