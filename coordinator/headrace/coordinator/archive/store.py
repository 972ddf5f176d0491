"""What the archive promises. The implementations are `memory`, `sqlite`, `jetstream`
and `postgres`.

A finished run's complete history lives here; so do the older segments of long live runs. Every
write is idempotent: the same record or segment twice is one, whoever writes it, so that a crash
between the write and the log's `RunEvicted` is harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from headrace.messages import ListRuns, RunPage, Seal

LAST_EVENT: Final = 2**62
"""No event of a run has a number that high."""


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Consecutive events of a run, encoded as the log holds them."""

    first: int
    """Number of the first event, from 1."""
    data: bytes


class RunSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What lists and filters need of a closed run. Times in ms since the epoch."""

    namespace: str
    run: str
    workflow: str
    state: str
    """COMPLETED, FAILED or CANCELLED."""
    reason: str = ""
    created_ms: int
    started_ms: int = 0
    finished_ms: int
    labels: dict[str, str] = {}
    priority: int = 0
    plan: str
    """Digest; the plan itself is stored once, by `put_plan`."""
    fingerprint: str = ""
    """Digest of definition and input: tells a resent submit from a different one."""
    rerun_of: str = ""
    events: int = 0
    shard: int = 0
    name: str = ""
    """`run-name`, evaluated."""
    seal: Seal | None = None
    """Made when it had ended; None: archived by an earlier release."""


class ArchivedRun(msgspec.Struct, frozen=True, array_like=True):
    """A closed run with the segments that were not archived while it lived."""

    summary: RunSummary
    segments: list[Segment]


class Archive(Protocol):
    """Closed runs of all shards. Raises `Unavailable` when the store cannot answer."""

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        """Store *runs* durably, all before this returns; idempotent by (namespace, run)."""
        ...

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        """Store a segment of a live run durably; idempotent by (namespace, run, first)."""
        ...

    async def put_plan(self, digest: str, data: bytes) -> None:
        """Store an encoded plan once."""
        ...

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        """Return a closed run's summary, or None."""
        ...

    async def known(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return those of *keys*, (namespace, run), that are closed runs kept here."""
        ...

    async def keys(self, *, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """Return the first *limit* (namespace, run) behind *after* of which anything is kept.

        In order; live runs with archived segments too. From ``("", "")`` on, this is all of them.
        """
        ...

    async def history(
        self, namespace: str, run: str, *, after: int = 0, upto: int = LAST_EVENT
    ) -> list[Segment]:
        """Return the segments of a run in order, also those of a run that is still live.

        Those only that may have events behind number *after*, up to number *upto*: from the last
        one that begins at most one behind *after*.
        """
        ...

    async def plan(self, digest: str) -> bytes | None:
        """Return an encoded plan, or None."""
        ...

    async def list(self, namespace: str, query: ListRuns) -> RunPage:
        """Return closed runs that match *query*, newest first by (created_ms, run); filters are
        applied in the store; pages by an opaque cursor that stays valid while runs come and go."""
        ...

    async def expire(self, *, before_ms: int, limit: int) -> int:
        """Delete at most *limit* runs that finished before *before_ms*; return how many."""
        ...

    async def close(self) -> None:
        """Flush and free."""
        ...
