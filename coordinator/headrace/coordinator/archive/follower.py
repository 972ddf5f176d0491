"""Keeps a projection at the end of the index stream: one task, batches, and a say in freshness.

Reads are direct gets, which any replica answers, so a lagging one may say "nothing new": then it
is asked again. A core subscription to the records' subject wakes the task at once; a poll twice a
second is for what that misses.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from headrace.bus import Bus, JetStreamError, JetStreamMissing, Message, Stored
from headrace.coordinator.archive import projection
from headrace.coordinator.archive.database import Database
from headrace.coordinator.archive.projection import Entry
from headrace.coordinator.archive.records import INDEX, INDEX_STREAM, Unreadable, decode_record
from headrace.errors import Unavailable, Unreachable

log = logging.getLogger(__name__)

POLL_S: Final = 0.5
RETRY_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Pauses while something is known to be there and a replica has not got it yet."""
TROUBLE_S: Final = (0.1, 0.25, 0.5, 1.0)
STALE_S: Final = 10.0
"""Queries are refused when the stream could not be read for this long."""
AWAY_S: Final = 5 * 60.0
"""Away for longer: records may have come and gone meanwhile, so the projection starts anew."""
START_TIMEOUT_S: Final = 1.0
"""A stream that was made a moment ago may have no leader yet, and nobody answers then."""
_BATCH_RECORDS: Final = 256
_BATCH_BYTES: Final = 4 * 1024 * 1024
_READ_TIMEOUT_S: Final = 5.0


