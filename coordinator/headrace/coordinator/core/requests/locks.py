"""Locks of clients: acquired, renewed, released and looked at in their home shard."""

from __future__ import annotations

from typing import Final

from headrace.coordinator.core import keys
from headrace.coordinator.core.commands import Refusal, Reply
from headrace.coordinator.core.key_record import KeyRecord
from headrace.coordinator.core.nodes import waits_behind
from headrace.coordinator.core.requests.mutation import Handler, over, seen, too_late
from headrace.coordinator.core.shard_events import released_id
from headrace.coordinator.core.tick import Tick
from headrace.events import KeyReleased, LockRenewed
from headrace.messages import (
    AcquireLock,
    GetKey,
    GetLock,
    KeyView,
    ListLocks,
    LockView,
    ReleaseLock,
    RenewLock,
    subjects,
)

NAME_MAX: Final = 512
OWNER_MAX: Final = 256
TTL_MS_MAX: Final = 7 * 86_400_000
WAITERS_MAX: Final = 10_000
"""Of one lock: clients that come then are refused."""


def _acquire(tick: Tick, namespace: str, request: AcquireLock) -> Reply:
    refused = _unfit(request.name, request.owner, request.ttl_ms)
    if refused is not None:
        return refused
    state, holder = tick.state, f"@{request.request_id}"
    key = subjects.lock_key(namespace, request.name)
    record = state.keys.get(key)
    if record is not None and record.knows(holder):
        return _view(tick, key, holder)
    if released_id(key, holder) in state.requests:
        text = f"lock {request.name} was not free in time, or it was held and has expired"
        return Refusal("conflict", text)
    late = too_late(tick, request)
    if late is not None:
        return late
    if record is not None and not record.has_room(state.now_ms):
        if request.until_ms <= state.now_ms:
            text, _ = waits_behind(record, holder, state.now_ms)
            return Refusal("conflict", f"lock {request.name} is not free{text}")
        if len(record.waiters) >= WAITERS_MAX:
            return over("lock", len(record.waiters), WAITERS_MAX, "waiters")
    # At least that long: a client may be late with its next question.
    keys.acquire(
        tick,
        key,
        holder,
        1,
        0,
        -1,
        request.ttl_ms,
        owner=request.owner or request.actor or "a client",
        until_ms=request.until_ms,
    )
    return _view(tick, key, holder)


def _renew(tick: Tick, namespace: str, request: RenewLock) -> Reply:
    refused = _unfit(request.name, request.owner, request.ttl_ms)
    if refused is not None:
        return refused
    key = subjects.lock_key(namespace, request.name)
    found = _find(tick, key, request)
    if isinstance(found, Refusal):
        return found
    if request.request_id in tick.state.requests:
        return _view(tick, key, found)
    late = too_late(tick, request)
    if late is not None:
        return late
    record = tick.state.keys[key]
    if found not in record.holders:
        return Refusal("conflict", f"lock {request.name} is waited for: there is nothing to renew")
    if record.holders[found] >= 0:
        return Refusal("conflict", f"lock {request.name} is a step's, which has its own time")
    until_ms = tick.state.now_ms + request.ttl_ms
    tick.emit_shard(LockRenewed(key, found, until_ms, request.request_id, request.not_after_ms))
    keys.arm(tick, key, record)
    return _view(tick, key, found)


def _release(tick: Tick, namespace: str, request: ReleaseLock) -> Reply:
    if request.request_id in tick.state.requests:
        return None
    key = subjects.lock_key(namespace, request.name)
    if request.acquired_by:
        holder = f"@{request.acquired_by}"
        record = tick.state.keys.get(key)
        if record is None or not record.knows(holder):
            # It may be on its way: then it gets nothing.
            tick.emit_shard(KeyReleased(key, holder))
            return None
        found: str | Refusal = holder
    else:
        found = _find(tick, key, request)
    if isinstance(found, Refusal):
        return found
    late = too_late(tick, request)
    if late is not None:
        return late
    if tick.state.keys[key].holders.get(found, -1) >= 0 and not request.force:
        owner = tick.state.keys[key].terms[found].owner
        return Refusal("conflict", f"lock {request.name} is held by step {owner}; use --force")
    tick.emit_shard(KeyReleased(key, found, "forced" if request.force else "released"))
    seen(tick, request)
    keys.grant(tick, key)
    return None


def _unfit(name: str, owner: str, ttl_ms: int) -> Refusal | None:
    if not name or len(name) > NAME_MAX or not name.isprintable():
        return Refusal("invalid-request", f"the name of a lock has 1 to {NAME_MAX} characters")
    if len(owner) > OWNER_MAX or not owner.isprintable():
        return Refusal("invalid-request", f"an owner has at most {OWNER_MAX} characters")
    if not 1 <= ttl_ms <= TTL_MS_MAX:
        return Refusal("invalid-request", "a lock is held for 1 ms to 7 days, then renewed")
    return None


def _find(tick: Tick, key: str, request: RenewLock | ReleaseLock) -> str | Refusal:
    """Return the holder (or who waits) that a request names by its token or its owner."""
    record = tick.state.keys.get(key)
    force = isinstance(request, ReleaseLock) and request.force
    if not (request.token or request.owner or force):
        return Refusal("invalid-request", "whose lock? give its token, or its owner")
    if record is not None:
        for holder in (*record.holders, *record.waiters):
            terms = record.terms[holder]
            if request.token and terms.token != request.token:
                continue
            if request.owner and terms.owner != request.owner:
                continue
            return holder
    name = request.name
    return Refusal("conflict", f"lock {name} is not held so{_now(tick, record)}")


def _now(tick: Tick, record: KeyRecord | None) -> str:
    if record is None or not record.holders:
        return "; it is free"
    return waits_behind(record, "", tick.state.now_ms)[0]


def _get(tick: Tick, namespace: str, request: GetLock) -> Reply:
    return _view(tick, subjects.lock_key(namespace, request.name))


def _list(tick: Tick, namespace: str, request: ListLocks) -> Reply:
    prefix = subjects.lock_key(namespace, "")
    return [_view(tick, key) for key in sorted(tick.state.keys) if key.startswith(prefix)]


def _get_key(tick: Tick, namespace: str, request: GetKey) -> Reply:
    record = tick.state.keys.get(request.key)
    if record is None or subjects.split_key(request.key)[0].rpartition(":")[2] != namespace:
        return KeyView()
    text, due_ms = waits_behind(record, request.holder, tick.state.now_ms)
    return KeyView(text=text, due_ms=due_ms)


def _view(tick: Tick, key: str, asked: str = "") -> LockView:
    namespace, name = subjects.split_key(key.partition(":")[2])
    view = LockView(name=name, namespace=namespace)
    record = tick.state.keys.get(key)
    if record is None:
        return view
    for holder in record.holders:
        terms = record.terms[holder]
        view.holder, view.owner, view.token = holder, terms.owner, terms.token
        view.until_ms, view.granted = terms.until_ms, bool(asked) and holder == asked
    view.waiting = [record.terms[holder].owner for holder in record.waiters]
    return view


HANDLERS: Final[dict[type, Handler]] = {
    AcquireLock: _acquire,
    RenewLock: _renew,
    ReleaseLock: _release,
    GetLock: _get,
    ListLocks: _list,
    GetKey: _get_key,
}
