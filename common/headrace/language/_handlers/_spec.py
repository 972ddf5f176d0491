"""What a handler takes and gives, as data: for checks before anything runs, and for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

FieldType = Literal[
    "string", "number", "integer", "boolean", "list", "object", "any", "duration", "texts"
]
"""`duration`: ``90s`` or seconds; `texts`: one text or a list of them."""


class InputField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input of a handler."""

    type: FieldType = "string"
    required: bool = False
    default: Any = None
    description: str = ""
    options: tuple[str, ...] = ()
    """If not empty, the only texts allowed."""


class OutputField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One output of a handler."""

    type: FieldType = "string"
    always: bool = True
    """Whether every step that completes has it."""
    description: str = ""


class HandlerSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a step that ``uses: <name>`` may say under ``with:``, and what it gives."""

    name: str
    description: str = ""
    inputs: dict[str, InputField] = {}
    open: bool = False
    """Takes inputs beside those declared."""
    outputs: dict[str, OutputField] = {}
    open_outputs: bool = False
    """Gives outputs beside those declared."""
    exactly_one: tuple[tuple[str, ...], ...] = ()
    """Groups of inputs of which one must be given, and not two."""
    at_most_one: tuple[tuple[str, ...], ...] = ()
    extra: str = ""
    """Extra of the distribution that a worker needs for it."""
    example: str = ""
    """Steps of a job, in YAML."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A `type:` of the `tasks:` dialect that the engine carries out itself, without a worker."""

    name: str
    description: str
    step: str
    """Key of a step in `jobs:` that does the same."""
    example: str


def text(description: str, *, required: bool = False, default: Any = None) -> InputField:
    """Return an input that is text."""
    return InputField(description=description, required=required, default=default)


def field(
    kind: FieldType, description: str, default: Any = None, *, required: bool = False
) -> InputField:
    """Return an input of another type."""
    return InputField(type=kind, description=description, default=default, required=required)


def out(kind: FieldType, description: str, *, always: bool = True) -> OutputField:
    """Return an output."""
    return OutputField(type=kind, description=description, always=always)


_JSON_TYPES: Mapping[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "list": {"type": "array"},
    "object": {"type": "object"},
    "any": {},
    "duration": {"type": ["number", "string"]},
    "texts": {"type": ["string", "array"], "items": {"type": "string"}},
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(spec: HandlerSpec) -> dict[str, Any]:
    """Return the inputs and outputs of a handler, each as JSON Schema (draft 2020-12)."""
    inputs: dict[str, Any] = {}
    for name, given in spec.inputs.items():
        inputs[name] = dict(_JSON_TYPES[given.type]) | {"description": given.description}
        if given.options:
            inputs[name]["enum"] = list(given.options)
        if given.default is not None:
            inputs[name]["default"] = given.default
    outputs = {
        name: dict(_JSON_TYPES[made.type]) | {"description": made.description}
        for name, made in spec.outputs.items()
    }
    takes: dict[str, Any] = {
        "$schema": DIALECT,
        "type": "object",
        "properties": inputs,
        "required": [name for name, given in spec.inputs.items() if given.required],
        "additionalProperties": spec.open,
    }
    groups: list[dict[str, Any]] = [
        {"oneOf": [{"required": [name]} for name in names]} for names in spec.exactly_one
    ]
    groups += [{"not": {"required": list(names)}} for names in spec.at_most_one]
    if groups:
        takes["allOf"] = groups
    return {
        "inputs": takes,
        "outputs": {
            "$schema": DIALECT,
            "type": "object",
            "properties": outputs,
            "required": [name for name, made in spec.outputs.items() if made.always],
            "additionalProperties": spec.open_outputs,
        },
    }
