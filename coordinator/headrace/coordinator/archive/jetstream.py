"""The archive in JetStream, for any number of coordinators.

Bytes go to one stream (or the object store), then a record that says where to the index stream;
the acknowledgement of the record is what makes a run archived. Every coordinator follows the
index stream into a SQLite projection of its own, and answers lists and filters from that. The
projection is made again at each start: nothing on a coordinator's disk is worth keeping.

A query sees what this coordinator has put, whatever was there when it opened the archive, and
what others have put until about a second ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

from headrace.bus import (
    Bus,
    CorruptObject,
    JetStreamError,
    ObjectBucket,
    Stored,
    StreamConfig,
    WrongLastSequence,
)
from headrace.coordinator.archive import index, projection
from headrace.coordinator.archive.database import Database
from headrace.coordinator.archive.follower import Follower, time_ms
from headrace.coordinator.archive.records import (
    BUCKET,
    DATA,
    INDEX,
    INDEX_STREAM,
    MESSAGE_BYTES_MAX,
    PLANS,
    STREAM,
    Archived,
    Blob,
    Expired,
    Piece,
    Record,
    Unreadable,
    decode_group,
    encode_group,
    encode_record,
    groups,
    plan_subject,
    portions,
)
from headrace.coordinator.archive.store import LAST_EVENT, ArchivedRun, RunSummary, Segment
from headrace.errors import Busy, InvalidRequest, LimitExceeded, NotFound, Unavailable, Unreachable
from headrace.messages import ListRuns, RunPage
from headrace.messages.subjects import valid_name

TIMEOUT_S: Final = 5.0
EXPIRIES_KEPT_MS: Final = 15 * 60_000
"""How long an *Expired* record stays at least; a follower that was away for longer starts anew."""
ORPHANS_KEPT_MS: Final = 60 * 60_000
"""Bytes that no record names are deleted when they are this old: no writer takes that long."""
_DELETES_AT_ONCE: Final = 16
_EXPIRED_KEYS: Final = 1_000
"""Runs in one *Expired* record."""
_PLANS_REMEMBERED: Final = 10_000
_NO_SUCH_MESSAGE: Final = ("no message found", "stream store EOF", "not found")
"""How the descriptions end; the code (10057) is that of every failed deletion."""


class JetStreamArchive:
    """See `Archive`. Made by `open`; owns its follower and its projection until `close`."""

    def __init__(
        self, bus: Bus, bucket: ObjectBucket, database: Database, follower: Follower
    ) -> None:
        self._bus = bus
        self._js = bus.js
        self._bucket = bucket
        self._database = database
        self._follower = follower
        self._plans: set[str] = set()
        """Digests known to be stored in the stream that `_plans_of` names."""
        self._plans_of = ""
        self._closed = False

    @classmethod
    async def open(
        cls, bus: Bus, *, replicas: int = 1, projection_file: Path | None = None
    ) -> JetStreamArchive:
        """Create the streams if need be and begin to follow them.

        *projection_file*: where the projection is kept (deleted and made again at each start);
        None: in memory, about 0.8 GB for a million runs. Queries wait until the projection is
        complete. Raises `Unavailable`.
        """
        bucket = ObjectBucket(bus, BUCKET, timeout_s=TIMEOUT_S)
        ensure = functools.partial(_ensure, bus, bucket, replicas)
        with _translated():
            await ensure()
        database = await Database.open_new(projection_file)
        follower = Follower(bus, database, ensure)
        try:
            await database.read(projection.create)
            with _translated():
                await follower.start()
        except BaseException:
            await database.close()
            raise
        return cls(bus, bucket, database, follower)

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        """See `Archive.put`. Cancelled or failed half-way: some runs are in, none is in part."""
        self._check_open()
        keys = [(one.summary.namespace, one.summary.run) for one in runs]
        # A shortcut for what is sent again; what it misses, the projection ignores.
        known = await self._database.read(index.known, keys)
        fresh = [one for one, key in zip(runs, keys, strict=True) if key not in known]
        with _translated():
            for portion in portions(fresh):
                pieces = [
                    Piece(one.summary.namespace, one.summary.run, segment.first, segment.data)
                    for one in portion
                    for segment in one.segments
                ]
                blobs = await self._store(pieces)
                await self._record(Archived([one.summary for one in portion], blobs))

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        """See `Archive.put_segment`."""
        self._check_open()
        first = segment.first
        places = await self._database.read(projection.blobs, namespace, run, first - 1, first)
        if any(place.first == first for place in places):
            return
        with _translated():
            blobs = await self._store([Piece(namespace, run, first, segment.data)])
            await self._record(Archived([], blobs))

    async def put_plan(self, digest: str, data: bytes) -> None:
        """See `Archive.put_plan`; remembers what it has stored, so asking again costs nothing."""
        self._check_open()
        if self._plans_of != self._follower.created or len(self._plans) >= _PLANS_REMEMBERED:
            self._plans, self._plans_of = set(), self._follower.created
        if digest in self._plans:
            return
        if not valid_name(digest):
            raise InvalidRequest(f"plan digest {digest!r} is not one")
        with _translated():
            payload = await asyncio.to_thread(encode_group, [data])
            if len(payload) > self._message_bytes_max:
                await self._bucket.put(f"plan/{digest}", payload)
                payload = b""
            try:
                await self._js.publish(
                    plan_subject(digest),
                    payload,
                    timeout_s=TIMEOUT_S,
                    headers={"Nats-Expected-Last-Subject-Sequence": "0"},
                )
            except WrongLastSequence:
                pass  # it is there: the same digest is the same plan
        self._plans.add(digest)

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        """See `Archive.get`."""
        await self._current()
        found = await self._database.read(index.get, namespace, run)
        if found is None:
            # Another coordinator may have stored it, and let go of it, a moment ago.
            await self._current(of_all=True)
            found = await self._database.read(index.get, namespace, run)
        return found

    async def known(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """See `Archive.known`; sees what all coordinators have stored by now."""
        await self._current(of_all=True)
        return await self._database.read(index.known, keys)

    async def keys(self, *, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """See `Archive.keys`; sees what all coordinators have stored by now."""
        await self._current(of_all=True)
        return await self._database.read(index.kept, after, limit)

    async def history(
        self, namespace: str, run: str, *, after: int = 0, upto: int = LAST_EVENT
    ) -> list[Segment]:
        """See `Archive.history`. Raises `Unavailable` when stored bytes are missing or damaged."""
        await self._current(of_all=True)
        places = await self._database.read(projection.blobs, namespace, run, after, upto)
        found: list[Segment] = []
        opened: dict[int, list[bytes]] = {}
        for place in places:
            if place.sequence not in opened:
                # Segments in order lie in messages in order: one open group is enough.
                opened.clear()
            parts = opened.get(place.sequence) if place.sequence else None
            if parts is None:
                parts = await self._parts(place)
                opened[place.sequence] = parts
            if place.part >= len(parts):
                raise Unavailable(f"archive: segment {place.first} of run {run} is damaged")
            found.append(Segment(place.first, parts[place.part]))
        return found

    async def plan(self, digest: str) -> bytes | None:
        """See `Archive.plan`."""
        self._check_open()
        if not valid_name(digest):
            return None
        with _translated():
            stored = await self._js.get_last(STREAM, plan_subject(digest), timeout_s=TIMEOUT_S)
            if stored is None:
                return None
            payload = stored.data or await self._bucket.get(f"plan/{digest}")
            (data,) = await asyncio.to_thread(decode_group, payload)
            return data

    async def expire(self, *, before_ms: int, limit: int) -> int:
        """See `Archive.expire`; frees what nothing refers to any more. Any coordinator may call
        it, best one at a time."""
        await self._current()
        keys = await self._database.read(index.finished, before_ms=before_ms, limit=limit)
        with _translated():
            for start in range(0, len(keys), _EXPIRED_KEYS):
                await self._record(Expired(keys[start : start + _EXPIRED_KEYS]))
            await self._current()
            await self._sweep(limit)
        return len(keys)

    async def close(self) -> None:
        """Stop following and drop the projection; twice is fine."""
        self._closed = True
        await self._follower.close()
        await self._database.close()

    # -- writing -------------------------------------------------------------------------------

    @property
    def _message_bytes_max(self) -> int:
        return min(MESSAGE_BYTES_MAX, self._bus.max_payload_bytes - 1_024)

    async def _store(self, pieces: list[Piece]) -> list[Blob]:
        """Store the bytes of *pieces* and return where they are."""
        blobs: list[Blob] = []
        for group in groups(pieces):
            payload = await asyncio.to_thread(encode_group, [piece.data for piece in group])
            if len(payload) <= self._message_bytes_max:
                ack = await self._js.publish(DATA, payload, timeout_s=TIMEOUT_S)
                blobs += [
                    Blob(piece.namespace, piece.run, piece.first, ack.seq, part)
                    for part, piece in enumerate(group)
                ]
                continue
            for piece in group:
                # Never the same name twice: an old one may be waiting for its deletion.
                name = f"{piece.namespace}/{piece.run}/{piece.first}/{os.urandom(8).hex()}"
                alone = await asyncio.to_thread(encode_group, [piece.data])
                await self._bucket.put(name, alone)
                blobs.append(Blob(piece.namespace, piece.run, piece.first, 0, 0, name))
        return blobs

    async def _record(self, record: Record) -> None:
        """Append *record* to the index: from its acknowledgement on it counts."""
        payload = encode_record(record)
        ack = await self._js.publish(INDEX, payload, timeout_s=TIMEOUT_S)
        self._follower.expect(ack.seq)

    # -- reading -------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the archive is closed")

    async def _current(self, *, of_all: bool = False) -> None:
        """Return when the projection holds all that a query must see. Raises `Unavailable`.

        That is what we have stored ourselves; *of_all*: what others have stored by now, too.
        """
        self._check_open()
        if of_all:
            with _translated():
                await self._follower.look()
        await self._follower.caught_up(timeout_s=TIMEOUT_S)

    async def _parts(self, place: Blob) -> list[bytes]:
        with _translated():
            if place.sequence:
                stored = await self._message(place.sequence)
                if stored is None:
                    raise Unavailable(f"archive: bytes of run {place.run} are missing")
                payload = stored.data
            else:
                payload = await self._bucket.get(place.object)
            return await asyncio.to_thread(decode_group, payload)

    async def _message(self, sequence: int) -> Stored | None:
        """Return a data message: from any replica, and if that one lags, from the leader."""
        got, _ = await self._js.read(STREAM, sequence, count=1, subject=DATA, timeout_s=TIMEOUT_S)
        if got and got[0].seq == sequence:
            return got[0]
        return await self._js.get_msg(STREAM, sequence, timeout_s=TIMEOUT_S)

    # -- space ---------------------------------------------------------------------------------

    async def _sweep(self, limit: int) -> None:
        """Delete what nothing refers to: bytes first, then records, so that a crash in between
        leaves records that say so again, never bytes that nobody knows of."""
        now_ms = self._follower.broker_ms
        found = await self._database.read(
            projection.sweep, expiries_before_ms=now_ms - EXPIRIES_KEPT_MS, limit=max(limit, 100)
        )
        if not found:
            return
        for name in found.objects:
            await self._bucket.delete(name)
        await self._delete(STREAM, found.messages)
        await self._delete(INDEX_STREAM, found.records)
        await self._delete(INDEX_STREAM, found.expiries)
        await self._database.write(projection.swept, found)
        await self._purge_orphans(max(found.messages, default=0), now_ms)

    async def _delete(self, stream: str, sequences: list[int]) -> None:
        slots = asyncio.Semaphore(_DELETES_AT_ONCE)

        async def delete(sequence: int) -> None:
            async with slots:
                await _delete_message(self._bus, stream, sequence)

        # Plain gather, not a task group: the first error must reach the caller as it is.
        await asyncio.gather(*map(delete, sequences))

    async def _purge_orphans(self, upto: int, now_ms: int) -> None:
        """Delete bytes whose record was never written (a crash between the two), once old."""
        oldest = await self._database.read(projection.oldest_message)
        upto = min(upto, oldest - 1) if oldest else upto
        if upto <= 0:
            return
        got, _ = await self._js.read(STREAM, upto, count=1, subject=DATA, timeout_s=TIMEOUT_S)
        if got and time_ms(got[0]) < now_ms - ORPHANS_KEPT_MS:
            await self._js.purge(STREAM, subject=DATA, upto=upto)

    # Last in the class: the name hides the built-in type from annotations below it.

    async def list(self, namespace: str, query: ListRuns) -> RunPage:
        """See `Archive.list`."""
        await self._current(of_all=True)
        return await self._database.read(index.page, namespace, query)


async def _ensure(bus: Bus, bucket: ObjectBucket, replicas: int) -> None:
    for config in (
        StreamConfig(
            name=STREAM,
            subjects=(DATA, PLANS),
            discard="new",
            num_replicas=replicas,
        ),
        StreamConfig(
            name=INDEX_STREAM,
            subjects=(INDEX,),
            discard="new",
            num_replicas=replicas,
        ),
    ):
        await bus.js.ensure_stream(config)
    await bucket.ensure(replicas=replicas)


async def _delete_message(bus: Bus, stream: str, sequence: int) -> None:
    """Delete one message; absent is fine."""
    try:
        await bus.js.api(
            f"STREAM.MSG.DELETE.{stream}",
            {"seq": sequence, "no_erase": True},
            dict[str, Any],
            timeout_s=TIMEOUT_S,
        )
    except JetStreamError as error:
        if error.err_code not in (10043, 10057) or not error.description.endswith(_NO_SUCH_MESSAGE):
            raise


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Raise what the broker, or what it holds, did to us as `Unavailable`."""
    try:
        yield
    except (
        Unreachable,
        JetStreamError,
        CorruptObject,
        Busy,
        LimitExceeded,
        NotFound,
        Unreadable,
    ) as error:
        raise Unavailable(f"archive: {error}") from error
