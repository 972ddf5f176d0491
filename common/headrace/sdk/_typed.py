"""Inputs of a workflow function as people write them, typed by its signature."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.errors import InvalidDefinition, Problem
from headrace.sdk import _codec
from headrace.sdk._workflow import Workflow

_WORDS: Final[dict[Any, str]] = {bool: "true or false", int: "a whole number", float: "a number"}
_SHOWN_MAX: Final = 60


def typed_inputs(
    workflow: Workflow[..., Any], values: Mapping[str, Any], texts: Mapping[str, str]
) -> dict[str, Any]:
    """Return the input of a run as plain data.

    *values* are plain data, from JSON, say; *texts*, which go before them, are read as their
    parameter's type: a text for a text, else JSON, else what the type makes of a text (a date).
    Raises `InvalidDefinition` with every unknown, missing or unfit input.
    """
    signature = workflow.signature
    problems: list[Problem] = []
    found: dict[str, Any] = {}
    for name in [*values, *(name for name in texts if name not in values)]:
        kind = signature.hints.get(name, Any)
        if name not in signature.inputs and not signature.variadic:
            problems.append(_unknown(name, signature.inputs))
            continue
        try:
            value = (
                _read(kind, texts[name]) if name in texts else _codec.convert(kind, values[name])
            )
        except _codec.CodecError as error:
            shown = repr(texts[name] if name in texts else values[name])
            shown = shown if len(shown) <= _SHOWN_MAX else f"{shown[:_SHOWN_MAX]}…"
            wanted = _WORDS.get(kind, f"of type {_codec.name_of(kind)}")
            hint = "" if kind in _WORDS else str(error)
            problems.append(Problem(f"input '{name}' must be {wanted}, not {shown}", hint=hint))
        else:
            found[name] = value
    given = values.keys() | texts.keys()
    problems += [
        Problem(f"input '{name}' is required")
        for name in signature.inputs
        if name in signature.required and name not in given
    ]
    if problems:
        raise InvalidDefinition(problems, file="<input>")
    data: dict[str, Any] = msgspec.msgpack.decode(_codec.encode(found))
    return data


def _read(kind: Any, text: str) -> Any:
    if kind is str:
        return text
    try:
        value = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return _codec.convert(kind, text)
    try:
        return _codec.convert(kind, value)
    except _codec.CodecError:
        # "3" for a text or nothing, say.
        return _codec.convert(kind, text)


def _unknown(name: str, names: tuple[str, ...]) -> Problem:
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"inputs: {', '.join(names) or 'none'}"
    return Problem(f"unknown input '{name}'", hint=hint)
