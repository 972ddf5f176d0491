"""A stream of events from outside, in plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from headrace.bus import NoResponders, Stored, Subscription
from headrace.coordinator.runtime.arrivals import arrival_of
from headrace.errors import HeadraceError
from headrace.messages import Arrival, subjects


class FakeIncoming:
    """See `Incoming`. What happens at one moment happens at once: nothing is late."""

    def __init__(self, *, bytes_max: int = 1024 * 1024) -> None:
        self.bytes_max = bytes_max
        self.lives = 1
        self.there = False
        self.events: dict[int, Stored] = {}
        self.last = 0
        self.faults: list[HeadraceError] = []
        """Of coming reads, the first one first."""
        self.reads: list[int] = []
        self._heard: list[Callable[[], None]] = []

    def publish(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        *,
        quiet: bool = False,
    ) -> int:
        """Store an event of the namespace `default`; *quiet*: nobody hears of it."""
        self.there = True
        self.last += 1
        place = subjects.incoming("default", subject)
        self.events[self.last] = Stored(self.last, place, data, "now", headers or {})
        for heard in [] if quiet else self._heard:
            heard()
        return self.last

    def forget(self, upto: int) -> None:
        """They were too old."""
        for sequence in [number for number in self.events if number <= upto]:
            del self.events[sequence]

    def delete(self) -> None:
        """The stream is deleted."""
        self.lives, self.there, self.last = self.lives + 1, False, 0
        self.events.clear()

    async def open(self) -> tuple[str, int]:
        self.there = True
        return f"life {self.lives}", min(self.events, default=self.last + 1)

    async def read(self, after: int) -> Sequence[Arrival]:
        self.reads.append(after)
        if self.faults:
            raise self.faults.pop(0)
        if not self.there:
            raise NoResponders("nobody answers for the stream")
        return [arrival_of(found) for number, found in self.events.items() if number > after]

    async def shrink(self, upto: int) -> None:
        if sum(len(found.data) for found in self.events.values()) > self.bytes_max // 2:
            self.forget(upto)

    def listen(self, heard: Callable[[], None]) -> Subscription | None:
        self._heard.append(heard)
        listening: Any = _Listening(self._heard, heard)
        return listening  # type: ignore[no-any-return]


class _Listening:
    def __init__(self, all_of_them: list[Callable[[], None]], one: Callable[[], None]) -> None:
        self._all, self._one = all_of_them, one

    def close(self) -> None:
        self._all.remove(self._one)
