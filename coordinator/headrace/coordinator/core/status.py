"""States of instances and runs as small numbers, and which changes are legal.

One byte an instance in the hot path; names for people. The table is tested exhaustively and
`docs/states.md` is drawn from it.
"""

from __future__ import annotations

from typing import Final

PENDING: Final = 0
"""Not begun. A task whose needs have ended, in a container that runs, is READY (derived)."""
DISPATCHED: Final = 1
"""An attempt is with a lane or a worker (RUNNING as soon as a worker says so: not logged)."""
WAITING: Final = 2
"""For a retry, a timer, a signal, a concurrency key."""
RUNNING: Final = 3
"""A container whose children may run; for a run: alive."""
COMPLETED: Final = 4
FAILED: Final = 5
SKIPPED: Final = 6
CANCELLED: Final = 7
UNKNOWN: Final = 8
"""A claimed at-most-once step whose worker was lost."""
TEMPLATE: Final = 9
"""Not an instance: a loop's body in the plan, or what a job's restart left behind."""

NAMES: Final = (
    "PENDING",
    "DISPATCHED",
    "WAITING",
    "RUNNING",
    "COMPLETED",
    "FAILED",
    "SKIPPED",
    "CANCELLED",
    "UNKNOWN",
    "TEMPLATE",
)

FINAL: Final = frozenset({COMPLETED, FAILED, SKIPPED, CANCELLED, UNKNOWN})

ALLOWED: Final[dict[int, frozenset[int]]] = {
    PENDING: frozenset({DISPATCHED, WAITING, RUNNING, COMPLETED, FAILED, SKIPPED, CANCELLED}),
    DISPATCHED: frozenset({PENDING, WAITING, COMPLETED, FAILED, SKIPPED, CANCELLED, UNKNOWN}),
    WAITING: frozenset({PENDING, DISPATCHED, RUNNING, COMPLETED, FAILED, SKIPPED, CANCELLED}),
    RUNNING: frozenset({COMPLETED, FAILED, SKIPPED, CANCELLED}),
    COMPLETED: frozenset(),
    FAILED: frozenset(),
    SKIPPED: frozenset(),
    CANCELLED: frozenset(),
    UNKNOWN: frozenset({PENDING, COMPLETED, FAILED, SKIPPED}),
    TEMPLATE: frozenset({PENDING}),
}
"""Where an instance may go from each state. The restart of a job or a group is outside of the
table: it puts its instances back to PENDING whatever they were."""


def is_final(value: int) -> bool:
    """Tell whether a state is the last one."""
    return COMPLETED <= value <= UNKNOWN
