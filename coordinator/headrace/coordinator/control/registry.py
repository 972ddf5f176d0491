"""Who is there: from heartbeats to records of coordinators and workers. Pure."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat, HeartbeatTable
from headrace.coordinator.control.machine import (
    Command,
    DropCoordinator,
    DropWorker,
    PutCoordinator,
    PutWorker,
)
from headrace.coordinator.control.view import (
    ControlState,
    CoordinatorRecord,
    CoordinatorStatus,
    WorkerRecord,
    WorkerStatus,
    ordinal_key,
)
from headrace.messages import WorkerHeartbeat


class RegistryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """After how long silence means what."""

    coordinator_expire_s: float = 0.6
    """Several heartbeats; a take-over within a second of a kill leaves no more."""
    worker_expire_s: float = 3.0
    """The lease of a worker."""
    worker_busy_dwell_ms: int = 2_000
    """A worker's change between online and busy is replicated at most this often."""
    worker_forget_ms: int = 600_000
    """An offline worker stays listed this long."""
    workers_max: int = 5_000
    """Workers in the view; more are not registered (they are heard, and may work, all the same)."""
    commands_max: int = 500
    """Changes of workers in one commit."""


CoordinatorTable = HeartbeatTable[CoordinatorHeartbeat]
WorkerTable = HeartbeatTable[WorkerHeartbeat]


def coordinator_changes(
    state: ControlState,
    heard: CoordinatorTable,
    *,
    members: Collection[str],
    membership: str,
    skew_max_ms: int,
    now_s: float,
    now_ms: int,
    policy: RegistryPolicy,
) -> list[Command]:
    """Return the commands that bring the coordinators' records up to what was *heard*.

    Only members count, and only under the same list of peers: a coordinator that runs under
    another list belongs to another cluster until it is restarted with this one.
    """
    commands: list[Command] = []
    for identity in sorted(members, key=ordinal_key):
        record = state.coordinators.get(identity)
        entry = heard.get(identity)
        silent = heard.silence_s(identity, now_s) > policy.coordinator_expire_s
        beat = entry.beat if entry and entry.at_s >= heard.listening_since_s else None
        if beat and not silent and not beat.stopped and beat.membership == membership:
            wanted = _coordinator(beat, record, now_ms)
            if record is None or not _same(record, wanted, skew_max_ms):
                commands.append(PutCoordinator(wanted))
        elif record and record.status != "offline" and (silent or _gone(beat, record, membership)):
            gone = msgspec.structs.replace(record, status="offline", since_ms=now_ms)
            commands.append(PutCoordinator(gone))
    for record in state.coordinators.values():
        if record.id in members:
            continue
        if record.status != "offline":
            gone = msgspec.structs.replace(record, status="offline", since_ms=now_ms)
            commands.append(PutCoordinator(gone))
        else:
            commands.append(DropCoordinator(record.id, record.incarnation))
    return commands


def worker_changes(
    state: ControlState,
    heard: WorkerTable,
    *,
    now_s: float,
    now_ms: int,
    policy: RegistryPolicy,
) -> list[Command]:
    """Return the commands that bring the workers' records up to what was *heard*."""
    commands: list[Command] = []
    room = policy.workers_max - len(state.workers)
    for entry in heard:
        beat = entry.beat
        if beat.stopped or heard.silence_s(beat.id, now_s) > policy.worker_expire_s:
            continue
        record = state.workers.get(beat.id)
        if record is None:
            if room <= 0:
                continue
            room -= 1
        wanted = _worker(beat, record, now_ms, policy)
        if wanted != record:
            commands.append(PutWorker(wanted))
    for record in state.workers.values():
        latest = heard.get(record.id)
        if record.status == "offline":
            if now_ms - record.since_ms > policy.worker_forget_ms:
                commands.append(DropWorker(record.id, record.incarnation))
            continue
        ended = (
            latest is not None
            and latest.beat.stopped
            and latest.beat.incarnation == record.incarnation
        )
        if ended or heard.silence_s(record.id, now_s) > policy.worker_expire_s:
            gone = msgspec.structs.replace(record, status="offline", since_ms=now_ms)
            commands.append(PutWorker(gone))
    return commands[: policy.commands_max]


def refreshed(state: ControlState, heard: CoordinatorTable) -> ControlState:
    """Return a copy of the view with the advisory figures as heard last."""
    copy = state.copy()
    for identity, record in copy.coordinators.items():
        entry = heard.get(identity)
        if entry and entry.beat.incarnation == record.incarnation:
            copy.coordinators[identity] = msgspec.structs.replace(
                record, backlog=entry.beat.backlog, skew_ms=entry.beat.skew_ms
            )
    return copy


def _coordinator(
    beat: CoordinatorHeartbeat, record: CoordinatorRecord | None, now_ms: int
) -> CoordinatorRecord:
    same_life = record is not None and record.incarnation == beat.incarnation
    drain_asked = record is not None and same_life and record.drain_asked
    status: CoordinatorStatus = "draining" if beat.draining or drain_asked else "online"
    unchanged = record is not None and same_life and record.status == status
    return CoordinatorRecord(
        id=beat.id,
        incarnation=beat.incarnation,
        release=beat.release,
        feature_level=beat.feature_level,
        status=status,
        drain_asked=drain_asked,
        backlog=beat.backlog,
        skew_ms=beat.skew_ms,
        since_ms=record.since_ms if record and unchanged else now_ms,
    )


def _same(record: CoordinatorRecord, wanted: CoordinatorRecord, skew_max_ms: int) -> bool:
    """Compare what is worth a commit: advisory figures travel with the next healing."""
    return (
        record.incarnation == wanted.incarnation
        and record.status == wanted.status
        and record.release == wanted.release
        and record.feature_level == wanted.feature_level
        and (abs(record.skew_ms) > skew_max_ms) == (abs(wanted.skew_ms) > skew_max_ms)
    )


def _gone(beat: CoordinatorHeartbeat | None, record: CoordinatorRecord, membership: str) -> bool:
    if beat is None:
        return False
    if beat.membership != membership:
        return True
    return beat.stopped and beat.incarnation == record.incarnation


def _worker(
    beat: WorkerHeartbeat, record: WorkerRecord | None, now_ms: int, policy: RegistryPolicy
) -> WorkerRecord:
    status: WorkerStatus = "online"
    if beat.draining:
        status = "draining"
    elif beat.free <= 0:
        status = "busy"
    same_life = record is not None and record.incarnation == beat.incarnation
    since_ms = now_ms
    if record and same_life:
        flip = {record.status, status} == {"online", "busy"}
        if flip and 0 <= now_ms - record.since_ms < policy.worker_busy_dwell_ms:
            status = record.status
        if status == record.status:
            since_ms = record.since_ms
    return WorkerRecord(
        id=beat.id,
        incarnation=beat.incarnation,
        namespace=beat.namespace,
        capabilities=tuple(sorted(beat.capabilities)),
        handlers=tuple(sorted(beat.handlers)),
        slots=beat.slots,
        release=beat.release,
        status=status,
        since_ms=since_ms,
    )
