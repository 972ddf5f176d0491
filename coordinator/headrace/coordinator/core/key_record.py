"""Concurrency keys, locks and rate limits in their home shard: sets of holders, never counters.

A lock is a key with one holder, whose terms say until when. A rate limit is a key whose holders
keep their places for a period after they have begun: the places cool down. So in no period of that
length, wherever it begins, begin more than the limit says, whatever is late or sent twice: who
has the word to begin holds a place, and one that has begun is counted from when its home knows.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

COOLING_STEPS: Final = 256
"""Of a limit above this, places get free in so many steps a period: what is kept stays small."""


class Terms(NamedTuple):
    """On what terms somebody holds a lock, or waits for it."""

    ttl_ms: int = 0
    """How long it may be held; 0: no limit."""
    until_ms: int = 0
    """When the holder loses it, or the waiter gives up; 0: never."""
    token: int = 0
    """The holder's fencing token."""
    owner: str = ""
    """Who it is, for people."""


class KeyRecord:
    """One key."""

    __slots__ = ("audit_ms", "cooling", "holders", "limit", "per_ms", "terms", "waiters")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.audit_ms = 0
        """When the holders' shards are to be asked whether they are still there."""
        self.holders: dict[str, int] = {}
        """Holder id -> shard where the holder lives; -1: it is a client's."""
        self.waiters: dict[str, int] = {}
        """In order of arrival."""
        self.terms: dict[str, Terms] = {}
        """Of holders and waiters that have some."""
        self.per_ms = 0
        """Period of a rate limit; 0: it is none."""
        self.cooling: list[list[int]] = []
        """(until, how many) of the places of those that have begun, the oldest first."""

    def knows(self, holder: str) -> bool:
        """Tell whether it holds the key, or waits for it."""
        return holder in self.holders or holder in self.waiters

    def told(self, holder: str) -> tuple[int, ...]:
        """Return what the holder of a lock is told with it: token and end; of others, nothing."""
        terms = self.terms.get(holder)
        return (terms.token, terms.until_ms) if terms is not None and terms.token else ()

    def has_room(self, now_ms: int) -> bool:
        """Tell whether one more may hold the key."""
        taken = len(self.holders)
        for until_ms, count in self.cooling:
            if until_ms > now_ms:
                taken += count
        return taken < self.limit

    def started(self, now_ms: int) -> None:
        """A holder has begun: its place cools down for one period."""
        until_ms = now_ms + self.per_ms
        if self.limit > COOLING_STEPS:
            # Rounded up, so that none is free too early.
            step_ms = max(self.per_ms // COOLING_STEPS, 1)
            until_ms = -(-until_ms // step_ms) * step_ms
        if self.cooling and self.cooling[-1][0] >= until_ms:
            self.cooling[-1][1] += 1
        else:
            self.cooling.append([until_ms, 1])

    def cool(self, now_ms: int) -> None:
        """Forget the places that are free again."""
        while self.cooling and self.cooling[0][0] <= now_ms:
            del self.cooling[0]

    @property
    def is_idle(self) -> bool:
        """Nobody holds it or waits, and nothing is to be remembered."""
        return not (self.holders or self.waiters or self.cooling)

    def next_ms(self, now_ms: int) -> int:
        """Return when something is to be done about it: a wait or a lock is over, places are free.

        Of the places that are free already (but not yet forgotten) nobody expects anything more.
        0: nothing is to be done.
        """
        times = [terms.until_ms for terms in self.terms.values() if terms.until_ms]
        if self.waiters:
            times += [until_ms for until_ms, _ in self.cooling if until_ms > now_ms][:1]
        elif self.is_cooling(now_ms):
            times.append(self.cooling[-1][0])
        return min(times, default=0)

    def is_cooling(self, now_ms: int) -> bool:
        """Tell whether a place of one that has begun is not free yet."""
        return bool(self.cooling) and self.cooling[-1][0] > now_ms

    def free_ms(self, place: int) -> int:
        """Return about when the waiter at *place* (from 0) may begin, by what cools down; 0: not
        known, it depends on holders."""
        left = place - (self.limit - len(self.holders) - sum(count for _, count in self.cooling))
        for until_ms, count in self.cooling:
            left -= count
            if left < 0:
                return until_ms
        return 0

    def rest(self) -> list[Any]:
        """Return what only locks and rate limits have, as plain data that stays as it is; none:
        nothing."""
        if not (self.terms or self.per_ms):
            return []
        return [
            sorted((name, *terms) for name, terms in self.terms.items()),
            self.per_ms,
            [list(pair) for pair in self.cooling],
        ]

    def restore(self, rest: list[Any]) -> None:
        """Take what `rest` has given."""
        if rest:
            self.terms = {name: Terms(*terms) for name, *terms in rest[0]}
            self.per_ms, self.cooling = rest[1], [list(pair) for pair in rest[2]]
