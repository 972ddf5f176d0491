"""A file into an empty cluster, whose coordinators may be running.

Each shard's log is taken like a new owner takes it, by a record that says "restore": from then on
nobody else owns the shard until all of them are whole, so a restore that dies leaves nothing that
anybody would go on with. The state goes in as a snapshot. What the old cluster still had under way
is lost to it: attempts get new tokens, claimed effects become UNKNOWN, positions and epochs go on
far behind the old ones, so that nothing late of it is ever taken for ours.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sized
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from headrace.bus import Bus, ObjectBucket
from headrace.coordinator.archive import Archive, ArchivedRun, RunSummary, Segment
from headrace.coordinator.backup.copying import archive_of
from headrace.coordinator.backup.cut import Cut, look, send_doubt
from headrace.coordinator.backup.file import BackupReader, BrokenBackup, ShardPart
from headrace.coordinator.core import (
    BrokenLog,
    Folder,
    Limits,
    Machine,
    ShardState,
    decode_state,
    encode_state,
)
from headrace.coordinator.core import status as states
from headrace.coordinator.runtime.handout import dispatched
from headrace.coordinator.runtime.layout import Layout
from headrace.coordinator.shardlog import FEATURE_LEVEL, ObjectSnapshotStore
from headrace.coordinator.shardlog.jetstream import JetStreamLog, last_epoch
from headrace.errors import Conflict, HeadraceError, Unavailable
from headrace.language import BUILTIN_HANDLERS
from headrace.messages import subjects

GAP: Final = 1_000_000_000
"""What the old cluster can have done since the backup, in positions and in tokens, and more."""
LOSSES: Final = 1 << 30
"""A restore is no reason to give a step up."""
BATCH_RUNS: Final = 200
TAKES_MAX: Final = 20
PUBLISH_S: Final = 10.0

Tell = Callable[[str], None]


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore has brought in."""

    runs: int
    """Live ones."""
    closed: int
    lost: int
    """Attempts that were under way: they are made again, or UNKNOWN."""
    definitions: int
    schedules: int
    events: int
    """From outside, that nobody had read."""


class _Facts(msgspec.Struct):
    """What the states say about all else in the file."""

    live: dict[str, tuple[int, bool]]
    """Run key -> (first event that is not in the archive, whether the run has ended)."""
    times: dict[int, int]
    """Shard -> time of its last entry."""
    events: tuple[str, int]
    """Stream of events from outside, and up to where it was read."""
    lost: int = 0
    definitions: int = 0
    schedules: int = 0


def read_states(reader: BackupReader) -> Iterable[tuple[ShardPart, ShardState]]:
    """Yield each shard of the file, folded; raises `BrokenBackup`. One is in memory at a time."""
    builtin = frozenset(BUILTIN_HANDLERS)
    for part in reader.manifest.shards:
        state = ShardState(part.shard, builtin)
        try:
            for _, data in reader.parts(f"shards/{part.shard}/snapshot"):
                state = decode_state(data, builtin)
            folder = Folder(state)
            for position, entry in reader.items(f"shards/{part.shard}/log"):
                folder.fold(position, entry)
        except (BrokenLog, LookupError, TypeError, ValueError, HeadraceError) as error:
            if isinstance(error, BrokenBackup):
                raise
            raise BrokenBackup(
                reader.path, f"shard {part.shard} cannot be read: {error}"
            ) from error
        yield part, folder.state


async def restore(
    bus: Bus,
    path: Path,
    *,
    archive_file: Path | None,
    tell: Tell,
    config_file: Path | None = None,
) -> Restored:
    """Bring the cluster of *path* into the empty one that *bus* reaches.

    *config_file* says where a PostgreSQL archive is.

    Raises `BrokenBackup` before anything is changed; `Conflict` when the cluster is not empty, or
    has other shards; `Unavailable` when it does not answer.
    """
    reader = await asyncio.to_thread(BackupReader.open, path, feature_level=FEATURE_LEVEL)
    tell(f"{path.name} is whole: {len(reader.manifest.parts)} parts")
    cut = await look(bus)
    if cut.layout != reader.manifest.layout:
        raise Conflict(
            f"the cluster has shards {cut.layout}, the backup {reader.manifest.layout}: ids hash "
            "to shards, so a backup goes into a cluster with the same ones only; set "
            "coordinator.shards_* of the empty cluster and begin with an empty broker"
        )
    async with archive_of(bus, cut.archive, archive_file, config_file) as archive:
        return await _Restore(bus, reader, archive, cut, tell).run()


