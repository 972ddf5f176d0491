"""The order in which a shard's open runs are listed. An index that a leader derives.

Creation only appends a key to a list, and eviction only counts. What was appended is put in order
once there is a block of it, or when somebody asks; entries of runs that are gone stay until the
block that they are in is swept, so whoever takes an entry looks whether the run is still there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter

from headrace.coordinator.core.outline import Outline, outline
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.status import is_final

BLOCK = 1_000
"""Entries of a block."""
SWEPT_FACTOR = 2
"""Entries looked at for each run that has gone, so that those of gone runs stay few."""

Place = tuple[int, str]
"""(created_ms, run key): where a run stands. Lists begin with the greatest."""
_first = itemgetter(0)


def _by_namespace(place: Place) -> tuple[str, Place]:
    return place[1].partition("/")[0], place


class Listing:
    """The runs of one shard, by namespace, in blocks of places that ascend."""

    def __init__(self, runs: Runs[Run], *, block: int = BLOCK) -> None:
        """Order *runs*, which others change; of each new one they append the key to `fresh`.

        Runs that are parked already are left out until `add_parked` puts them in.
        """
        self._runs = runs
        self.block = block
        """So many new runs are put in order together."""
        self.rebuild()

    def rebuild(self) -> None:
        """Derive everything anew; the first to ask, or the next tick, puts it in order."""
        self.fresh = self._runs.keys_at_hand()
        """Keys of runs that are in no block yet; of a run that is gone again, perhaps."""
        self._ended = [run.key for run in self._runs.records() if is_final(run.state)]
        self._ended_max = 2 * len(self._ended) + self.block
        self._blocks: dict[str, list[list[Place]]] = {}
        self._namespaces: list[str] = []
        """In the order in which they are swept."""
        self._debt = 0
        self._swept = 0
        """Block of the first namespace that was swept last; 0: the newest one is next."""

    # -- what changes ---------------------------------------------------------------------------

    def order_fresh(self) -> None:
        """Put new runs in order. Created time does not go back, so that is at the end."""
        keys, self.fresh = self.fresh, []
        found: dict[str, list[Place]] = {}
        for key in keys:
            run = self._here(key)
            if run is not None:
                found.setdefault(key.partition("/")[0], []).append((run.created_ms, key))
        for namespace, places in found.items():
            blocks = self._blocks.get(namespace)
            if blocks is None:
                blocks = self._blocks[namespace] = []
                self._namespaces.append(namespace)
            places.sort()
            first = places[0]
            if blocks and len(blocks[-1]) < self.block:
                places = blocks.pop() + places
            while blocks and blocks[-1][-1] >= first:
                places = blocks.pop() + places
            places.sort()
            blocks += [
                places[start : start + self.block] for start in range(0, len(places), self.block)
            ]

    def add_parked(self, parked: list[Place]) -> Generator[None, None, None]:
        """Put all runs in order, piece by piece; *parked* are the places of those that are.

        For a takeover: `rebuild` leaves out what is parked, and nothing may change meanwhile.
        """
        places = [(run.created_ms, run.key) for run in self._runs.records()] + parked
        self.fresh = []
        parts = []
        for begin in range(0, len(places), self.block):
            parts.append(sorted(places[begin : begin + self.block], key=_by_namespace))
            yield
        ordered = merge(*parts, key=_by_namespace)
        last, block = "", parts[0][:0]
        while piece := list(islice(ordered, self.block)):
            for place in piece:
                namespace = place[1].partition("/")[0]
                if namespace not in self._blocks:
                    self._blocks[namespace] = []
                    self._namespaces.append(namespace)
                if namespace != last or len(block) == self.block:
                    last, block = namespace, []
                    self._blocks[namespace].append(block)
                block.append(place)
            yield

    def ended(self, runs: Iterable[Run]) -> None:
        """These have ended; they stay in the state until the archive has them."""
        self._ended += [run.key for run in runs]

    def evicted(self, count: int) -> None:
        """So many have left the state; as much is swept as keeps the index in proportion."""
        self._debt += count * SWEPT_FACTOR
        while self._debt >= self.block:
            self._debt -= self.block
            self._sweep()
        if len(self._ended) > self._ended_max:
            self._ended = [key for key in self._ended if key in self._runs]
            self._ended_max = 2 * len(self._ended) + self.block

    def _sweep(self) -> None:
        """Drop what is gone from one block, each in its turn, from the newest to the oldest."""
        if not self._namespaces:
            return
        namespace = self._namespaces[0]
        blocks = self._blocks[namespace]
        at = min(self._swept, len(blocks)) - 1 if self._swept else len(blocks) - 1
        kept = [place for place in blocks[at] if self._is_there(place)]
        after = blocks[at + 1] if at + 1 < len(blocks) else None
        if after is not None and len(kept) + len(after) <= self.block:
            blocks[at : at + 2] = [kept + after]
        else:
            blocks[at] = kept
        if not blocks[at]:
            del blocks[at]
        self._swept = at
        if not at:
            del self._namespaces[0]
            if blocks:
                self._namespaces.append(namespace)
            else:
                del self._blocks[namespace]

    def _is_there(self, place: Place) -> bool:
        run = self._runs.record(place[1])
        if run is None:
            # When a parked one was created is not looked up: an entry too many does no harm.
            return place[1] in self._runs.parked
        return run.created_ms == place[0]

    # -- what is asked --------------------------------------------------------------------------

    def run_at(self, place: Place) -> Run | Outline | None:
        """Return the run of an entry, or the outline of one that is parked.

        None: it is gone (another one may have its key).
        """
        run = self._here(place[1])
        return run if run is not None and run.created_ms == place[0] else None

    def _here(self, key: str) -> Run | Outline | None:
        data = self._runs.parked.get(key)
        return self._runs.record(key) if data is None else outline(data)

    def walk(self, namespace: str, before: Place | None = None) -> Iterator[Place]:
        """Yield the entries behind *before*, newest first; of runs that are gone too."""
        if self.fresh:
            self.order_fresh()
        blocks = self._blocks.get(namespace, [])
        number = len(blocks)
        if before is not None:
            number = bisect_left(blocks, before, key=_first)
        last = None
        while number:
            number -= 1
            block = blocks[number]
            end = len(block) if before is None else bisect_left(block, before)
            for index in range(end - 1, -1, -1):
                if block[index] != last:
                    last = block[index]
                    yield last

    def all_ended(self, namespace: str, before: Place | None = None) -> list[Place]:
        """Return the places of ended runs behind *before*, newest first."""
        prefix = f"{namespace}/"
        found = {
            (run.created_ms, key)
            for key in self._ended
            if key.startswith(prefix) and (run := self._runs.record(key)) is not None
        }
        return sorted((p for p in found if before is None or p < before), reverse=True)

    @property
    def ended_count(self) -> int:
        """How many entries `all_ended` looks at."""
        return len(self._ended)

    @property
    def size(self) -> int:
        """How many entries there are, those of runs that are gone included."""
        return len(self.fresh) + sum(len(b) for blocks in self._blocks.values() for b in blocks)
