"""What a node asks for before it begins: a lock, then a place within a rate limit.

What it gets is part of the run's state (`gate`); it is given back by the fold, in the entry that
ends the attempt. See `key_record` for what the home shard of a lock or a rate limit makes of it.
"""

from __future__ import annotations

from typing import Any

from headrace.coordinator.core.gate import CACHE, LOCK, RATE, Gate
from headrace.coordinator.core.key_record import KeyRecord
from headrace.coordinator.core.nodes.failing import fail_node
from headrace.coordinator.core.nodes.fields import KEY_LENGTH_MAX, evaluated
from headrace.coordinator.core.state import Run, ShardState
from headrace.coordinator.core.tick import Tick
from headrace.errors import HeadraceError, InvalidRequest
from headrace.events import KeyRequested
from headrace.expressions import to_string
from headrace.messages import WaitReason, subjects
from headrace.plan import Cache, Lock, RateLimit


def passes(tick: Tick, run: Run, instance: int, node: int) -> bool:
    """Tell whether nothing stands before *instance* any more; else ask for what it needs next."""
    gate = run.gates.get(instance)
    if gate is not None and gate.wants:
        return False
    left = run.program.gates[node] & ~(gate.passed if gate is not None else 0)
    if not left:
        return True
    found: Any = run.program.nodes[node]
    try:
        event = _request(run, instance, found, left, tick.state.now_ms)
    except HeadraceError as error:
        fail_node(tick, run, instance, "expression", str(error))
        return False
    if event.gate == "lock" and _holds_already(run, instance, event.key):
        shown = subjects.split_key(event.key)[1]
        fail_node(tick, run, instance, "deadlock", f"what is around it holds lock {shown} itself")
        return False
    tick.emit(run, event)
    if event.due_ms:
        tick.timers.push(event.due_ms, run.key, instance)
    return False


def is_open(run: Run, instance: int, now_ms: int) -> bool:
    """Tell whether a queued task may be dispatched: it has all that it needs, and has it still."""
    gates = run.program.gates
    if not gates or not (wanted := gates.get(run.locate(instance)[0])):
        return True
    gate = run.gates.get(instance)
    if gate is None or gate.passed != wanted or gate.wants:
        return False
    return not 0 < gate.until_ms <= now_ms


def timed_out(tick: Tick, run: Run, instance: int) -> bool:
    """Fail a node whose wait for a lock or a rate limit is over; tell whether it waited for one."""
    gate = run.gates.get(instance)
    if gate is None or not gate.wants:
        return False
    kind = "lock" if gate.wants == LOCK else "rate-limit"
    name = subjects.split_key(gate.key)[1]
    fail_node(tick, run, instance, f"{kind}-timeout", f"{_SHOWN[gate.wants]} {name} was not free")
    return True


def rate_request(run: Run, instance: int, limit: RateLimit, now_ms: int) -> KeyRequested:
    """Return the request for a place within *limit*; raises `HeadraceError`."""
    key = subjects.rate_key(run.program.namespace, _name(run, instance, limit.key, "rate limit"))
    due_ms = now_ms + limit.timeout_ms if limit.timeout_ms else 0
    return KeyRequested(instance, key, limit.limit, gate="rate", due_ms=due_ms, per_ms=limit.per_ms)


def _request(run: Run, instance: int, found: Any, left: int, now_ms: int) -> KeyRequested:
    if left & CACHE:
        cache: Cache = found.cache
        name = _name(run, instance, cache.key, "cached result")
        digest = run.program.content_digest(run.locate(instance)[0])
        key = subjects.cache_key(run.program.namespace, digest, name)
        return KeyRequested(instance, key, gate="cache", ttl_ms=cache.ttl_ms)
    if left & LOCK:
        lock: Lock = found.lock
        key = subjects.lock_key(run.program.namespace, _name(run, instance, lock.name, "lock"))
        due_ms = now_ms + lock.timeout_ms if lock.timeout_ms else 0
        return KeyRequested(instance, key, gate="lock", ttl_ms=lock.ttl_ms, due_ms=due_ms)
    return rate_request(run, instance, found.rate_limit, now_ms)


def _name(run: Run, instance: int, written: str, what: str) -> str:
    name = to_string(evaluated(run, max(instance, 0), written))
    if not name or len(name) > KEY_LENGTH_MAX:
        raise InvalidRequest(f"a {what} needs a name of 1 to {KEY_LENGTH_MAX} characters")
    return name


def _holds_already(run: Run, instance: int, key: str) -> bool:
    above = run.parent(instance)
    while above >= 0:
        gate = run.gates.get(above)
        if gate is not None and gate.lock == key:
            return True
        above = run.parent(above)
    return False


def lock_around(run: Run, instance: int) -> Gate | None:
    """Return the gate of the innermost lock that *instance* runs under, its own included."""
    while instance >= 0:
        gate = run.gates.get(instance)
        if gate is not None and gate.lock:
            return gate
        instance = run.parent(instance)
    return None


# --- why a node waits --------------------------------------------------------------------------

_SHOWN = {LOCK: "lock", RATE: "rate limit"}


def gate_reason(state: ShardState, run: Run, instance: int) -> WaitReason | None:
    """Say what *instance* waits for before it may begin, who has it, and until when."""
    gate = run.gates.get(instance)
    if gate is None or not gate.wants:
        return None
    name = subjects.split_key(gate.key)[1]
    if gate.wants == CACHE:
        text = f"asks whether there is a cached result {name.partition('/')[2]}"
        return WaitReason(
            path=run.path(instance), state="WAITING", owner="coordinator", reason=text
        )
    record = state.keys.get(gate.key)
    text, free_ms = f"waits for {_SHOWN[gate.wants]} {name}", 0
    if record is not None:
        known, free_ms = waits_behind(record, gate.holder, state.now_ms)
        text += known
    due_ms = run.due.get(instance, 0) if instance >= 0 else 0
    return WaitReason(
        path=run.path(instance) if instance >= 0 else "",
        state="WAITING",
        owner="timer" if free_ms else "coordinator",
        reason=text,
        deadline_ms=free_ms or due_ms,
        key=gate.key,
        holder=gate.holder if record is None else "",
    )


def waits_behind(record: KeyRecord, holder: str, now_ms: int) -> tuple[str, int]:
    """Return (what to say about what *holder* waits for, when its turn comes or 0: not known)."""
    waiting = list(record.waiters)
    place = waiting.index(holder) if holder in record.waiters else 0
    before = f"; {place} before it" if place else ""
    if record.per_ms:
        free_ms = record.free_ms(place)
        begun = sum(count for _, count in record.cooling)
        text = f" ({record.limit} per {record.per_ms / 1000:g} s; {begun} have begun in that time)"
        if free_ms:
            text += f", {max(free_ms - now_ms, 0) / 1000:.1f} s more"
        return text + before, free_ms
    shown = []
    for name in sorted(record.holders):
        terms = record.terms.get(name)
        owner = terms.owner if terms is not None and terms.owner else name
        if terms is not None and terms.until_ms:
            owner += f" for at most {max(terms.until_ms - now_ms, 0) / 1000:.1f} s more"
        shown.append(owner)
    return (f", held by {', '.join(shown)}" if shown else "") + before, 0
