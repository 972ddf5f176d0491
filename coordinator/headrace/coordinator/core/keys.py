"""Concurrency keys: sets of holders in the key's home shard; requests by holder id, idempotent.

A holder is a run (its key) or a node of a run (``<run key>#<instance>.<n>``; of a lock also a
client, ``@<request id>``). From time to time the home shard asks whether its holders are still
there: a shard of a weaker durability may have forgotten them, and nothing else would free their
keys. Locks and rate limits are keys, too: see `key_record`.
"""

from __future__ import annotations

from headrace.coordinator.core import status
from headrace.coordinator.core.cancellation import cancel_run
from headrace.coordinator.core.creation import run_rate
from headrace.coordinator.core.gate import RATE
from headrace.coordinator.core.key_record import KeyRecord
from headrace.coordinator.core.nodes import fail_node, key_granted
from headrace.coordinator.core.shard_events import NEWEST_ONLY, released_id
from headrace.coordinator.core.state import Run
from headrace.coordinator.core.tick import Tick
from headrace.events import (
    KeyAudited,
    KeyDeclined,
    KeyGranted,
    KeyGrantedTo,
    KeyLost,
    KeyReleased,
    KeysCooled,
    KeyWaited,
    NodeEnded,
    RunStarted,
    StepCancelled,
)
from headrace.messages import subjects

AUDIT_MS = 300_000
"""A holder is believed this long, before its shard is asked and between two questions."""
AUDIT_HOLDERS_MAX = 100
"""Holders of one key that are asked about at once; of more, each time others."""
AUDIT_KEYS_MAX = 1_000
"""Keys that a round looks at in one go."""
AUDIT_PAUSE_MS = 100


def acquire(
    tick: Tick,
    key: str,
    holder: str,
    limit: int,
    mode: int,
    shard: int,
    ttl_ms: int = 0,
    per_ms: int = 0,
    owner: str = "",
    until_ms: int = 0,
) -> None:
    """A holder wants the key: it waits in line, and is granted while there is room."""
    record = tick.state.keys.get(key)
    if record is not None and record.knows(holder):
        return
    if released_id(key, holder) in tick.state.requests:
        # Sent twice, and the holder has ended meanwhile: it must not push anybody aside.
        return
    waited = KeyWaited(key, holder, limit, mode, shard, ttl_ms, per_ms, until_ms, owner)
    tick.emit_shard(waited)
    record = tick.state.keys[key]
    if mode & NEWEST_ONLY:
        for waiter in [w for w in record.waiters if w != holder]:
            tick.emit_shard(KeyReleased(key, waiter, "replaced"))
    grant(tick, key)


def grant(tick: Tick, key: str) -> None:
    """Grant the key to waiters, in order, while there is room."""
    state = tick.state
    record = state.keys.get(key)
    if record is None:
        return
    is_lock = subjects.is_lock(key)
    while record.waiters and record.has_room(state.now_ms):
        holder = next(iter(record.waiters))
        # The first holder sets the time; those that come and go beside it do not put it off.
        audit_ms = 0 if record.holders else state.now_ms + AUDIT_MS
        token = until_ms = 0
        if is_lock:
            token, ttl_ms = state.token_last + 1, record.terms[holder].ttl_ms
            until_ms = state.now_ms + ttl_ms if ttl_ms else 0
        tick.emit_shard(KeyGrantedTo(key, holder, audit_ms, token, until_ms))
        tick.audits.arm(tick.timers, record.audit_ms)
    if record.waiters or is_lock:
        arm(tick, key, record)


def arm(tick: Tick, key: str, record: KeyRecord) -> None:
    """Have the timers know when something is to be done about a key."""
    when_ms = record.next_ms(tick.state.now_ms) if record.terms or record.cooling else 0
    if when_ms:
        tick.arm_key(key, when_ms)


def fire_due(tick: Tick, key: str, when_ms: int) -> int:
    """Look at a key: whose time is over, who may begin; return 1 if there was something to do."""
    state = tick.state
    if tick.key_timers.get(key) == when_ms:
        del tick.key_timers[key]
    record = state.keys.get(key)
    if record is None:
        return 0
    over = [name for name, terms in record.terms.items() if 0 < terms.until_ms <= state.now_ms]
    for name in over:
        reason = "expired" if name in record.holders else "timeout"
        tick.emit_shard(KeyReleased(key, name, reason))
    grant(tick, key)
    if (
        not record.waiters
        and not record.holders
        and not record.next_ms(state.now_ms) > state.now_ms
    ):
        if key in state.keys:
            tick.emit_shard(KeysCooled([key]))
    elif key in state.keys:
        arm(tick, key, record)
    return 1


def started(tick: Tick, key: str, holder: str) -> None:
    """A holder's step has begun: its place within a rate limit cools down."""
    record = tick.state.keys.get(key)
    if record is not None and holder in record.holders:
        cold = not record.is_cooling(tick.state.now_ms)
        tick.emit_shard(KeyReleased(key, holder, "started"))
        if cold:
            arm(tick, key, record)


def release(tick: Tick, key: str, holder: str) -> None:
    """A holder (or waiter) has ended. Its `acquire` may be on the way still: it is remembered."""
    if released_id(key, holder) not in tick.state.requests:
        tick.emit_shard(KeyReleased(key, holder))
        grant(tick, key)


def _holder(tick: Tick, holder: str) -> tuple[Run | None, int]:
    """Return (run, instance of its job or -1) of a holder id ``<run key>[#<number>.<n>]``.

    The number is the job's wire number; of a job that is not there any more it stays as it is.
    """
    name, _, rest = holder.partition("#")
    run = tick.state.runs.get(name)
    if not rest:
        return run, -1
    wire = int(rest.partition(".")[0])
    instance = wire if run is None else run.instance(wire)
    return run, wire if instance < 0 else instance


