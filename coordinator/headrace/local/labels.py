"""Labels that a plan asks for, as far as it says so before it runs."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.coordinator.core import Program
from headrace.language import BUILTIN_HANDLERS
from headrace.plan import Plan


def labels_beyond(plan: Plan, offered: Iterable[str]) -> list[str]:
    """Return what *plan* needs beyond *offered*, sorted; without handlers, and without labels
    that an expression makes, or a workflow that it calls."""
    program = Program(plan, "", "default", frozenset(BUILTIN_HANDLERS))
    there = {label.lower() for label in offered}
    needed = {label for labels in program.capabilities if labels for label in labels}
    return sorted(n for n in needed if n.lower() not in there and not n.startswith("uses:"))
