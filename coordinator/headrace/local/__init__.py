"""Headrace on one machine: `flowctl dev` (real processes) and the embedded engine (none).

`LocalEngine` runs workflows inside an asyncio program, `run` is the same for programs without a
loop. Names are loaded when first used: `flowctl dev` needs neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.local.engine import LocalEngine
    from headrace.local.running import run

__all__ = ["LocalEngine", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "engine" if name == "LocalEngine" else "running"
    return getattr(import_module(f"{__name__}.{module}"), name)
