"""Results until the owner says that they are in its log; nothing leaves before that.

One batch in flight for each route (a shard of a namespace); what arrives meanwhile waits and
becomes the next, larger batch. A batch that was not answered is sent again as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from headrace.messages import StepResult, Task, encode

Route: TypeAlias = tuple[str, int]
"""Namespace and shard."""

_FIXED_BYTES = 96
"""Room for the numbers and markers of one encoded result."""


Key: TypeAlias = tuple[str, int, int]
"""Run, step, attempt."""
Kept: TypeAlias = tuple[Key, StepResult, int]
"""A result, what it is found by, and its size in bytes."""


class _Lane:
    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Kept] = deque()
        self.in_flight: list[Kept] = []


def result_bytes(result: StepResult) -> int:
    """Return the size of *result* on the wire: exact if it has an error or extras, else a bound."""
    if result.error is None and result.extra is None:
        # Names of runs are ASCII.
        return len(result.run) + len(result.output) + _FIXED_BYTES
    return len(encode(result))


class Outbox:
    """Results by route, in the order in which they came."""

    def __init__(self, *, bytes_max: int, batch_bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.batch_bytes_max = batch_bytes_max
        self.bytes = 0
        self._lanes: dict[Route, _Lane] = {}
        self._index: dict[Key, StepResult] = {}

    def __len__(self) -> int:
        return sum(len(lane.waiting) + len(lane.in_flight) for lane in self._lanes.values())

    @property
    def full(self) -> bool:
        """Past the limit in bytes: take no more tasks."""
        return self.bytes >= self.bytes_max

    def add(self, route: Route, result: StepResult) -> bool:
        """Keep *result*; True when nothing else waits on its route, so a sender must be woken."""
        lane = self._lanes.get(route)
        if lane is None:
            lane = self._lanes[route] = _Lane()
        kept = self._keep(result)
        lane.waiting.append(kept)
        return len(lane.waiting) == 1 and not lane.in_flight

    def _keep(self, result: StepResult) -> Kept:
        key = (result.run, result.step, result.attempt)
        size = result_bytes(result)
        self._index[key] = result
        self.bytes += size
        return key, result, size

    def unanswered(self, route: Route, tasks: list[Task]) -> list[Task]:
        """Return those of *tasks* that no kept result answers.

        A kept one answers a newer token of its attempt, too. The copy under the old token may be
        on its way: it is refused, or recorded and the new one is then a duplicate.
        """
        index = self._index
        if not index:
            return tasks
        found: list[Task] = []
        for task in tasks:
            kept = index.get((task.run, task.step, task.attempt))
            if kept is None:
                found.append(task)
            elif task.token > kept.token:
                self.add(route, msgspec.structs.replace(kept, token=task.token))
        return found

    def take(self, route: Route) -> list[StepResult]:
        """Return the batch to send now: the unanswered one again, else the next; may be empty."""
        lane = self._lanes.get(route)
        if lane is None:
            return []
        in_flight, waiting = lane.in_flight, lane.waiting
        if not in_flight:
            size = 0
            while waiting:
                size += waiting[0][2]
                if in_flight and size > self.batch_bytes_max:
                    break
                in_flight.append(waiting.popleft())
        return [result for _, result, _ in in_flight]

    def settle(self, route: Route) -> None:
        """The batch in flight was answered: forget it."""
        lane = self._lanes[route]
        self._drop(lane)
        if not lane.waiting:
            del self._lanes[route]

    def substitute(self, route: Route, results: list[StepResult]) -> None:
        """Send *results* in place of the batch in flight, which can never be sent."""
        lane = self._lanes[route]
        self._drop(lane)
        lane.waiting.extendleft([self._keep(result) for result in reversed(results)])

    def unsettled(self) -> Iterator[tuple[Route, StepResult]]:
        """Go through everything that is kept."""
        for route, lane in self._lanes.items():
            for _, result, _ in (*lane.in_flight, *lane.waiting):
                yield route, result

    def _drop(self, lane: _Lane) -> None:
        """Forget what is in flight; what was added since under a newer token stays."""
        index = self._index
        for key, result, size in lane.in_flight:
            self.bytes -= size
            if index.get(key) is result:
                del index[key]
        lane.in_flight = []
