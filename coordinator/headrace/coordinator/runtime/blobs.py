"""Deletes the large values (claim checks) of runs that are no more.

A value is stored before the event that names it, under the key of its run. It goes when neither
the shard nor the archive knows the run: retention has deleted it, or its submit never arrived. A
walk through the bucket finds both, so there is one rule and no list of what is to be deleted. It
is bounded, may stop anywhere, and any number of coordinators may walk at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from headrace.bus import Bus, ObjectEntry
from headrace.coordinator.runtime.layout import Layout
from headrace.errors import HeadraceError, Unavailable
from headrace.messages import ClientBatch, HasRuns, ReplyBatch, decode, encode, subjects

log = logging.getLogger(__name__)

PIECE = 1_000
"""Objects looked at in one piece."""
PIECES = 10
"""Pieces of one pass."""
PASS_S = 60.0
"""Between two passes: a bucket of a million objects is walked through in under two hours."""
ASK_TIMEOUT_S = 2.0
_PROTOCOL = 1

Key = tuple[str, str]
"""(namespace, run id)."""
Ask = Callable[[int, str, Sequence[str]], Awaitable[Iterable[str]]]
"""Asks a shard which of some runs of a namespace it holds. Raises `HeadraceError` if it does not
say: to be silent is not to know nothing."""


class Bucket(Protocol):
    """What the walk needs of an object store; see `ObjectBucket`."""

    async def entries(self, after: int, *, count: int) -> tuple[list[ObjectEntry], int]:
        """Return objects from behind *after* on, and where to go on (0: the end)."""
        ...

    async def drop(self, entry: ObjectEntry) -> bool:
        """Delete an object that is as old as it was; tell whether it was."""
        ...


class Archived(Protocol):
    """What the walk needs of the archive."""

    async def known(self, keys: Sequence[Key]) -> set[Key]:
        """Return those of *keys* that are kept."""
        ...


class Swept(NamedTuple):
    """What one piece of the walk did."""

    looked: int
    dropped: int
    dropped_bytes: int


class BlobSweep:
    """One coordinator's walk through the bucket."""

    def __init__(
        self, bucket: Bucket, archive: Archived, ask: Ask, layout: Layout, *, margin_ms: int
    ) -> None:
        self._bucket, self._archive, self._ask = bucket, archive, ask
        self._layout, self._margin_ms = layout, margin_ms
        self._after = 0

    @property
    def at_start(self) -> bool:
        """The next piece is the first of a round."""
        return not self._after

    async def piece(self, now_ms: int) -> Swept:
        """Look at the next objects, and delete those whose run is no more.

        Raises `HeadraceError`; the same piece is next then.
        """
        entries, after = await self._bucket.entries(self._after, count=PIECE)
        old: dict[Key, list[ObjectEntry]] = defaultdict(list)
        for entry in entries:
            key = run_of(entry.name)
            if key is not None and now_ms - entry.time_ms > self._margin_ms:
                old[key].append(entry)
        dropped = size = 0
        for key in await self._dead(old):
            for entry in old[key]:
                if await self._bucket.drop(entry):
                    dropped += 1
                    size += entry.size
        self._after = after
        return Swept(len(entries), dropped, size)

    async def _dead(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of *keys* that no shard holds and the archive does not keep.

        Shards are asked first: a run leaves its shard only when the archive has it.
        """
        asked: dict[tuple[int, str], list[str]] = defaultdict(list)
        for namespace, run in keys:
            for shard in self._layout.homes(subjects.run_key(namespace, run)):
                asked[shard, namespace].append(run)
        left = set(keys)
        for (shard, namespace), runs in asked.items():
            try:
                held = await self._ask(shard, namespace, runs)
            except HeadraceError as error:
                # Nobody leads it just now: its runs keep what they have until the next round.
                log.debug("shard not asked", extra={"shard": shard, "error": str(error)})
                held = runs
            left.difference_update((namespace, run) for run in held)
        if not left:
            return []
        wanted = sorted(left)
        kept = await self._archive.known(wanted)
        return [key for key in wanted if key not in kept]


async def keep_sweeping(
    sweep: BlobSweep,
    *,
    now_ms: Callable[[], int],
    may: Callable[[], bool],
    swept: Callable[[Swept], None],
    failed: Callable[[], None],
) -> None:
    """Make passes until cancelled, while *may* says so (one coordinator is enough)."""
    while True:
        await asyncio.sleep(PASS_S)
        try:
            for _ in range(PIECES):
                if not may():
                    break
                swept(await sweep.piece(now_ms()))
                if sweep.at_start:
                    break
        except HeadraceError as error:
            failed()
            log.warning("large values not swept, will try again", extra={"error": str(error)})


def run_of(name: str) -> Key | None:
    """Return the run that an object belongs to; None: none of ours, to be left alone."""
    namespace, _, rest = name.partition("/")
    run, _, own = rest.partition("/")
    if not own or not subjects.valid_name(namespace) or not subjects.valid_name(run):
        return None
    return namespace, run


def asking(bus: Bus) -> Ask:
    """Return how shards are asked over *bus*; the answer comes from an owner that still is one."""

    async def ask(shard: int, namespace: str, runs: Sequence[str]) -> Iterable[str]:
        batch = ClientBatch(_PROTOCOL, namespace, [HasRuns(runs=list(runs))])
        subject = subjects.command(namespace, shard)
        answer = await bus.request(subject, encode(batch), timeout_s=ASK_TIMEOUT_S)
        replies = decode(ReplyBatch, answer.data).replies
        if len(replies) != 1 or replies[0].code:
            raise Unavailable(f"shard {shard} does not say which runs it holds")
        return decode(list[str], replies[0].result)

    return ask
