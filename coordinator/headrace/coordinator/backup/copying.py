"""A running cluster into a file: logs up to positions that fit together, then all they name.

In this order: what is read later may know more than the logs, never less. Runs leave a state only
when the archive has them, and values are stored before the events that name them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from headrace.bus import Bus, CorruptObject, ObjectBucket, Stored
from headrace.config import load
from headrace.coordinator.archive import Archive
from headrace.coordinator.archive.records import INDEX_STREAM
from headrace.coordinator.backup.cut import Cut, take_cut
from headrace.coordinator.backup.file import (
    FORMAT,
    BackupWriter,
    Head,
    Manifest,
    PartInfo,
    ShardPart,
)
from headrace.coordinator.core import BadSnapshot, decode_image
from headrace.coordinator.runtime.holding import Place
from headrace.coordinator.shardlog import ObjectSnapshotStore
from headrace.errors import InvalidConfig, NotFound, Unavailable, Unreachable
from headrace.events import decode_batch
from headrace.messages import UNREADABLE, subjects

CUTS_MAX: Final = 4
READ_COUNT: Final = 1_000
READ_TIMEOUT_S: Final = 10.0
KEYS: Final = 500
OBJECTS: Final = 500

Tell = Callable[[str], None]


class _Outrun(Unavailable):
    """The log was purged past the cut while it was read."""


async def backup(
    bus: Bus,
    path: Path,
    *,
    release: str,
    archive_file: Path | None,
    tell: Tell,
    config_file: Path | None = None,
) -> Manifest:
    """Write the cluster that *bus* reaches to *path*; *tell* is told how it goes.

    *config_file* says where a PostgreSQL archive is.

    Raises `Unavailable` when the cluster does not answer, or is faster than we can read.
    """
    for attempt in range(1, CUTS_MAX + 1):
        cut = await take_cut(bus)
        try:
            async with archive_of(bus, cut.archive, archive_file, config_file) as archive:
                head = Head(format=FORMAT, release=release, feature_level=cut.feature_level)
                with BackupWriter(path, head) as out:
                    return await _Copy(bus, archive, out, cut, tell).run()
        except _Outrun as error:
            if attempt == CUTS_MAX:
                raise Unavailable(
                    f"{error}; snapshots come faster than logs can be copied: raise "
                    "coordinator.snapshot_events"
                ) from error
            tell(f"{error}; once more")
    raise AssertionError


@asynccontextmanager
async def archive_of(
    bus: Bus, kind: str, path: Path | None, config_file: Path | None
) -> AsyncGenerator[Archive]:
    """Open the cluster's archive: *kind* is what coordinators say of it, the files the user names.

    Raises `Unavailable`, and `InvalidConfig` without the address of a database.
    """
    name, _, theirs = kind.partition(":")
    if name == "sqlite":
        from headrace.coordinator.archive.sqlite import SqliteArchive

        file = path or Path(theirs)
        if not file.is_file():
            raise Unavailable(
                f"the archive is the SQLite file {theirs} on the coordinator's machine, and it is "
                "not here: run this command there, or name the file with --archive"
            )
        archive: Archive = await SqliteArchive.open_beside(file)
    elif name == "postgres":
        from headrace.coordinator.archive.postgres import PostgresArchive

        settings = load(config_file, os.environ, {"coordinator.archive": "postgres"}).postgres
        if settings.schema != theirs:
            raise InvalidConfig(
                "postgres.schema", f"is {settings.schema!r} here, and {theirs!r} in the cluster"
            )
        archive = PostgresArchive(settings, coordinator="flowctl")
    else:
        from headrace.coordinator.archive.jetstream import JetStreamArchive

        info = await bus.js.stream_info(INDEX_STREAM)
        archive = await JetStreamArchive.open(bus, replicas=int(info.config["num_replicas"]))
    try:
        yield archive
    finally:
        await archive.close()


class _Copy:
    """One backup, once the cut is known."""

    def __init__(self, bus: Bus, archive: Archive, out: BackupWriter, cut: Cut, tell: Tell) -> None:
        self._bus, self._archive, self._out = bus, archive, out
        self._cut, self._tell = cut, tell
        self._snapshots = ObjectSnapshotStore(bus)
        self._shards: list[ShardPart] = []
        self._counts: dict[str, int] = {"runs": 0, "plans": 0, "blobs": 0, "events": 0}

    async def run(self) -> Manifest:
        """Copy everything."""
        cluster = (await self._bus.js.stream_info(subjects.log_stream(0))).created
        # First what is purged behind the cut.
        for shard in sorted(self._cut.places):
            place = self._cut.places[shard]
            if place.level == "journal":
                self._shards.append(await self._journal(place))
            elif place.level == "snapshot":
                self._shards.append(await self._snapshot(place))
        entries = sum(shard.entries for shard in self._shards)
        self._tell(
            f"{len(self._shards)} shards, {entries} log entries behind their snapshots; for "
            f"{self._cut.held_ms} ms they did not hear of each other"
        )
        await self._events()
        await self._closed()
        self._tell(f"{self._counts['runs']} runs of the archive, {self._counts['plans']} plans")
        await self._blobs()
        self._tell(f"{self._counts['blobs']} large values, {self._counts['events']} unread events")
        cut = self._cut

        def manifest(head: Head, parts: list[PartInfo]) -> Manifest:
            return Manifest(
                head=head,
                id=secrets.token_hex(8),
                time_ms=cut.time_ms,
                held_ms=cut.held_ms,
                cluster=cluster,
                release=cut.release,
                layout=cut.layout,
                archive=cut.archive.partition(":")[0],
                shards=self._shards,
                counts=self._counts,
                parts=parts,
            )

        return self._out.finish(manifest)

    # -- shards --------------------------------------------------------------------------------

    async def _journal(self, place: Place) -> ShardPart:
        shard = place.shard
        start, index, data = await self._newest_snapshot(shard, upto=place.position)
        if data:
            self._out.add(f"shards/{shard}/snapshot", data)
        entries = await self._tail(shard, start, index, place.position)
        return ShardPart(
            shard=shard,
            level=place.level,
            epoch=place.epoch,
            position=place.position,
            snapshot_position=start,
            entries=entries,
        )

    async def _newest_snapshot(self, shard: int, *, upto: int) -> tuple[int, int, bytes]:
        """Return (position, number of its batch, bytes) of the newest snapshot that can be read and
        is not behind the cut; (0, 0, nothing) if there is none: then the log has everything."""
        for name in reversed(await self._snapshots.names(shard)):
            try:
                data = await self._snapshots.get(shard, name)
                index, position, _ = decode_image(data).batch
            except (BadSnapshot, NotFound, CorruptObject):
                continue  # gone meanwhile, or torn: the one before it serves as well
            if position <= upto:
                return position, index, data
        return 0, 0, b""

    async def _tail(self, shard: int, start: int, index: int, upto: int) -> int:
        """Copy the entries behind position *start* and batch *index* up to *upto*; count them."""
        stream, subject = subjects.log_stream(shard), subjects.log(shard)
        kind, count, at = f"shards/{shard}/log", 0, start
        while at < upto:
            for stored in await self._read(stream, at + 1, subject):
                if stored.seq > upto:
                    break
                index = _follows(shard, stored, index)
                self._out.gather(kind, (stored.seq, stored.data), len(stored.data))
                at, count = stored.seq, count + 1
        self._out.close_bundle(kind)
        return count

    async def _read(self, stream: str, start: int, subject: str) -> list[Stored]:
        """Return entries from *start* on, which are known to be there: a replica may lag."""
        while True:
            try:
                got, _ = await self._bus.js.read(
                    stream, start, count=READ_COUNT, subject=subject, timeout_s=READ_TIMEOUT_S
                )
            except Unreachable as error:
                raise Unavailable(f"stream {stream} cannot be read: {error}") from error
            if got:
                return got
            first = (await self._bus.js.stream_info(stream)).state
            if first.last_seq < start:
                raise Unavailable(f"stream {stream} ends before what its owner has written")

    async def _snapshot(self, place: Place) -> ShardPart:
        """Copy a shard of level snapshot: its newest one is all that a restart has, too."""
        for name in reversed(await self._snapshots.names(place.shard)):
            try:
                data = await self._snapshots.get(place.shard, name)
            except (NotFound, CorruptObject):
                continue
            self._out.add(f"shards/{place.shard}/snapshot", data)
            break
        return ShardPart(shard=place.shard, level=place.level)

    # -- what they name ------------------------------------------------------------------------

    async def _events(self) -> None:
        """Copy the events from outside that are in their stream.

        Those that were read already, too: the restore knows up to where the system shard was.
        """
        info = await self._bus.js.stream_info(subjects.INCOMING_STREAM)
        at, last = info.state.first_seq - 1, info.state.last_seq
        while at < last and info.state.messages:
            got, more = await self._bus.js.read(
                subjects.INCOMING_STREAM, at + 1, count=READ_COUNT, timeout_s=READ_TIMEOUT_S
            )
            for stored in got:
                item = (info.created, stored.seq, stored.subject, dict(stored.headers), stored.data)
                self._out.gather("events", item, len(stored.data) + 200)
                self._counts["events"] += 1
                at = stored.seq
            if not got and not more:
                break

    async def _closed(self) -> None:
        """Copy closed runs, and the older segments of live ones, with their plans."""
        archive, plans = self._archive, set[str]()
        after = ("", "")
        while keys := await archive.keys(after=after, limit=KEYS):
            for namespace, run in keys:
                summary = await archive.get(namespace, run)
                segments = await archive.history(namespace, run)
                item = (namespace, run, summary, segments)
                size = 500 + sum(len(segment.data) for segment in segments)
                self._out.gather("archive", item, size)
                self._counts["runs"] += summary is not None
                if summary is not None and summary.plan not in plans:
                    plans.add(summary.plan)
                    await self._plan(summary.plan)
            after = (keys[-1][0], keys[-1][1])

    async def _plan(self, digest: str) -> None:
        data = await self._archive.plan(digest)
        if data is not None:
            self._out.gather("plans", (digest, data), len(data))
            self._counts["plans"] += 1

    async def _blobs(self) -> None:
        bucket = ObjectBucket(self._bus, subjects.BLOB_BUCKET, timeout_s=60.0)
        after = 0
        while True:
            entries, after = await bucket.entries(after, count=OBJECTS)
            for entry in entries:
                try:
                    data = await bucket.get(entry.name)
                except NotFound:
                    continue  # its run is no more
                self._out.gather("blobs", (entry.name, data), len(data))
                self._counts["blobs"] += 1
            if not after:
                return


def _follows(shard: int, stored: Stored, index: int) -> int:
    """Return the number of the entry's batch. Raises `_Outrun` if it does not follow *index*."""
    try:
        found: Any = decode_batch(stored.data)
    except UNREADABLE as error:
        raise Unavailable(f"shard {shard}: entry {stored.seq} cannot be read: {error}") from error
    if found.index > index + 1:
        raise _Outrun(f"shard {shard} was purged while it was copied")
    return int(found.index)