class Follower:
    """Owns the task between `start` and `close`."""

    def __init__(self, bus: Bus, database: Database, ensure: Callable[[], Awaitable[None]]) -> None:
        self._bus = bus
        self._database = database
        self._ensure = ensure
        """Makes the streams; called again when they are gone."""
        self._applied = 0
        self._expected = 0
        self._emptied = True
        """False: the projection holds what is no more, and must be emptied first."""
        self._generation = 0
        self._eager = 0
        """Reads to make in short order: a record was seen on its way to the stream."""
        self._read_s = 0.0
        """Loop time of the last read that worked."""
        self._trouble = ""
        self._wake = asyncio.Event()
        self._advanced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.created = ""
        """When the stream was made: tells it from another one of its name."""
        self.broker_ms = 0
        """The broker's time of the newest record, ms since the epoch."""

    async def start(self) -> None:
        """Begin; `caught_up` waits for all that is there now. Raises what the bus raises."""
        self._generation = self._bus.generation
        self.created = (await self._bus.js.stream_info(INDEX_STREAM)).created
        self._expected = await self._last(timeout_s=START_TIMEOUT_S)
        self._read_s = asyncio.get_running_loop().time()
        self._subscription = self._bus.subscribe(INDEX, self._told)
        self._task = asyncio.create_task(self._run(), name="archive-follower")

    def expect(self, sequence: int) -> None:
        """Say that record *sequence* is stored: `caught_up` waits for it from now on."""
        self._expected = max(self._expected, sequence)
        self._wake.set()

    async def look(self) -> None:
        """Expect all that is stored now, by whomever. Raises what the bus raises."""
        self.expect(await self._last())

    async def caught_up(self, *, timeout_s: float) -> None:
        """Return when all that was expected is applied. Raises `Unavailable`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while self._applied < self._expected:
                    self._check()
                    self._wake.set()
                    await self._advanced.wait()
        except TimeoutError:
            raise Unavailable(
                f"archive: the index is at record {self._applied} of {self._expected}"
                + (f" ({self._trouble})" if self._trouble else "")
            ) from None
        self._check()
        if loop.time() - self._read_s > STALE_S:
            raise Unavailable(f"archive: the index cannot be followed: {self._trouble}")

    async def close(self) -> None:
        """Stop; twice is fine."""
        task, self._task = self._task, None
        if task is None:
            return
        self._subscription.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _check(self) -> None:
        if self._task is None or self._task.done():
            raise Unavailable("archive: the index is not followed any more")

    def _told(self, _: Message) -> None:
        self._eager = len(RETRY_S)
        self._wake.set()

    async def _run(self) -> None:
        failures = idle = 0
        while True:
            self._wake.clear()
            try:
                idle = 0 if await self._step() else idle + 1
                if idle:
                    await self._pause(idle)
            except (Unreachable, JetStreamError, Unavailable) as error:
                if not self._trouble:
                    log.warning("archive index cannot be followed", extra={"error": str(error)})
                self._trouble = str(error)
                await asyncio.sleep(TROUBLE_S[min(failures, len(TROUBLE_S) - 1)])
                failures += 1
                continue
            except Exception:
                log.exception("archive index: the follower ends")
                self._signal()
                raise
            if self._trouble:
                log.info("archive index is followed again")
            self._trouble, failures = "", 0

    async def _pause(self, idle: int) -> None:
        """Wait for news, shortly if something must be there or is on its way."""
        behind = self._applied < self._expected
        if behind and idle % len(RETRY_S) == 0 and await self._last() <= self._applied:
            # What we waited for has been deleted meanwhile.
            self._expected = self._applied
            self._signal()
        if behind or self._eager:
            self._eager = max(self._eager - 1, 0)
            await asyncio.sleep(RETRY_S[min(idle, len(RETRY_S)) - 1])
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()

    async def _last(self, *, timeout_s: float = _READ_TIMEOUT_S) -> int:
        """Return the sequence of the newest record, as the stream's leader has it; 0: none."""
        stored = await self._bus.js.get_last(INDEX_STREAM, INDEX, timeout_s=timeout_s)
        return 0 if stored is None else stored.seq

    async def _reidentify(self) -> None:
        """After a reconnect: the stream may be gone, or another one of the same name."""
        if self._generation == self._bus.generation:
            return
        generation = self._bus.generation
        try:
            info = await self._bus.js.stream_info(INDEX_STREAM)
        except JetStreamMissing:
            log.error("archive streams are gone and made anew")
            await self._ensure()
            info = await self._bus.js.stream_info(INDEX_STREAM)
        if info.created != self.created:
            log.error(
                "archive index starts anew: another stream", extra={"stream_created": info.created}
            )
            await self._restart()
            self.created = info.created
        self._generation = generation

    async def _restart(self) -> None:
        """Begin to empty the projection; queries wait until it is complete again."""
        self._expected = max(await self._last(), 1)
        self._applied = 0
        self._emptied = False

    async def _step(self) -> bool:
        """Read and apply one batch; tell whether there was one."""
        await self._reidentify()
        now_s = asyncio.get_running_loop().time()
        if now_s - self._read_s > AWAY_S and self._applied:
            log.warning("archive index starts anew", extra={"away_s": round(now_s - self._read_s)})
            await self._restart()
        if not self._emptied:
            await self._database.write(projection.reset)
            self._emptied = True
        got, _ = await self._bus.js.read(
            INDEX_STREAM,
            self._applied + 1,
            count=_BATCH_RECORDS,
            bytes_max=_BATCH_BYTES,
            subject=INDEX,
            timeout_s=_READ_TIMEOUT_S,
        )
        self._read_s = asyncio.get_running_loop().time()
        if not got:
            return False
        await self._database.write(_fold, got)
        self._applied = got[-1].seq
        self.broker_ms = max(self.broker_ms, time_ms(got[-1]))
        self._signal()
        return True

    def _signal(self) -> None:
        """Wake all who wait, once."""
        self._advanced.set()
        self._advanced = asyncio.Event()


def time_ms(stored: Stored) -> int:
    """Return when the broker stored a message, ms since the epoch; 0 if it did not say."""
    return int(datetime.fromisoformat(stored.time).timestamp() * 1000) if stored.time else 0


def _fold(db: sqlite3.Connection, got: Sequence[Stored]) -> None:
    entries: list[Entry] = []
    for stored in got:
        try:
            entries.append(Entry(stored.seq, time_ms(stored), decode_record(stored.data)))
        except Unreadable as error:
            # One record of a newer release, or a damaged one, must not hide all others.
            log.error(
                "archive index record is unreadable",
                extra={"sequence": stored.seq, "error": str(error)},
            )
    projection.apply(db, entries, upto=got[-1].seq)
