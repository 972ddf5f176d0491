"""Ready steps, by lane, then priority, then age; timers; audits. Indexes that a leader derives.

The queue lives here and not in the broker, so that pause, cancel and priority act at once.
Entries are hints: whoever takes one checks the state, so that a stale entry is harmless.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from headrace.coordinator.core.state import Run


class Lane:
    """Ready steps that need one set of capabilities (or one worker: the name starts with @)."""

    __slots__ = ("_order", "_queues", "capabilities", "length", "name", "namespace")

    def __init__(self, name: str, namespace: str, capabilities: tuple[str, ...]) -> None:
        self.name, self.namespace, self.capabilities = name, namespace, capabilities
        self._queues: dict[int, deque[tuple[Run, int, int]]] = {}
        self._order: list[int] = []
        self.length = 0

    def push(self, run: Run, step: int, since_ms: int, priority: int) -> None:
        """Add a step behind those of its priority."""
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._order = sorted(self._queues, reverse=True)
        queue.append((run, step, since_ms))
        self.length += 1

    def pop(self) -> tuple[Run, int, int] | None:
        """Take the oldest step of the highest priority, or None."""
        for priority in self._order:
            queue = self._queues[priority]
            if queue:
                self.length -= 1
                return queue.popleft()
        return None

    def oldest_ms(self) -> int:
        """Return since when the oldest entry waits; 0 for an empty lane."""
        return min((queue[0][2] for queue in self._queues.values() if queue), default=0)


class ReadyQueue:
    """All lanes of a shard."""

    def __init__(self) -> None:
        self.lanes: dict[str, Lane] = {}
        self.filled: set[str] = set()
        """Lanes that may have something to dispatch."""

    def lane(self, name: str, namespace: str, capabilities: tuple[str, ...]) -> Lane:
        """Return the lane, made at its first use."""
        lane = self.lanes.get(name)
        if lane is None:
            lane = self.lanes[name] = Lane(name, namespace, capabilities)
        return lane

    def clear(self) -> None:
        """Forget everything."""
        self.lanes.clear()
        self.filled.clear()


class Timers:
    """A heap of (when, run key, instance); what fires is checked against the state."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str, int]] = []

    def push(self, when_ms: int, run: str, instance: int) -> None:
        """Arm a timer."""
        heappush(self._heap, (when_ms, run, instance))

    def next_ms(self) -> int:
        """Return when the earliest one is due; 0: none."""
        return self._heap[0][0] if self._heap else 0

    def pop_due(self, now_ms: int) -> tuple[int, str, int] | None:
        """Take the earliest one that is due, or None."""
        if self._heap and self._heap[0][0] <= now_ms:
            return heappop(self._heap)
        return None

    def __len__(self) -> int:
        return len(self._heap)

    def clear(self) -> None:
        """Forget everything."""
        self._heap.clear()


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
