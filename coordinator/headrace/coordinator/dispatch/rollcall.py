"""Who holds what, asked of all workers, when nobody knows what became of what was sent. Pure.

It is asked after a takeover (a predecessor sent it) and when the task stream was lost. What is in
doubt was sent under an earlier epoch or round. A worker that answers knows the new one: it drops
what it may still receive of the earlier ones, so its answer is complete for good, however late a
message comes. Time alone tells nothing here: messages wait in buffers, on both sides of the broker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

LEASES_MAX = 4
"""A live worker that does not answer for so many leases is not waited for any more."""

Key = tuple[str, int]
"""Run and step."""


class RollCall:
    """One shard's. Times are ms of a clock that never goes back."""

    def __init__(self) -> None:
        self._doubts: dict[Key, tuple[int, str]] = {}
        """Attempt, and why it is in doubt."""
        self._told: set[str] = set()
        self._since_ms = 0

    @property
    def is_open(self) -> bool:
        """Tell whether answers are still waited for."""
        return bool(self._doubts)

    def begin(self, attempts: Iterable[tuple[str, int, int]], reason: str, now_ms: int) -> None:
        """Ask, from the beginning: *attempts* (run, step, attempt) are in doubt from now on, too.

        Whoever has answered an earlier call answers again: the caller has begun a new round.
        """
        for run, step, attempt in attempts:
            self._doubts[run, step] = (attempt, reason)
        self._told.clear()
        self._since_ms = now_ms

    def told(self, worker: str) -> None:
        """A life of a worker has told, knowing the newest round, all that it holds."""
        if self._doubts:
            self._told.add(worker)

    def is_over(
        self, workers: Collection[str], *, everybody: bool, heard_ms: int, lease_ms: int
    ) -> bool:
        """Tell whether all have answered who can: *workers* are the live ones.

        *everybody*: these are all that may hold anything; otherwise others may be heard of for one
        lease more. *heard_ms*: what was said up to then was heard.
        """
        waited_ms = heard_ms - self._since_ms
        if not everybody and waited_ms <= lease_ms:
            return False
        return self._told.issuperset(workers) or waited_ms > LEASES_MAX * lease_ms

    def end(self) -> Iterator[tuple[str, int, int, str]]:
        """Close the call; return what was in doubt, as (run, step, attempt, reason)."""
        doubts, self._doubts = self._doubts, {}
        self._told.clear()
        for (run, step), (attempt, reason) in doubts.items():
            yield run, step, attempt, reason

    def clear(self) -> None:
        """Forget everything."""
        self._doubts.clear()
        self._told.clear()
