"""What a heartbeat says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from headrace.messages import Held, WorkerHeartbeat
from headrace.worker.core.assignments import Assignments
from headrace.worker.core.outbox import Outbox

VERSION: Final = 1
HELD_FULL_MAX: Final = 512
"""Above so many, a regular heartbeat leaves out what was taken only just now."""
HELD_SINCE_MS: Final = 500
DETAILS_ROOM: Final = 128 * 1024
"""Bytes of all steps' details together: a heartbeat must fit into a message, whatever they say."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What stays the same in one life of a worker."""

    id: str
    incarnation: str
    namespace: str
    capabilities: tuple[str, ...]
    release: str = ""
    host: str = ""
    pid: int = 0
    started_ms: int = 0


def held_by_shard(
    assignments: Assignments, outbox: Outbox | None, *, now_ms: int, since_ms: int
) -> dict[int, list[Held]]:
    """Return what is held, by shard, without what was taken less than *since_ms* ago.

    A result that the owner has not confirmed counts as held, whatever its age: its step must not
    run again.
    """
    held: dict[int, list[Held]] = {}
    room = DETAILS_ROOM
    for assignment in assignments:
        if since_ms and now_ms - assignment.taken_ms < since_ms:
            continue
        task = assignment.task
        details = assignment.details
        if details is not None:
            room -= len(details)
            details = details if room >= 0 else None
        entry = Held(task.run, task.step, task.attempt, assignment.running, details)
        held.setdefault(assignment.origin.shard, []).append(entry)
    if outbox is not None:
        for (_, shard), result in outbox.unsettled():
            entry = Held(result.run, result.step, result.attempt)
            held.setdefault(shard, []).append(entry)
    return held


def heartbeat(
    identity: Identity,
    assignments: Assignments,
    outbox: Outbox,
    *,
    now_ms: int,
    lanes: Sequence[str],
    handlers: dict[str, dict[str, Any]],
    problems: Sequence[str] = (),
    draining: bool = False,
    stopped: bool = False,
    complete: bool = False,
) -> WorkerHeartbeat:
    """Return the heartbeat for *now_ms*; *complete*: leave nothing out (a new owner asks)."""
    many = len(assignments) + len(outbox) > HELD_FULL_MAX
    since_ms = HELD_SINCE_MS if many and not complete else 0
    return WorkerHeartbeat(
        version=VERSION,
        id=identity.id,
        incarnation=identity.incarnation,
        namespace=identity.namespace,
        capabilities=list(identity.capabilities),
        handlers=handlers,
        slots=assignments.slots,
        free=0 if draining else assignments.free,
        release=identity.release,
        host=identity.host,
        pid=identity.pid,
        started_ms=identity.started_ms,
        sent_ms=now_ms,
        draining=draining,
        stopped=stopped,
        lanes=list(lanes),
        held=held_by_shard(assignments, outbox, now_ms=now_ms, since_ms=since_ms),
        held_since_ms=since_ms,
        epochs=dict(assignments.epochs),
        rounds=dict(assignments.rounds),
        problems=list(problems),
    )
