"""Whose turn it is: start-time fair queueing among flows with weights.

Goyal, Vin, Cheng, "Start-time Fair Queuing" (SIGCOMM 1996): a flow's next unit has a start tag, at
least the virtual time; the lowest tag is served, its flow's next tag is one over the weight later,
and the virtual time is the tag in service. Of two flows that both always wait for something, each
served from the same time on, what they got over their weights never differs by more than one unit
of each. Nobody starves, and nobody saves up while he wants nothing.

What is served is counted by `charge`, not by `popleft`: an entry that turns out to be stale costs
its flow nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush, heapreplace
from typing import TypeAlias

from headrace.coordinator.core.state import Run, ShardState

Entry: TypeAlias = tuple[Run, int, int]
"""Run, step, since when it waits (ms)."""
IDLE_KEPT = 64
"""Flows with nothing to do that are kept at least, before those behind the time are forgotten."""


def weight_of(state: ShardState, namespace: str) -> float:
    """Return the share of a namespace in what it competes for with others."""
    known = state.namespaces.get(namespace)
    return known[0] if known is not None else 1.0


class _Flow:
    __slots__ = ("entries", "tag")

    def __init__(self, tag: float) -> None:
        self.entries: deque[Entry] = deque()
        self.tag = tag


class FairQueue:
    """Ready steps of one priority, fair among the fairness keys of their runs.

    Within a key the oldest is the first. It is used as a deque is: `append`, `popleft`, `bool`.
    """

    __slots__ = ("_flows", "_heap", "_number", "_virtual")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._flows: dict[str, _Flow] = {}
        self._heap: list[tuple[float, int, _Flow]] = []
        """(tag, number, flow) of the flows that have entries; equal tags: first come."""
        self._number = 0
        self._virtual = 0.0
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add a step behind those of its key."""
        key = entry[0].fair_key
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = _Flow(self._virtual)
        if not flow.entries:
            flow.tag = max(flow.tag, self._virtual)
            self._number += 1
            heappush(self._heap, (flow.tag, self._number, flow))
        flow.entries.append(entry)

    def popleft(self) -> Entry:
        """Take the next step; raises IndexError when there is none."""
        flow = self._heap[0][2]
        entry = flow.entries.popleft()
        if not flow.entries:
            heappop(self._heap)
        return entry

    def charge(self, run: Run) -> None:
        """What was taken last, of *run*, is served: its key's turn is over."""
        flow = self._flows[run.fair_key]
        self._virtual = max(self._virtual, flow.tag)
        flow.tag += 1.0 / run.fair_weight
        if flow.entries:
            # It was taken from the top, and nothing came before it since.
            self._number += 1
            heapreplace(self._heap, (flow.tag, self._number, flow))
        elif len(self._flows) > 2 * len(self._heap) + IDLE_KEPT:
            self._forget()

    def _forget(self) -> None:
        virtual = self._virtual
        self._flows = {k: f for k, f in self._flows.items() if f.entries or f.tag > virtual}

    def oldest_ms(self) -> int:
        """Return since when the oldest entry waits."""
        return min(flow.entries[0][2] for _, _, flow in self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __len__(self) -> int:
        return sum(len(flow.entries) for flow in self._flows.values())


class Turns:
    """The same among a few names that come and go: namespaces whose lanes share one window."""

    def __init__(self) -> None:
        self._tags: dict[str, float] = {}
        self._virtual = 0.0

    def first(self, names: Iterable[str]) -> str:
        """Return whose turn it is, of *names* (at least one)."""
        return min(names, key=lambda name: (self._tag(name), name))

    def charge(self, name: str, weight: float) -> None:
        """*name* got one unit."""
        tag = self._tag(name)
        self._virtual = max(self._virtual, tag)
        self._tags[name] = tag + 1.0 / weight
        if len(self._tags) > IDLE_KEPT:
            self._tags = {n: tag for n, tag in self._tags.items() if tag > self._virtual}

    def _tag(self, name: str) -> float:
        return max(self._tags.get(name, 0.0), self._virtual)
