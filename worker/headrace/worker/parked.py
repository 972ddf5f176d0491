"""Workflow functions that wait, kept so that their next turn need not replay them.

The latest ones, within a number and within bytes; what does not fit any more is closed, costs
nothing, and is replayed when it goes on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from headrace.messages import Entry
from headrace.sdk import Execution, Workflow

COUNT_MAX: Final = 1_000
BYTES_MAX: Final = 128 * 1024 * 1024

FUNCTION_BYTES: Final = 6_000
"""A function without a journal, as measured with `tracemalloc`."""
_ENTRY_BYTES: Final = 1_000
"""One entry, and the operation that awaited it."""
_VALUE_FACTOR: Final = 4
"""Of an encoded value and what the function has of it: between 1 (bytes) and 6 (short texts)."""


class Parked(NamedTuple):
    """A function that waits."""

    workflow: Workflow[Any, Any]
    execution: Execution
    backlog: list[Entry]
    """What it was not fed yet."""
    known: int
    """Number of the newest change in either."""
    bytes: int
    """That it takes, about."""


class ParkedFunctions:
    """By run. Belongs to one event loop."""

    def __init__(self, *, count_max: int = COUNT_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._functions: OrderedDict[str, Parked] = OrderedDict()
        self.bytes = 0
        """Of all of them, about."""

    def __len__(self) -> int:
        return len(self._functions)

    def take(self, run: str) -> Parked | None:
        """Return the function of *run*, which is kept no longer."""
        found = self._functions.pop(run, None)
        if found is not None:
            self.bytes -= found.bytes
        return found

    def keep(self, run: str, parked: Parked) -> None:
        """Keep a function of a run that has none here; let the oldest ones go, or this very one."""
        self._functions[run] = parked
        self.bytes += parked.bytes
        while len(self._functions) > self._count_max or self.bytes > self._bytes_max:
            _, oldest = self._functions.popitem(last=False)
            self.bytes -= oldest.bytes
            oldest.execution.close()


def bytes_of(entries: Iterable[Entry]) -> int:
    """Return what a function takes for *entries*, about; of each the end counts, with its value."""
    found = 0
    for entry in entries:
        found += _ENTRY_BYTES
        if entry.state:
            found += value_bytes(len(entry.value) + len(entry.details))
    return found


def value_bytes(encoded: int) -> int:
    """Return what a value takes, about, that has so many bytes when it is encoded."""
    return encoded * _VALUE_FACTOR
