"""A shard's log in a JetStream stream, fenced by position *and* by the owner's epoch record.

The stream has two subjects: entries, and one record for each ownership. An append names the last
position and the writer's own epoch record; a position alone does not fence, since a deposed owner
can be right about it by chance. A takeover is a compare-and-set on the epoch subject alone, so it
never has to win a race against a busy owner's appends. Whenever the outcome of an append is not
known, taking a new epoch makes it final: what is not stored before that record never will be.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

import msgspec

from headrace.bus import (
    Bus,
    JetStreamBusy,
    JetStreamError,
    JetStreamMissing,
    StorageFull,
    Stored,
    StreamConfig,
    WrongLastSequence,
)
from headrace.coordinator.shardlog.levels import FEATURE_LEVEL, NeedsNewerRelease
from headrace.coordinator.shardlog.log import Fenced, Fold, Level, LogFull, LogLost, LogStatus
from headrace.errors import Unavailable, Unreachable
from headrace.messages import subjects

APPEND_TIMEOUT_S = 1.0
"""One try; a broker that loses its leader answers nothing for 5 to 8 s."""
RESOLVE_TIMEOUT_S = 15.0
"""An append, with all it takes to find out what became of it."""
TAKE_TIMEOUT_S = 60.0
"""A takeover reads the whole tail of the log."""

READ_TIMEOUT_S = 0.25
READ_TIMEOUT_MAX_S = 2.0
"""Reads may be repeated, and a stream without a leader does not say so: it stays silent."""
READ_COUNT = 1000
READ_BYTES_MAX = 4 * 1024 * 1024
FOLLOW_PAUSE_S = 0.02
FOLLOW_PAUSE_MAX_S = 0.25
RETRY_PAUSE_S = 0.01
RETRY_PAUSE_MAX_S = 0.5

ENTRY_OVERHEAD_BYTES = 300
"""What the broker stores beside a payload: subject, headers, checksums; rounded up."""
RESERVE_BYTES_MAX = 8 * 1024 * 1024
"""Kept free below the stream's limit: a full log must still be taken over, then purged."""


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One ownership. The nonce makes the same process twice two owners."""

    owner: str
    nonce: str
    feature_level: int = 0
    """What a later owner must be able to read."""
    release: str = ""
    """Of the owner, for messages."""
    restore: str = ""
    """The backup that is being restored: nobody else owns the shard until it is whole."""


class JetStreamLog:
    """`ShardLog` on JetStream. *synced* is what the caller knows of the server's fsync."""

    unread = False

    def __init__(
        self,
        bus: Bus,
        shard: int,
        *,
        level: Level = "journal",
        replicas: int = 1,
        max_bytes: int = 0,
        synced: bool = False,
        feature_level: int = FEATURE_LEVEL,
        stamp: Callable[[], int] | None = None,
        release: str = "",
        append_timeout_s: float = APPEND_TIMEOUT_S,
        resolve_timeout_s: float = RESOLVE_TIMEOUT_S,
        take_timeout_s: float = TAKE_TIMEOUT_S,
        on_resolved: Callable[[str], None] | None = None,
        restore: str = "",
    ) -> None:
        """*on_resolved*: told what became of an append in doubt, `stored`, `absent` or `fenced`.

        *feature_level*: what we can read; *stamp* returns what a successor must be able to (the
        same, if it is not given). *restore*: the backup that we are to restore.
        """
        self._bus, self._js, self._shard = bus, bus.js, shard
        self._level: Level = level
        self._synced = synced
        self._readable, self._release = feature_level, release
        self._stamp = stamp or (lambda: feature_level)
        self._append_timeout_s = append_timeout_s
        self._resolve_timeout_s = resolve_timeout_s
        self._take_timeout_s = take_timeout_s
        self._on_resolved = on_resolved or (lambda _outcome: None)
        self._restore = restore
        self._stream = subjects.log_stream(shard)
        self._data, self._epochs = subjects.log(shard), subjects.log_epoch(shard)
        self._config = StreamConfig(
            name=self._stream,
            subjects=(self._data, self._epochs),
            storage="memory" if level == "memory" else "file",
            num_replicas=replicas,
            discard="new",
            max_bytes=max_bytes or -1,
        )
        self._bytes_max = max_bytes
        self._reserve = min(max_bytes // 20, RESERVE_BYTES_MAX)
        self._bytes = 0
        self._epoch = self._feature_level = 0
        self._last = 0
        self._owner = self._nonce = ""
        self._owned = False
        self._closed = asyncio.Event()
        self.taken_at_ms = 0
        """The broker's clock (milliseconds since 1970) when it stored our epoch record."""
        self.taken_s = 0.0
        """The loop's time when the broker said that it had stored it."""

    @property
    def shard(self) -> int:
        """Number of the shard."""
        return self._shard

    @property
    def epoch(self) -> int:
        """Fencing number of our ownership: the position of its record; 0 before `take`."""
        return self._epoch

    @property
    def feature_level(self) -> int:
        """See `ShardLog.feature_level`."""
        return self._feature_level

    # -- ownership -----------------------------------------------------------------------------

    async def take(self, owner: str, fold: Fold, *, after: int = 0) -> int:
        """See `ShardLog.take`. Raises `NeedsNewerRelease` too, and `Unavailable` while the shard
        is being restored."""
        self._owned = False
        self._owner, self._nonce = owner, os.urandom(8).hex()
        try:
            async with asyncio.timeout(self._take_timeout_s):
                await self._ensure_stream()
                epoch = await self._claim(standing=0)
                if epoch <= after:
                    # A stream made anew, or cut off by a power loss: its positions mean something
                    # else now, and the entries that the caller has not seen cannot be told.
                    raise LogLost(
                        f"shard {self._shard}: the log ends at {epoch}, before position {after} "
                        "of what was read of it: acknowledged entries are lost"
                    )
                await self._read(after + 1, epoch, fold)
                await self._measure()
        except TimeoutError:
            raise Unreachable(
                f"shard {self._shard}: not taken in {self._take_timeout_s} s"
            ) from None
        self._epoch = self._last = epoch
        self._owned = True
        return epoch

    async def _claim(self, *, standing: int) -> int:
        """Store a new epoch record of ours and return its position.

        With *standing*, our record so far, raises `Fenced` unless it is still the last one. Tries
        that may or may not have reached the broker bear the same nonce and the same condition: at
        most one is stored, and reading the subject tells which.
        """
        pause = _Pause()
        while True:
            try:
                stored = await self._js.get_last(
                    self._stream, self._epochs, timeout_s=pause.timeout_s
                )
                last, record = _epoch_record(stored)
                if record.nonce == self._nonce and last > standing:
                    self._feature_level = record.feature_level
                    self.taken_s = asyncio.get_running_loop().time()
                    return last
                if standing and last != standing:
                    raise Fenced(self._shard, epoch=last, owner=record.owner)
                if record.restore not in ("", self._restore) and last != standing:
                    raise Unavailable(
                        f"shard {self._shard} is being restored from backup {record.restore}; if "
                        "`flowctl cluster restore` is over and has failed, run it again with that "
                        "file"
                    )
                check_level(self._shard, record, self._readable)
                ours = EpochRecord(
                    owner=self._owner,
                    nonce=self._nonce,
                    feature_level=max(record.feature_level, self._stamp()),
                    release=self._release,
                    restore=self._restore,
                )
                ack = await self._js.publish(
                    self._epochs,
                    msgspec.json.encode(ours),
                    timeout_s=self._append_timeout_s,
                    headers={"Nats-Expected-Last-Subject-Sequence": str(last)},
                )
                self._feature_level = ours.feature_level
                self.taken_s = asyncio.get_running_loop().time()
                return ack.seq
            except StorageFull as error:
                raise LogFull(f"shard {self._shard}: {error}") from error
            except (WrongLastSequence, Unreachable, JetStreamBusy):
                await pause()

    # -- appending -----------------------------------------------------------------------------

    async def append(self, payload: bytes) -> int:
        """See `ShardLog.append`."""
        assert self._owned, "append needs an ownership: take the log (again)"
        size = len(payload) + ENTRY_OVERHEAD_BYTES
        if self._bytes_max and self._bytes + size > self._bytes_max - self._reserve:
            raise LogFull(f"shard {self._shard}: {self._bytes} of {self._bytes_max} bytes used")
        # Cancelled or not resolved in time, the outcome stays unknown: then `take` is next.
        self._owned = False
        try:
            async with asyncio.timeout(self._resolve_timeout_s):
                self._last = await self._append(payload)
        except TimeoutError:
            raise Unreachable(
                f"shard {self._shard}: append not resolved in {self._resolve_timeout_s} s"
            ) from None
        except (LogFull, Unavailable):
            self._owned = True
            raise
        self._owned = True
        self._bytes += size
        return self._last

    async def confirm(self) -> None:
        """See `ShardLog.confirm`: asks the stream's leader for the last epoch record."""
        try:
            stored = await self._js.get_last(
                self._stream, self._epochs, timeout_s=self._append_timeout_s
            )
        except JetStreamError as error:
            raise Unreachable(f"shard {self._shard}: {error}") from error
        last, record = _epoch_record(stored)
        if last != self._epoch:
            raise Fenced(self._shard, epoch=last, owner=record.owner)

    def append_now(self, payload: bytes) -> int:
        """Never: storing takes a round trip."""
        return 0

    async def _append(self, payload: bytes) -> int:
        while True:
            refusal: JetStreamError | None = None
            try:
                ack = await self._js.publish(
                    self._data,
                    payload,
                    timeout_s=self._append_timeout_s,
                    headers={
                        "Nats-Expected-Last-Sequence": str(self._last),
                        "Nats-Expected-Last-Subject-Sequence": str(self._epoch),
                        "Nats-Expected-Last-Subject-Sequence-Subject": self._epochs,
                    },
                )
                return ack.seq
            except StorageFull as error:
                if self._config.num_replicas == 1:
                    raise LogFull(f"shard {self._shard}: {error}") from error
                refusal = error  # the leader has no room; another replica may have stored it
            except (WrongLastSequence, Unreachable, JetStreamBusy):
                pass
            except JetStreamError as error:
                refusal = error
            try:
                position = await self._resolve(payload)
            except Fenced:
                self._on_resolved("fenced")
                raise
            self._on_resolved("stored" if position else "absent")
            if position:
                return position
            if isinstance(refusal, StorageFull):
                raise LogFull(f"shard {self._shard}: {refusal}") from refusal
            if refusal is not None:
                raise Unavailable(f"shard {self._shard}: {refusal}") from refusal

    async def _resolve(self, payload: bytes) -> int:
        """Return the position of *payload*; 0 when it is not, and never will be, in the log."""
        try:
            epoch = await self._claim(standing=self._epoch)
        except LogFull as error:
            raise Unreachable(f"shard {self._shard}: outcome unknown, {error}") from error
        found: list[tuple[int, bytes]] = []
        await self._read(self._last + 1, epoch, lambda *entry: found.append(entry))
        self._epoch = self._last = epoch
        if not found:
            return 0
        # One append was in flight, and no foreign epoch lies between: nobody else wrote here.
        assert [data for _, data in found] == [payload], f"foreign entries: {found[0][0]}, …"
        return found[0][0]

    # -- reading -------------------------------------------------------------------------------

    async def _read(self, start: int, upto: int, fold: Callable[[int, bytes], object]) -> None:
        """Fold every entry from *start* to *upto*, the position of an epoch record.

        Any replica answers, one that lags too: nothing but reaching *upto* ends this.
        """
        pause = _Pause()
        while start <= upto:
            got = await self._read_some(start, pause.timeout_s)
            if not got:
                await pause()
                continue
            pause = _Pause()
            for stored in got:
                if stored.seq > upto:
                    return  # our record has been purged: there is a newer one
                if stored.subject == self._data:
                    fold(stored.seq, stored.data)
                elif stored.seq == upto:
                    self.taken_at_ms = _time_ms(stored.time)
                start = stored.seq + 1

    async def _read_some(self, start: int, timeout_s: float) -> list[Stored]:
        try:
            got, _ = await self._js.read(
                self._stream,
                start,
                count=READ_COUNT,
                bytes_max=READ_BYTES_MAX,
                timeout_s=timeout_s,
            )
        except (Unreachable, JetStreamBusy):
            return []
        return got

    async def follow(self, *, after: int) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """See `ShardLog.follow`: at most 0.25 s behind an idle log, 20 ms behind a busy one."""
        start = after + 1
        pause_s = FOLLOW_PAUSE_S
        while not self._closed.is_set():
            got = await self._read_some(start, READ_TIMEOUT_MAX_S)
            if got:
                start = got[-1].seq + 1
            if entries := [(one.seq, one.data) for one in got if one.subject == self._data]:
                yield entries
            if len(got) < READ_COUNT:
                pause_s = FOLLOW_PAUSE_S if got else min(pause_s * 2, FOLLOW_PAUSE_MAX_S)
                # Not `wait_for`: before Python 3.12 it can swallow a cancellation.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._closed.wait()

    # -- upkeep --------------------------------------------------------------------------------

    async def purge(self, *, upto: int) -> None:
        """See `ShardLog.purge`. Of the epoch records all but the newest go too."""
        if upto > 0:
            # The filter is not optional: without it the epoch record goes, and every append is
            # refused from then on.
            await self._js.purge(self._stream, subject=self._data, upto=upto)
        await self._js.purge(self._stream, subject=self._epochs, keep=1)
        await self._measure()

    async def status(self) -> LogStatus:
        """See `ShardLog.status`."""
        info = await self._js.stream_info(self._stream, subjects=self._data)
        entries = (info.state.subjects or {}).get(self._data, 0)
        first = last = 0
        if entries:
            oldest, _ = await self._js.read(self._stream, 1, count=1, subject=self._data)
            newest = await self._js.get_last(self._stream, self._data)
            first = oldest[0].seq if oldest else 0
            last = newest.seq if newest else 0
        return LogStatus(
            level=self._level,
            first=first,
            last=last,
            entries=entries,
            bytes=info.state.bytes,
            bytes_max=info.max_bytes,
            synced=self._synced,
        )

    async def restart(self, upto: int) -> None:
        """Drop everything, ownership too, and number what comes from behind *upto* on.

        For a restore only, into a log that holds nothing: `take` comes next.
        """
        self._owned = False
        await self._js.renumber(self._stream, upto)

    async def hand_over(self) -> None:
        """End a restore: from now on anybody may own the shard."""
        self._restore, self._nonce = "", os.urandom(8).hex()
        await self._claim(standing=self._epoch)
        self._owned = False

    async def close(self) -> None:
        """See `ShardLog.close`; the stream and our epoch record stay as they are."""
        self._owned = False
        self._closed.set()

    async def _ensure_stream(self) -> None:
        pause = _Pause()
        while True:
            try:
                await self._js.ensure_stream(self._config)
            except (Unreachable, JetStreamBusy):
                await pause()
            else:
                return

    async def _measure(self) -> None:
        try:
            self._bytes = (await self._js.stream_info(self._stream)).state.bytes
        except (Unreachable, JetStreamBusy, JetStreamMissing):
            return  # the broker's own limit still holds; this figure only keeps the reserve


class _Pause:
    """Growing pauses between tries, with jitter, so that two takers do not keep step."""

    def __init__(self) -> None:
        self._pause_s = RETRY_PAUSE_S
        self.timeout_s = READ_TIMEOUT_S
        """How long the next read may take; grows too."""

    async def __call__(self) -> None:
        await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, RETRY_PAUSE_MAX_S)
        self.timeout_s = min(self.timeout_s * 2, READ_TIMEOUT_MAX_S)


_NO_RECORD = EpochRecord(owner="", nonce="")


def _epoch_record(stored: Stored | None) -> tuple[int, EpochRecord]:
    if stored is None:
        return 0, _NO_RECORD
    return stored.seq, msgspec.json.decode(stored.data, type=EpochRecord)


def check_level(shard: int, record: EpochRecord, has: int) -> None:
    """Raise `NeedsNewerRelease` unless a release of level *has* may own the shard."""
    if record.feature_level > has:
        raise NeedsNewerRelease(
            shard,
            needs=record.feature_level,
            has=has,
            owner=record.owner.partition(".")[0],
            release=record.release,
        )


async def last_epoch(bus: Bus, shard: int) -> tuple[int, EpochRecord]:
    """Return the newest ownership of a shard and its position; 0: nobody has owned it.

    Raises `JetStreamMissing` when it has no log yet, `Unreachable` and `JetStreamError`.
    """
    return _epoch_record(
        await bus.js.get_last(subjects.log_stream(shard), subjects.log_epoch(shard))
    )


def _time_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000) if text else 0
