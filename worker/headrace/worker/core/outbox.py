"""Results until the owner says that they are in its log; nothing leaves before that.

One batch in flight for each route (a shard of a namespace); what arrives meanwhile waits and
becomes the next, larger batch. A batch that was not answered is sent again as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from headrace.messages import StepResult, encode

Route: TypeAlias = tuple[str, int]
"""Namespace and shard."""

_FIXED_BYTES = 96
"""Room for the numbers and markers of one encoded result."""


class _Lane:
    __slots__ = ("in_flight", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[StepResult] = deque()
        self.in_flight: list[StepResult] = []


def result_bytes(result: StepResult) -> int:
    """Return the size of *result* on the wire: exact if it has an error or extras, else a bound."""
    if result.error is None and result.extra is None:
        return len(result.run.encode()) + len(result.output) + _FIXED_BYTES
    return len(encode(result))


class Outbox:
    """Results by route, in the order in which they came."""

    def __init__(self, *, bytes_max: int, batch_bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.batch_bytes_max = batch_bytes_max
        self.bytes = 0
        self._lanes: dict[Route, _Lane] = {}
        self._index: dict[tuple[str, int, int], StepResult] = {}

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
        lane.waiting.append(result)
        self._index[(result.run, result.step, result.attempt)] = result
        self.bytes += result_bytes(result)
        return len(lane.waiting) == 1 and not lane.in_flight

    def restamp(self, route: Route, run: str, step: int, attempt: int, token: int) -> bool:
        """Answer a kept attempt under a newer token, too; False when none is kept.

        The copy under the old token may be on its way: it is refused, or recorded and the new one
        is then a duplicate.
        """
        kept = self._index.get((run, step, attempt))
        if kept is None or token <= kept.token:
            return kept is not None
        self.add(route, msgspec.structs.replace(kept, token=token))
        return True

    def take(self, route: Route) -> list[StepResult]:
        """Return the batch to send now: the unanswered one again, else the next; may be empty."""
        lane = self._lanes.get(route)
        if lane is None:
            return []
        if not lane.in_flight:
            size = 0
            while lane.waiting:
                size += result_bytes(lane.waiting[0])
                if lane.in_flight and size > self.batch_bytes_max:
                    break
                lane.in_flight.append(lane.waiting.popleft())
        return list(lane.in_flight)

    def settle(self, route: Route) -> None:
        """The batch in flight was answered: forget it."""
        lane = self._lanes[route]
        for result in lane.in_flight:
            self._drop(result)
        lane.in_flight = []
        if not lane.waiting:
            del self._lanes[route]

    def substitute(self, route: Route, results: list[StepResult]) -> None:
        """Send *results* in place of the batch in flight, which can never be sent."""
        lane = self._lanes[route]
        for result in lane.in_flight:
            self._drop(result)
        lane.in_flight = []
        for result in reversed(results):
            lane.waiting.appendleft(result)
            self._index[(result.run, result.step, result.attempt)] = result
            self.bytes += result_bytes(result)

    def unsettled(self) -> Iterator[tuple[Route, StepResult]]:
        """Go through everything that is kept."""
        for route, lane in self._lanes.items():
            for result in lane.in_flight:
                yield route, result
            for result in lane.waiting:
                yield route, result

    def _drop(self, result: StepResult) -> None:
        self.bytes -= result_bytes(result)
        key = (result.run, result.step, result.attempt)
        if self._index.get(key) is result:
            del self._index[key]
