"""Concurrency keys: sets of holders in the key's home shard; requests by holder id, idempotent.

A holder is a run (its key) or a job of a run (``<run key>#<instance>``).
"""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.cancellation import cancel_run
from headrace.coordinator.core.nodes import key_granted
from headrace.coordinator.core.shard_events import NEWEST_ONLY, released_id
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import (
    KeyDeclined,
    KeyGranted,
    KeyGrantedTo,
    KeyReleased,
    KeyWaited,
    NodeEnded,
    RunStarted,
    StepCancelled,
)


def acquire(tick: Tick, key: str, holder: str, limit: int, mode: int, shard: int) -> None:
    """A holder wants the key: it waits in line, and is granted while there is room."""
    record = tick.state.keys.get(key)
    if record is not None and (holder in record.holders or holder in record.waiters):
        return
    if released_id(key, holder) in tick.state.requests:
        # Sent twice, and the holder has ended meanwhile: it must not push anybody aside.
        return
    tick.emit_shard(KeyWaited(key, holder, limit, mode, shard))
    record = tick.state.keys[key]
    if mode & NEWEST_ONLY:
        for waiter in [w for w in record.waiters if w != holder]:
            tick.emit_shard(KeyReleased(key, waiter, "replaced"))
    grant(tick, key)


def grant(tick: Tick, key: str) -> None:
    """Grant the key to waiters, in order, while there is room."""
    record = tick.state.keys.get(key)
    while record is not None and record.waiters and len(record.holders) < record.limit:
        tick.emit_shard(KeyGrantedTo(key, next(iter(record.waiters))))


def release(tick: Tick, key: str, holder: str) -> None:
    """A holder (or waiter) has ended. Its `acquire` may be on the way still: it is remembered."""
    if released_id(key, holder) not in tick.state.requests:
        tick.emit_shard(KeyReleased(key, holder))
        grant(tick, key)


def _holder(tick: Tick, holder: str) -> tuple[Run | None, int]:
    """Return (run, instance of its job or -1) of a holder id ``<run key>[#<instance>.<n>]``."""
    name, _, rest = holder.partition("#")
    return tick.state.runs.get(name), int(rest.partition(".")[0]) if rest else -1


def granted(tick: Tick, key: str, holder: str) -> None:
    """The home shard has granted the key to a run or job of this shard."""
    run, instance = _holder(tick, holder)
    if run is None or run.quarantined or status.is_final(run.state):
        tick.emit_shard(KeyDeclined(key, holder))
    elif instance < 0:
        if run.state == status.PENDING and not run.key_held:
            tick.emit(run, KeyGranted(-1, key))
            tick.emit(run, RunStarted())
            if run.due.get(0):
                tick.timers.push(run.due[0], run.key, 0)
    elif run.node_keys.get(instance) != (key, holder):
        tick.emit_shard(KeyDeclined(key, holder))
    elif run.status[instance] == status.WAITING:
        tick.emit(run, KeyGranted(instance, key))
        key_granted(tick, run, instance)


def preempted(tick: Tick, key: str, holder: str, *, reason: str) -> None:
    """A newer run wants the key (`cancel-in-progress`), or took this one's place in the line."""
    run, instance = _holder(tick, holder)
    if run is None or run.quarantined or status.is_final(run.state) or run.cancelling:
        return
    why = "replaced by a newer run" if reason == "replaced" else "cancelled by a newer run"
    why += f" in concurrency group {key.partition('/')[2]}"
    if instance < 0:
        cancel_run(tick, run, why)
    elif run.node_keys.get(instance) != (key, holder):
        return
    elif run.status[instance] == status.WAITING:
        tick.emit(run, StepCancelled(instance, run.attempt[instance], "", why))
    else:
        # The job alone, not the run around it.
        tick.emit(run, NodeEnded(instance, status.CANCELLED, reason=f"cancelled: {why}"))
        tick.stop_doomed(run)
