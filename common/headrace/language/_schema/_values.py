"""Shapes of values in the schema: what the reader takes for a text, a number of minutes, ….

Null counts as absent wherever a key may be absent, so it is allowed there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Fragment = dict[str, Any]
"""A part of a JSON Schema."""

_SCALARS = ["string", "number", "boolean", "null"]


def ref(name: str) -> Fragment:
    """Return a reference to a definition."""
    return {"$ref": f"#/$defs/{name}"}


def _or_expression(fragment: Fragment) -> Fragment:
    return {"anyOf": [fragment, ref("expression")]}


EXPRESSION: Fragment = {
    "type": "string",
    "pattern": r"\$\{\{",
    "description": "A text with an expression in ${{ }}.",
}
TEXT: Fragment = {"type": _SCALARS}
TEXTS: Fragment = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
JSON: Fragment = {}
BOOLEAN: Fragment = {"type": ["boolean", "null"]}
FLAG = _or_expression(BOOLEAN)
CONDITION: Fragment = {"type": _SCALARS}
"""With or without ``${{ }}``."""
MINUTES = _or_expression({"type": ["number", "null"], "exclusiveMinimum": 0})
COUNT = _or_expression({"type": ["integer", "null"], "minimum": 1})
DURATION: Fragment = {
    "anyOf": [
        {"type": ["number", "null"], "exclusiveMinimum": 0},
        {
            "type": "string",
            "pattern": r"^\s*([0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)?([mM][sS]|[smhdwSMHDW]))+)\s*$",
        },
    ]
}
DURATION_OR_EXPRESSION = _or_expression(DURATION)
ENVIRONMENT: Fragment = {"type": ["object", "null"], "additionalProperties": TEXT}
VALUES: Fragment = {"type": ["object", "null"]}
JOIN: Fragment = {
    "anyOf": [
        {"enum": ["all", "any"]},
        {"type": "integer", "minimum": 1, "maximum": 999_999},
        {"type": "string", "pattern": r"^\s*[0-9]{1,6}\s*%?\s*$"},
    ]
}
SHELL: Fragment = {
    "anyOf": [
        {"enum": ["bash", "sh", "python", "pwsh", None]},
        {"type": "string", "pattern": r"\{"},
    ]
}


def integer(least: int, most: int) -> Fragment:
    """Return a whole number from *least* to *most*."""
    return {"type": ["integer", "null"], "minimum": least, "maximum": most}


def number(least: float, most: float) -> Fragment:
    """Return a number from *least* to *most*."""
    return {"type": ["number", "null"], "minimum": least, "maximum": most}


def one_of(*options: str) -> Fragment:
    """Return one of some texts."""
    return {"enum": [*options, None]}


def either(*fragments: Fragment) -> Fragment:
    """Return a value of any of the shapes."""
    return {"anyOf": [*fragments]}


def named(fragment: Fragment) -> Fragment:
    """Return a mapping of names of the user's to values of one shape."""
    return {"type": ["object", "null"], "additionalProperties": fragment}


def items(fragment: Fragment, *, least: int = 0) -> Fragment:
    """Return a list."""
    found: Fragment = {"type": "array", "items": fragment}
    return found | {"minItems": least} if least else found


def mapping(
    properties: Mapping[str, Fragment], *, required: Collection[str] = (), null: bool = False
) -> Fragment:
    """Return a mapping with these keys and no others."""
    found: Fragment = {
        "type": ["object", "null"] if null else "object",
        "properties": dict(properties),
        "additionalProperties": False,
    }
    if required:
        found["required"] = list(required)
    return found
