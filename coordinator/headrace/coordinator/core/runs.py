"""The open runs of a shard: records at hand, and those that only wait as encoded bytes (parked).

Whoever asks for a run by its key gets a record: one that is parked is brought back by that, and
parked again once it has waited for a while (see `parking`). Nobody can tell the difference from
what a run says or from the state's bytes: parked bytes are those that a snapshot has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headrace.coordinator.core import status


class Record(Protocol):
    """What is looked at here of a run."""

    state: int
    status: bytearray


R = TypeVar("R", bound=Record)


def condition(state: int, instances: bytes | bytearray) -> str:
    """Return how a parked run is counted: as `views.conditions` would say, in lower case."""
    if state == status.PENDING:
        return "pending"
    return "waiting" if status.WAITING in instances else "running"


class Runs(dict[str, R]):
    """Runs by key. The dict itself holds those at hand; all that one can ask it is about all.

    ``runs.get(key)`` and ``runs[key]`` bring a parked run back, at no cost for one at hand. Both
    return None if there is none. Values of `values` and `items` are for reading only: those of
    parked runs are made for the occasion.
    """

    __slots__ = ("parked", "restore", "tally")

    def __init__(self) -> None:
        super().__init__()
        self.parked: dict[str, bytes] = {}
        self.restore: Callable[[bytes], R] | None = None
        """Makes a record of parked bytes; set before the first one is parked."""
        self.tally: Counter[str] = Counter()
        """How many parked runs there are in which `condition`."""

    if not TYPE_CHECKING:
        # Subscription is the one lookup that asks `__missing__`, and it is done in C.
        get = dict.__getitem__

    def __missing__(self, key: str) -> Any:
        data = self.parked.pop(key, None)
        if data is None:
            return None
        run = self[key] = self._made(data)
        self.tally[condition(run.state, run.status)] -= 1
        return run

    def _made(self, data: bytes) -> R:
        assert self.restore is not None
        return self.restore(data)

    def park(self, key: str, data: bytes, condition: str) -> None:
        """Keep run *key* as *data*; its record, if it was at hand, is not the run any more."""
        dict.pop(self, key, None)
        self.parked[key] = data
        self.tally[condition] += 1

    # -- without bringing back ------------------------------------------------------------------

    def record(self, key: str) -> R | None:
        """Return the run if it is at hand."""
        return dict.get(self, key)

    def records(self) -> list[R]:
        """Return the runs at hand."""
        return list(dict.values(self))

    def keys_at_hand(self) -> list[str]:
        """Return the keys of runs at hand."""
        return list(dict.keys(self))

    @property
    def at_hand(self) -> int:
        """How many runs are at hand."""
        return dict.__len__(self)

    def peek(self, key: str) -> R | None:
        """Return the run, for reading only; one that is parked stays parked."""
        found = dict.get(self, key)
        if found is None and (data := self.parked.get(key)) is not None:
            return self._made(data)
        return found

    # -- about all ------------------------------------------------------------------------------

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or key in self.parked

    def __len__(self) -> int:
        return dict.__len__(self) + len(self.parked)

    def __iter__(self) -> Iterator[str]:
        yield from dict.__iter__(self)
        yield from self.parked

    def keys(self) -> Any:
        """Return the keys of all runs."""
        return list(self)

    def values(self) -> Any:
        """Return all runs, those that are parked for reading only."""
        return [self.peek(key) for key in self]

    def items(self) -> Any:
        """Return all runs with their keys, those that are parked for reading only."""
        return [(key, self.peek(key)) for key in self]

    def pop(self, key: str, default: Any = None) -> Any:
        """Take a run out; None: there is none."""
        run = self.get(key)
        if run is None:
            return default
        del self[key]
        return run
