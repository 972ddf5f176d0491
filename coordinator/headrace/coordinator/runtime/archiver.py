"""Moves finished runs, and old segments of long live ones, from the state to the archive.

Never in the hot path: it works in batches behind the ticks. A run leaves the state only after
the archive has it; a crash in between does the same again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from headrace.coordinator.archive.store import Archive, ArchivedRun, RunSummary, Segment
from headrace.coordinator.core import Machine, Program, Run, entries
from headrace.coordinator.core import status as states
from headrace.coordinator.core.pieces import Pieces
from headrace.coordinator.runtime.evidence import Notary
from headrace.coordinator.runtime.watch import Watch
from headrace.errors import HeadraceError
from headrace.events import Chunk, SegmentArchived, chunk_first, decode_chunk
from headrace.messages import subjects

log = logging.getLogger(__name__)

BATCH_RUNS_MAX = 1_000
LOGGED_S = 10.0
"""Longer than that nothing waits for a tick: it was thrown away with its owner's state."""
RETRY_S = 1.0
RETRY_S_MAX = 8.0
"""Pauses double up to here while the archive takes nothing."""


Post = Callable[[Callable[[Machine], None]], None]
"""Runs a function in a coming tick of the owner."""


class Archiver:
    """One shard's way to the archive."""

    def __init__(
        self,
        archive: Archive,
        shard: int,
        notary: Notary | None = None,
        *,
        gather_s: float = 0.0,
        watch: Watch | None = None,
    ) -> None:
        """*notary*: seals runs; None: without a key. *gather_s*: pause before each batch, so that
        it holds more runs."""
        self._watch = watch or Watch()
        self._notary = notary or Notary()
        self._archive, self._shard, self._gather_s = archive, shard, gather_s
        self._ended: list[Run] = []
        self._long: dict[str, tuple[Run, int, int]] = {}
        """Live runs with a long history: (run, its first event, chunks to archive)."""
        self._plans: set[str] = set()
        self._wake = asyncio.Event()
        self._batch_max = BATCH_RUNS_MAX
        self._stored = False
        """Something has been stored since the last pause."""

    @property
    def backlog(self) -> int:
        """Finished runs that are not in the archive yet."""
        return len(self._ended)

    @property
    def oldest_ms(self) -> int:
        """When the run ended that has waited longest; 0: none waits."""
        return self._ended[0].finished_ms if self._ended else 0

    def begin(self, ended: Sequence[Run]) -> None:
        """A new ownership: *ended* are finished runs that still are in the state."""
        self._ended = list(ended)
        self._long.clear()
        if self._ended:
            self._wake.set()

    def add(self, runs: Sequence[Run]) -> None:
        """These have ended, and their ends are in the log."""
        self._ended += runs
        self._wake.set()

    def look_at(self, runs: Mapping[str, Run], long: Iterable[Run]) -> None:
        """The history of these has become long, or longer: those that live are cut."""
        for found in long:
            # It may have been parked since, and be another record now.
            run = runs.get(found.key)
            if run is None or run.history_bytes <= entries.LONG_BYTES or states.is_final(run.state):
                continue
            # Counted now, right behind an append: later the state may be ahead of the log.
            self._long[run.key] = (run, run.history_first, len(run.history) - 1)
            self._wake.set()

    async def run(self, post: Post) -> None:
        """Work until cancelled."""
        pause_s = 0.0
        while True:
            await self._wake.wait()
            if self._gather_s:
                await asyncio.sleep(self._gather_s)
            self._wake.clear()
            failed = False
            for store in (self._store_ended, self._store_long):
                try:
                    await store(post)
                except HeadraceError as error:
                    failed = True
                    self._watch.not_archived()
                    log.warning(
                        "archive not written, will try again",
                        extra={"shard": self._shard, "runs": len(self._ended), "error": str(error)},
                    )
            if failed:
                pause_s = next_pause_s(0.0 if self._stored else pause_s)
                self._stored = False
                await asyncio.sleep(pause_s)
                self._wake.set()

    async def _store_ended(self, post: Post) -> None:
        while self._ended:
            await self._store_runs(post)

    async def _store_long(self, post: Post) -> None:
        while self._long:
            await self._store_segment(*next(iter(self._long.values())), post)

    async def _store_runs(self, post: Post) -> None:
        begun_s = time.monotonic()
        batch = self._ended[: self._batch_max]
        try:
            for run in batch:
                await self._store_plan(run)
            await self._archive.put([await self._sealed(run) for run in batch])
            for run in batch:
                if run.history_first > 1 or run.history_bytes > entries.LONG_BYTES:
                    await self._complete(run)
        except HeadraceError:
            # Perhaps it is one run that cannot be stored: the others need not wait for it.
            self._batch_max = max(len(batch) // 2, 1)
            if len(batch) == 1:
                self._ended.append(self._ended.pop(0))
            raise
        self._batch_max = min(self._batch_max * 2, BATCH_RUNS_MAX)
        self._stored = True
        del self._ended[: len(batch)]
        self._watch.archived(len(batch), time.monotonic() - begun_s)

        def evict(machine: Machine) -> None:
            for run in batch:
                machine.evict(run)

        post(evict)

    async def _sealed(self, run: Run) -> ArchivedRun:
        found = archived(run, self._shard)
        packed = [segment.data for segment in found.segments]
        if run.history_first > 1:
            older = await self._archive.history(*subjects.split_key(run.key))
            before = [s.data for s in older if s.first < run.history_first]
            upto = 0
            for data in before:
                upto = max(upto, _end_of(decode_chunk(unpack(data)[-1])))
                # A long history has many segments.
                await asyncio.sleep(0)
            # A segment may reach into what the state still holds.
            rest = [chunk for chunk in run.history if chunk_first(chunk) >= upto]
            packed = [*before, pack(rest)]
        seal = self._notary.seal(run.key, events=run.events, plan=run.program.digest, packed=packed)
        summary = msgspec.structs.replace(found.summary, seal=seal)
        return ArchivedRun(summary, found.segments)

    async def _store_plan(self, run: Run) -> None:
        # Those before a patch, too: the history before it is told by them.
        for program in run.programs():
            if program.digest not in self._plans:
                from headrace.plan import encode_plan

                await self._archive.put_plan(program.digest, encode_plan(program.plan))
                self._plans.add(program.digest)

    async def _store_segment(self, run: Run, first: int, count: int, post: Post) -> None:
        """Archive all but the newest chunk of a long history, and nothing that is not logged."""
        chunks = run.history[:count]
        if not chunks or run.history_first != first or states.is_final(run.state):
            self._long.pop(run.key, None)
            return
        await self._put_segment(run, run.history_first, chunks)
        next_event = await self._stored_upto(run)
        cut = asyncio.Event()

        def archived_now(machine: Machine) -> None:
            live = machine.state.runs.get(run.key) is run and not states.is_final(run.state)
            if live and run.history_first < next_event <= run.events:
                machine.emit(run, SegmentArchived(next_event))
            cut.set()

        post(archived_now)
        # The next segment begins where this one ends, so the state must have heard of it.
        try:
            async with asyncio.timeout(LOGGED_S):
                await cut.wait()
        except TimeoutError:
            # The run is looked at again with its next event; stored twice it is one segment.
            log.warning("segment not logged in time", extra={"run": run.key, "first": first})
        finally:
            self._long.pop(run.key, None)

    async def _put_segment(self, run: Run, first: int, chunks: Sequence[bytes]) -> None:
        namespace, name = subjects.split_key(run.key)
        await self._archive.put_segment(namespace, name, Segment(first, pack(chunks)))

    async def _stored_upto(self, run: Run) -> int:
        """Return the number of the first event behind the run's archived segments.

        Asked rather than assumed: another owner, or we before an answer was lost, may have stored
        a segment under the same number that ends elsewhere, and the first one stored stays.
        """
        next_event = run.history_first
        after = run.history_first - 1
        for segment in await self._archive.history(*subjects.split_key(run.key), after=after):
            if segment.first == next_event:
                next_event = _end_of(decode_chunk(unpack(segment.data)[-1]))
                await asyncio.sleep(0)
        return next_event

    async def _complete(self, run: Run) -> None:
        """Store what the archived segments of a finished long run lack."""
        while (next_event := await self._stored_upto(run)) <= run.events:
            rest = [chunk for chunk in run.history if chunk_first(chunk) >= next_event]
            await self._put_segment(run, next_event, rest)

    async def segments(self, key: str, *, after: int, upto: int) -> list[Segment]:
        """Read a live run's archived segments, see `Archive.history`. Raises `HeadraceError`."""
        return await self._archive.history(*subjects.split_key(key), after=after, upto=upto)

    async def evidence(
        self, key: str, programs: Sequence[Program], chunks: Sequence[bytes]
    ) -> bytes:
        """Return the text of a live run's bundle, written in a thread. Raises `HeadraceError`."""
        return await asyncio.to_thread(
            self._notary.bundle, key, programs, chunks, shard=self._shard
        )


def next_pause_s(last_s: float) -> float:
    """Return the pause behind one of *last_s*; 0: there was none since something was stored."""
    return min(2 * last_s, RETRY_S_MAX) if last_s else RETRY_S


def _end_of(chunk: Chunk) -> int:
    """Return the number of the first event behind *chunk*."""
    return chunk.first + len(chunk.events)


def pack(chunks: Sequence[bytes]) -> bytes:
    """Return chunks as one segment's data: lengths (4 bytes, little-endian) and bytes."""
    return b"".join([len(chunk).to_bytes(4, "little") + chunk for chunk in chunks])


def unpack(data: bytes) -> list[bytes]:
    """Return the chunks of a segment."""
    chunks = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        chunks.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return chunks


def unpacking(segments: Iterable[Segment]) -> Pieces[list[bytes]]:
    """Return the chunks of all *segments*, piece by piece: one segment each."""
    chunks: list[bytes] = []
    for segment in segments:
        chunks += unpack(segment.data)
        yield
    return chunks


def archived(run: Run, shard: int) -> ArchivedRun:
    """Return what the archive keeps of a finished run."""
    namespace, name = subjects.split_key(run.key)
    summary = RunSummary(
        namespace=namespace,
        run=name,
        workflow=run.workflow,
        state=states.NAMES[run.state],
        reason=run.ended_reason,
        created_ms=run.created_ms,
        started_ms=run.started_ms,
        finished_ms=run.finished_ms,
        labels=run.labels,
        priority=run.priority,
        plan=run.program.digest,
        fingerprint=run.fingerprint,
        rerun_of=run.rerun_of,
        name=run.title,
        events=run.events,
        shard=shard,
    )
    return ArchivedRun(summary, [Segment(run.history_first, pack(run.history))])