def granted(tick: Tick, key: str, holder: str, token: int = 0, until_ms: int = 0) -> None:
    """The home shard has granted the key to a run or node of this shard."""
    run, instance = _holder(tick, holder)
    if f"started:{key}:{holder}" in tick.state.outbox:
        # Used already, and the home will hear of it: given back, it would be used twice.
        return
    if run is None or run.quarantined or status.is_final(run.state):
        tick.emit_shard(KeyDeclined(key, holder))
    elif run.gates and _opens(tick, run, instance, key, holder, token, until_ms):
        return
    elif instance < 0 and run.key_name != key:
        # Another run of that name: its shard had forgotten the one before it.
        tick.emit_shard(KeyDeclined(key, holder))
    elif instance < 0:
        if run.state == status.PENDING and not run.key_held:
            tick.emit(run, KeyGranted(-1, key))
            rate = run_rate(tick, run)
            if rate is not None:
                tick.emit(run, rate)
            else:
                _start(tick, run)
    elif run.node_keys.get(instance) != (key, holder):
        tick.emit_shard(KeyDeclined(key, holder))
    elif run.status[instance] == status.WAITING and instance not in run.gates:
        tick.emit(run, KeyGranted(instance, key))
        key_granted(tick, run, instance)


def _opens(
    tick: Tick, run: Run, instance: int, key: str, holder: str, token: int, until_ms: int
) -> bool:
    """Let a node have what it waits for, if it is that; tell whether it is (or was)."""
    gate = run.gates.get(instance)
    if gate is None or "#" not in holder:
        return False
    if gate.holder != holder:
        return gate.holds(holder)
    kind = "lock" if subjects.is_lock(key) else "rate"
    tick.emit(run, KeyGranted(instance, key, kind, token, until_ms))
    if instance < 0:
        _start(tick, run)
    return True


def _start(tick: Tick, run: Run) -> None:
    tick.emit(run, RunStarted())
    if run.due.get(0):
        tick.timers.push(run.due[0], run.key, 0)


def lost(tick: Tick, key: str, holder: str, reason: str) -> None:
    """The home shard has taken a lock from a node of this shard.

    Perhaps before the node has heard that it had it: then it asks anew, and that word is too late.
    """
    run, instance = _holder(tick, holder)
    gate = run.gates.get(instance) if run is not None else None
    if run is None or gate is None or run.quarantined:
        return
    if holder not in (gate.lock_holder, gate.holder):
        return
    # Who holds a place within a rate limit and waits for a lock holds up whoever has the lock.
    rate = bool(gate.rate_holder) or gate.wants == RATE
    tick.emit(run, KeyLost(instance, key, reason, rate))
    if run.status[instance] == status.RUNNING:
        name = subjects.split_key(key)[1]
        how = "was taken from it" if reason == "forced" else "has expired"
        fail_node(tick, run, instance, "lock-lost", f"its lock {name} {how}")


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


# --- the audit ---------------------------------------------------------------------------------


def audit(tick: Tick) -> int:
    """Go on with the round: ask about holders whose time has come. Return of how many keys."""
    state, audits = tick.state, tick.audits
    audits.fired()
    if not audits.keys:
        audits.keys, audits.next_ms = list(state.keys), 0
    asked = 0
    for _ in range(min(AUDIT_KEYS_MAX, len(audits.keys))):
        key = audits.keys.pop()
        record = state.keys.get(key)
        if record is None or not record.holders:
            continue
        due_ms = record.audit_ms
        if due_ms <= state.now_ms:
            _ask(tick, key, record)
            asked += 1
            due_ms = state.now_ms + AUDIT_MS
        audits.next_ms = min(audits.next_ms or due_ms, due_ms)
    if audits.keys:
        audits.arm(tick.timers, state.now_ms + AUDIT_PAUSE_MS)
    elif state.keys:
        next_ms = audits.next_ms or state.now_ms + AUDIT_MS
        # A round looks at every key: not one round for each.
        audits.arm(tick.timers, max(next_ms, state.now_ms + AUDIT_MS // 10))
    return asked


def _ask(tick: Tick, key: str, record: KeyRecord) -> None:
    """Ask about a key's holders; those of this very shard need no message."""
    away: list[str] = []
    for holder, shard in sorted(record.holders.items()):
        if shard < 0:
            # A client's lock: it expires.
            continue
        if shard == tick.state.shard:
            audited(tick, key, holder, *record.told(holder))
        else:
            away.append(holder)
    if not away:
        return
    if len(away) > AUDIT_HOLDERS_MAX:
        begin = tick.state.now_ms // AUDIT_MS * AUDIT_HOLDERS_MAX % len(away)
        away = [*away[begin:], *away[:begin]][:AUDIT_HOLDERS_MAX]
    tick.emit_shard(KeyAudited(key, away, tick.state.now_ms + AUDIT_MS))


def audited(tick: Tick, key: str, holder: str, token: int = 0, until_ms: int = 0) -> None:
    """The home shard asks about a holder: one that is gone gives the key back.

    One that waits still, for whatever reason, learns that it has the key, as it would have been
    told: a lock with its token and its end.
    """
    run, instance = _holder(tick, holder)
    if run is not None and run.quarantined and not status.is_final(run.state):
        gate = run.gates.get(instance)
        if gate is not None and gate.holds(holder):
            return
        if instance < 0:
            holds = run.key_held and run.key_name == key
        else:
            waits = instance < len(run.status) and run.status[instance] == status.WAITING
            holds = run.node_keys.get(instance) == (key, holder) and not waits
        if holds:
            # Blocked is not gone: workers may be at its steps.
            return
    granted(tick, key, holder, token, until_ms)
