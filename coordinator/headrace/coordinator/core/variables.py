"""Variables of a namespace: what a new run pins, and how names are told apart. Reads only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from headrace.coordinator.core.program import Program
from headrace.coordinator.core.state import ShardState
from headrace.expressions import fold

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
RESERVED: Final = "github_"
VALUE_BYTES_MAX: Final = 48 * 1024
TOTAL_BYTES_MAX: Final = 64 * 1024
"""Of one namespace, names and values: a run that reads any of them pins all."""
_READ: Final = re.compile(rb"(?i)vars")


def of_namespace(state: ShardState, namespace: str) -> Mapping[str, str]:
    """Return the variables of a namespace, as this shard knows them."""
    known = state.variables.get(namespace)
    return known[1] if known is not None else {}


def pinned(state: ShardState, program: Program) -> dict[str, str] | None:
    """Return the variables that a run of *program* goes by from now on; None: it reads none."""
    known = state.variables.get(program.namespace)
    if known is None or not known[1]:
        return None
    return known[1] if _READ.search(state.plans[program.digest]) else None


def merged(declared: Mapping[str, Any], own: Mapping[str, str] | None) -> Mapping[str, Any]:
    """Return what expressions see as `vars`: what is *declared* goes before the run's *own*."""
    if not own:
        return declared
    taken = {fold(name) for name in declared}
    return {name: value for name, value in own.items() if fold(name) not in taken} | dict(declared)
