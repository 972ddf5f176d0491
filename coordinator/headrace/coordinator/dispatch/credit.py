"""How many steps of each lane may be on their way. Pure: figures and times come in.

Workers are shared: by lanes, by shards, by coordinators. A worker's slots count once. Whoever
asks while others wait, too, gets no more than its even part; what the others do not want is for
the taking (max-min fairness, Bertsekas & Gallager, "Data Networks", 6.5.2). Exact among the
shards of one coordinator; among coordinators by their backlogs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

PREFETCH_MS = 50
RATE_WINDOW_MS = 1_000
WANTED_MS = 700
"""So long a lane that got too little counts as wanting: its owner asks several times a second."""


class Settings(NamedTuple):
    """Figures of the `dispatch` section."""

    lease_ms: int = 3_000
    window_extra: int = 4
    batch_tasks_max: int = 100
    batch_bytes_max: int = 16 * 1024
    batch_work_ms: int = 50
    lanes_max: int = 256


class LaneRate:
    """Steps a second and time a step of one lane, by exponentially weighted averages."""

    __slots__ = ("_count", "_since_ms", "per_s", "step_ms")

    def __init__(self) -> None:
        self.per_s = 0.0
        self.step_ms = 1_000.0
        self._count = 0
        self._since_ms = 0

    def add(self, count: int, took_ms: int, now_ms: int) -> None:
        """Learn of *count* steps that took *took_ms* in all."""
        self.step_ms += 0.2 * (max(took_ms, 0) / count - self.step_ms)
        self._count += count
        passed = now_ms - self._since_ms
        if passed >= RATE_WINDOW_MS:
            self.per_s = self._count * 1_000 / passed if passed < 10 * RATE_WINDOW_MS else 0.0
            self._count, self._since_ms = 0, now_ms


class Pool(NamedTuple):
    """The workers that serve a lane."""

    slots: Mapping[str, int]
    """Worker id -> slots."""
    total: int

    def part_in(self, other: Pool) -> float:
        """Return which part of this pool's slots belongs to workers of *other*, too."""
        if self is other:
            return 1.0
        shared = sum(slots for worker, slots in self.slots.items() if worker in other.slots)
        return shared / self.total if self.total else 0.0


class _Want:
    __slots__ = ("asked_ms", "since_ms", "wake")

    def __init__(self, now_ms: int) -> None:
        self.since_ms = now_ms
        """Since when it waits without getting anything."""
        self.asked_ms = now_ms
        self.wake: Callable[[], None] | None = None


Claim = tuple[int, str]
"""(shard, lane)."""


class Credits:
    """Shares windows among lanes and shards."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._rates: dict[str, LaneRate] = {}
        self._wants: dict[Claim, _Want] = {}

    def rate(self, lane: str) -> LaneRate:
        """Return the lane's figures."""
        found = self._rates.get(lane)
        if found is None:
            found = self._rates[lane] = LaneRate()
        return found

    def forget(self, shard: int) -> None:
        """A shard is not ours any more."""
        for claim in [claim for claim in self._wants if claim[0] == shard]:
            del self._wants[claim]

    def window(self, lane: str, slots: int, share: float) -> int:
        """Return how many steps may be on their way to workers with so many *slots*."""
        window = slots + self.settings.window_extra
        rate = self._rates.get(lane)
        if rate is not None:
            # Short steps: enough on the way for the workers never to run dry.
            window += min(slots, int(rate.per_s * PREFETCH_MS / 1_000))
        return max(int(window * share), 1)

    def grant(
        self,
        claim: Claim,
        wanted: int,
        window: int,
        used: Mapping[Claim, float],
        pool: Pool,
        pools: Callable[[str], Pool | None],
        *,
        now_ms: int,
        wake: Callable[[], None] | None = None,
    ) -> int:
        """Return how many of *wanted* steps *claim* may dispatch now; 0 when it has to wait.

        *used*: what is on its way to workers of *pool*, by claim (other lanes' in part). *pools*:
        the workers of another lane that wants something. *wake* has the claim asked again.
        """
        want = self._wants.get(claim)
        if want is None:
            want = self._wants[claim] = _Want(now_ms)
        elif now_ms - want.asked_ms > WANTED_MS:
            want.since_ms = now_ms
        want.asked_ms, want.wake = now_ms, wake
        free = int(window - sum(used.values()))
        count = free
        if others := self._others(claim, pool, pools, now_ms):
            fair = window // (len(others) + 1)
            if fair:
                hungry = sum(max(fair - used.get(other, 0), 0) for other in others)
                count = max(int(free - hungry), fair - int(used.get(claim, 0)))
            else:
                count = self._in_turn(claim, free, others)
        if count >= wanted:
            del self._wants[claim]
        elif count > 0:
            want.since_ms = now_ms
        return max(count, 0)

    def _others(
        self, claim: Claim, pool: Pool, pools: Callable[[str], Pool | None], now_ms: int
    ) -> list[Claim]:
        """Return who else waits for these workers."""
        found: list[Claim] = []
        for other, want in list(self._wants.items()):
            if other == claim:
                continue
            if now_ms - want.asked_ms > WANTED_MS:
                del self._wants[other]
            elif other[1] == claim[1]:
                found.append(other)
            else:
                theirs = pools(other[1])
                if theirs is not None and theirs.part_in(pool):
                    found.append(other)
        return found

    def _in_turn(self, claim: Claim, free: int, others: list[Claim]) -> int:
        """More are waiting than there is room for: one step each, the longest waiting first."""
        since_ms = self._wants[claim].since_ms
        ahead = [other for other in others if self._wants[other].since_ms < since_ms]
        if len(ahead) < free:
            return 1
        for other in ahead[: max(free, 0)]:
            wake = self._wants[other].wake
            # The asker's own shard asks for all its lanes by itself: woken here, it would ask
            # again at once, and again, for as long as the other lane's wish is remembered.
            if wake is not None and other[0] != claim[0]:
                wake()
        return 0


def tasks_a_message(settings: Settings, slots: Iterable[int], count: int, step_ms: float) -> int:
    """Return how many of *count* tasks go into one message.

    One while the lane is idle or its steps are long, many when they are short; *slots* of those
    who may receive it: none of them gets more than it has slots for.
    """
    each = list(slots)
    fair = -(-count // max(len(each), 1))
    by_work = int(settings.batch_work_ms / max(step_ms, 0.01))
    return max(1, min(settings.batch_tasks_max, min(each, default=1), fair, by_work))
