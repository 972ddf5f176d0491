"""Scalars of YAML as text: in environment variables, headers and texts with expressions."""

from __future__ import annotations

from typing import Any


def text_of(value: Any) -> str:
    """Return a scalar as text: nothing is empty, 2.0 is `2`, truth is `true` or `false`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
