"""Ready steps, by lane, then priority, then in turn by fairness key, then age; timers; audits.
Indexes that a leader derives.

The queue lives here and not in the broker, so that pause, cancel and priority act at once.
Entries are hints: whoever takes one checks the state, so that a stale entry is harmless.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final

from headrace.coordinator.core.fairness import FairQueue, Turns
from headrace.coordinator.core.state import Run

PREFERRED = "?"
"""In the name of a lane (``@<worker>?<lane>``): its steps wait for the worker, but not for long."""


class Lane:
    """Ready steps that need one set of capabilities (or one worker: the name starts with @)."""

    __slots__ = ("_order", "_queues", "capabilities", "fair", "length", "name", "namespace")

    def __init__(self, name: str, namespace: str, capabilities: tuple[str, ...]) -> None:
        self.name, self.namespace, self.capabilities = name, namespace, capabilities
        self._queues: dict[int, deque[tuple[Run, int, int]] | FairQueue] = {}
        self._order: list[int] = []
        self.length = 0
        self.fair = False
        """Some run in it has a fairness key: what is served must be charged."""

    def push(self, run: Run, step: int, since_ms: int, priority: int) -> None:
        """Add a step behind those of its priority."""
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._order = sorted(self._queues, reverse=True)
        if run.fair_key and not isinstance(queue, FairQueue):
            queue = self._queues[priority] = FairQueue(queue)
            self.fair = True
        queue.append((run, step, since_ms))
        self.length += 1

    def pop(self) -> tuple[Run, int, int] | None:
        """Take the oldest step of the highest priority, or None."""
        for priority in self._order:
            queue = self._queues[priority]
            if queue:
                self.length -= 1
                return queue.popleft()
        if self.fair:
            # Nobody waits, so nobody is ahead: the plain queues are enough until a key comes.
            self.fair = False
            self._queues.clear()
            self._order.clear()
        return None

    def priority(self) -> int | None:
        """Return the highest priority of its steps; None: it is empty."""
        return next((priority for priority in self._order if self._queues[priority]), None)

    def charge(self, run: Run, priority: int) -> None:
        """The step that was popped last, of *run*, is dispatched: its key has had its turn."""
        queue = self._queues.get(priority)
        if isinstance(queue, FairQueue):
            queue.charge(run)

    def oldest_ms(self) -> int:
        """Return since when the oldest entry waits; 0 for an empty lane."""
        return min(
            (
                queue.oldest_ms() if isinstance(queue, FairQueue) else queue[0][2]
                for queue in self._queues.values()
                if queue
            ),
            default=0,
        )


class ReadyQueue:
    """All lanes of a shard."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.filled: dict[str, None] = {}
        """Lanes that may have something to dispatch, in the order in which they got it: that of a
        set of names would be another one in each process."""
        self.turns = Turns()

    def lane(self, name: str, namespace: str, capabilities: tuple[str, ...]) -> Lane:
        """Return the lane, made at its first use."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(name, namespace, capabilities)
        return lane

    def is_shared(self) -> bool:
        """Tell whether steps of several namespaces wait."""
        return len({self.lanes[name].namespace for name in self.filled}) > 1

    def drop_empty(self) -> None:
        """Look no more at lanes in which nothing waits."""
        self.filled = {n: None for n in self.filled if self.lanes[n].priority() is not None}

    def next_lane(self, names: Iterable[str]) -> Lane | None:
        """Return the lane of *names* whose turn it is: of the highest priority, then fair among
        namespaces, then the one that waits longest; None: all of them are empty."""
        found = [(lane.priority(), lane) for lane in map(self.lanes.__getitem__, names)]
        waiting = [(priority, lane) for priority, lane in found if priority is not None]
        if not waiting:
            return None
        top = max(priority for priority, _ in waiting)
        lanes = [lane for priority, lane in waiting if priority == top]
        namespace = self.turns.first({lane.namespace for lane in lanes})
        lanes = [lane for lane in lanes if lane.namespace == namespace]
        return min(lanes, key=lambda lane: (lane.oldest_ms(), lane.name))

    def clear(self) -> None:
        """Forget everything."""
        self.lanes.clear()
        self.filled.clear()


SCHEDULE_TIMER: Final = -1
EVENTS_TIMER: Final = -2
KEY_TIMER: Final = -3
"""Stand for an instance in the timers: the name is not a run's but a schedule's, that of an event
held back, or a key's."""


class Timers:
    """A heap of (when, run key, instance); what fires is checked against the state."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, str, int]] = []
        """The earliest is first; for looking only."""

    def push(self, when_ms: int, run: str, instance: int) -> None:
        """Arm a timer."""
        heappush(self.heap, (when_ms, run, instance))

    def next_ms(self) -> int:
        """Return when the earliest one is due; 0: none."""
        return self.heap[0][0] if self.heap else 0

    def pop_due(self, now_ms: int) -> tuple[int, str, int] | None:
        """Take the earliest one that is due, or None."""
        if self.heap and self.heap[0][0] <= now_ms:
            return heappop(self.heap)
        return None

    def __len__(self) -> int:
        return len(self.heap)

    def clear(self) -> None:
        """Forget everything."""
        self.heap.clear()


class Audits:
    """The rounds in which a leader looks at the holders of its shard's keys; armed while it has
    keys. One timer for all: no run has the empty name."""

    __slots__ = ("_armed", "keys", "next_ms")

    TIMER = ""

    def __init__(self) -> None:
        self._armed = False
        self.keys: list[str] = []
        """Those that this round has not come to yet."""
        self.next_ms = 0
        """The earliest time that this round found for the next one; 0: none."""

    def arm(self, timers: Timers, when_ms: int) -> None:
        """Go on at *when_ms*, or before, if that is settled already."""
        if not self._armed:
            self._armed = True
            timers.push(when_ms, self.TIMER, 0)

    def fired(self) -> None:
        """The timer came."""
        self._armed = False

    def clear(self) -> None:
        """Forget everything."""
        self._armed = False
        self.keys.clear()