class _Restore:
    """One restore of a file that is whole."""

    def __init__(
        self, bus: Bus, reader: BackupReader, archive: Archive, cut: Cut, tell: Tell
    ) -> None:
        self._bus, self._reader, self._archive = bus, reader, archive
        self._cut, self._tell = cut, tell
        self._id = reader.manifest.id
        self._snapshots = ObjectSnapshotStore(bus)
        self._layout = Layout(**reader.manifest.layout)
        self._owner = f"restore.{secrets.token_hex(6)}"
        self._logs: dict[int, JetStreamLog] = {}
        self._facts = _Facts(live={}, times={}, events=("", 0))

    async def run(self) -> Restored:
        """Take, write, hand over."""
        journal = [part.shard for part in self._reader.manifest.shards if part.level == "journal"]
        try:
            await self._take_all(journal)
        except HeadraceError:
            await self._give_back()
            raise
        self._tell(f"{len(journal)} shards taken")
        for part, state in read_states(self._reader):
            await self._shard(part, state)
        self._tell(f"{len(self._facts.live)} runs, {self._facts.lost} attempts were under way")
        closed = await self._closed()
        await self._blobs()
        events = await self._events()
        # From here on there is no way back, and none is needed: everything is there.
        for log in self._logs.values():
            await log.hand_over()
            await log.close()
        send_doubt(self._bus)
        return Restored(
            runs=sum(not ended for _, ended in self._facts.live.values()),
            closed=closed,
            lost=self._facts.lost,
            definitions=self._facts.definitions,
            schedules=self._facts.schedules,
            events=events,
        )

    # -- taking --------------------------------------------------------------------------------

    async def _take_all(self, journal: list[int]) -> None:
        """Own every shard, each behind the old cluster's positions, and see that all are empty."""
        if not await self._begun():
            keys = await self._archive.keys(after=("", ""), limit=1)
            if keys:
                raise _not_empty(-1, f"its archive has run {'/'.join(keys[0])}")
            for part in self._reader.manifest.shards:
                if part.level == "snapshot":
                    await self._check_empty(part.shard, [])
        manifest = self._reader.manifest
        behind = max([part.position for part in manifest.shards] + [0]) + GAP
        for shard in journal:
            self._logs[shard] = await self._take(shard, behind)

    async def _begun(self) -> bool:
        """Tell whether this very backup was begun to be restored here, and not finished."""
        _, record = await last_epoch(self._bus, subjects.SYSTEM_SHARD)
        return record.restore == self._id

    async def _take(self, shard: int, behind: int) -> JetStreamLog:
        info = await self._bus.js.stream_info(subjects.log_stream(shard))
        for _ in range(TAKES_MAX):
            _, record = await last_epoch(self._bus, shard)
            log = JetStreamLog(
                self._bus,
                shard,
                replicas=int(info.config["num_replicas"]),
                max_bytes=info.max_bytes,
                feature_level=FEATURE_LEVEL,
                stamp=lambda: self._reader.manifest.head.feature_level,
                restore=self._id,
            )
            entries: list[tuple[int, bytes]] = []
            await log.take(self._owner, partial(_collect, entries))
            self._logs[shard] = log
            if record.restore != self._id:
                await self._check_empty(shard, entries)
            if not entries and log.epoch > behind:
                return log
            # An owner that was faster than we is back with an empty log, as it was before.
            for name in await self._snapshots.names(shard):
                await self._snapshots.delete(shard, name)
            await log.restart(max(behind, log.epoch))
        raise Unavailable(f"shard {shard} does not come to rest: stop the coordinators meanwhile")

    async def _check_empty(self, shard: int, entries: list[tuple[int, bytes]]) -> None:
        builtin = frozenset(BUILTIN_HANDLERS)
        state = ShardState(shard, builtin)
        for name in (await self._snapshots.names(shard))[-1:]:
            state = decode_state(await self._snapshots.get(shard, name), builtin)
        folder, known = Folder(state), state.batch_position
        for position, data in entries:
            if position > known:
                folder.fold(position, data)
        held: dict[str, Sized] = {
            "runs": state.runs,
            "runs that have ended": state.tombstones,
            "definitions": state.definitions,
            "schedules": state.schedules,
            "keys": state.keys,
            "variables": state.variables,
            "settings of namespaces": state.namespaces,
            "plans": state.plans,
        }
        for what, found in held.items():
            if found:
                raise _not_empty(shard, f"it has {len(found)} {what}")

    async def _give_back(self) -> None:
        """Nothing was written: let the owners go on with what they had."""
        for log in self._logs.values():
            try:
                await log.hand_over()
                await log.close()
            except HeadraceError as error:
                self._tell(f"shard {log.shard} is not given back: {error}")
        send_doubt(self._bus)

    # -- writing -------------------------------------------------------------------------------

    async def _shard(self, part: ShardPart, state: ShardState) -> None:
        facts = self._facts
        for key in state.runs:
            # One by one: those that only wait are bytes, and stay so.
            if (run := state.runs.peek(key)) is not None:
                facts.live[key] = (run.history_first, states.is_final(run.state))
        facts.times[part.shard] = state.logged_ms
        facts.definitions += len(state.definitions)
        facts.schedules += len(state.schedules)
        if part.shard == subjects.SYSTEM_SHARD:
            facts.events = (state.incoming.stream, state.incoming.position)
        state.token_last += GAP
        state.snapshots = []
        log = self._logs.get(part.shard)
        if log is None:
            # Level snapshot: its owner reads this when it takes the shard, and no log; whatever an
            # owner of the empty shard still writes is older.
            state.batch_index += GAP
            for name in await self._snapshots.names(part.shard):
                await self._snapshots.delete(part.shard, name)
            await self._snapshots.put(part.shard, state.batch_index, encode_state(state))
            return
        state.batch_position = log.epoch
        await self._snapshots.put(part.shard, state.batch_index, encode_state(state))
        await self._lose(log, state)

    async def _lose(self, log: JetStreamLog, state: ShardState) -> None:
        """Take every attempt away from the workers of the old cluster, as if all had died."""
        under_way = dispatched(state)
        if not under_way:
            return
        self._facts.lost += len(under_way)
        machine = Machine(
            state, chance=random.random, home=self._layout.home, limits=Limits(losses=LOSSES)
        )
        machine.begin(int(time.time() * 1_000))
        machine.resume()
        for run, step, attempt, _ in under_way:
            machine.lose(run, step, attempt, worker="", reason="restored from a backup")
        machine.settle()
        for entry in machine.finish(batch_id=secrets.token_hex(8), epoch=log.epoch):
            await log.append(entry)

    # -- what the states name ------------------------------------------------------------------

    async def _closed(self) -> int:
        """Archive what had ended by then; return how many runs."""
        for digest, data in self._reader.items("plans"):
            await self._archive.put_plan(digest, data)
        count, batch = 0, list[ArchivedRun]()
        for namespace, run, summary, segments in self._reader.items("archive"):
            kept = msgspec.convert(segments, list[Segment])
            live = self._facts.live.get(subjects.run_key(namespace, run))
            if live is not None:
                # What the log has archived is not in the state; the rest the owner stores itself.
                for segment in kept:
                    if segment.first < live[0]:
                        await self._archive.put_segment(namespace, run, segment)
                continue
            if summary is None:
                continue  # a run that began behind the cut
            found = msgspec.convert(summary, RunSummary)
            if found.created_ms >= self._facts.times.get(found.shard, found.created_ms + 1):
                continue  # so did this one, and it has ended, too
            batch.append(ArchivedRun(found, kept))
            count += 1
            if len(batch) >= BATCH_RUNS:
                await self._archive.put(batch)
                batch = []
        await self._archive.put(batch)
        return count

    async def _blobs(self) -> None:
        bucket = ObjectBucket(self._bus, subjects.BLOB_BUCKET, timeout_s=60.0)
        for name, data in self._reader.items("blobs"):
            await bucket.put(name, data)

    async def _events(self) -> int:
        """Publish the events from outside that were stored and not yet read."""
        stream, position = self._facts.events
        count = 0
        for made, sequence, subject, headers, data in self._reader.items("events"):
            if made == stream and sequence <= position:
                continue
            await self._bus.js.publish(subject, data, timeout_s=PUBLISH_S, headers=_own(headers))
            count += 1
        return count


def _collect(entries: list[tuple[int, bytes]], position: int, data: bytes) -> None:
    entries.append((position, data))


_ADDED: Final = frozenset(
    {
        "Nats-Sequence",
        "Nats-Subject",
        "Nats-Time-Stamp",
        "Nats-Stream",
        "Nats-Last-Sequence",
        "Nats-Num-Pending",
    }
)
"""Headers with which the broker tells where a message was."""


def _own(headers: dict[str, Any]) -> dict[str, str]:
    """Return the headers that the publisher set, without what the broker has added."""
    return {name: str(value) for name, value in headers.items() if name not in _ADDED}


def _not_empty(shard: int, why: str) -> Conflict:
    where = f"shard {shard}: " if shard >= 0 else ""
    return Conflict(
        f"the cluster is not empty ({where}{why}): a backup is restored into an empty one only; "
        "stop the coordinators, empty the broker's store (and the SQLite archive, if there is "
        "one; with PostgreSQL take another postgres.schema), start them again, then restore"
    )
