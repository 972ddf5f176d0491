"""The fold of what happens beside runs: plans, evictions, snapshots, keys, outbox, settings."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from headrace.coordinator.core import status
from headrace.coordinator.core.kept_results import KeptResult
from headrace.coordinator.core.key_record import KeyRecord, Terms
from headrace.coordinator.core.schedule_events import FOLD
from headrace.coordinator.core.state import (
    EMPTY_MAP,
    IDLE_PLANS_MAX,
    ShardState,
    Tombstone,
)
from headrace.coordinator.core.sticky import KEYS_MAX, forget_oldest
from headrace.coordinator.core.trigger_events import FOLD as TRIGGER_FOLD
from headrace.coordinator.core.trigger_events import definition_changed
from headrace.coordinator.core.triggers import Definition
from headrace.events import (
    CacheAsked,
    CacheCleared,
    CacheStored,
    ChildRefused,
    DefinitionRegistered,
    DefinitionsDeleted,
    KeyAudited,
    KeyDeclined,
    KeyGrantedTo,
    KeyReleased,
    KeysCooled,
    KeyWaited,
    LockRenewed,
    NamespaceChanged,
    OutboxCleared,
    PlansForgotten,
    PlanStored,
    RequestSeen,
    RunEvicted,
    SettingsChanged,
    ShardEvent,
    SnapshotRegistered,
    VariablesChanged,
)
from headrace.messages import subjects

CANCEL_IN_PROGRESS = 1
NEWEST_ONLY = 2
"""Bits of a key request's mode."""
SNAPSHOTS_KEPT = 2
RELEASED_KEPT_MS = 600_000
"""An `acquire` that was delayed on its way may still arrive this long after the release."""
FORGET_MARGIN_MS = 5_000
"""A request is remembered this long after it could last be sent: clocks differ."""


def evolve_shard(state: ShardState, event: ShardEvent) -> None:
    """Apply a shard's own event in place."""
    _EVOLVE[type(event)](state, event)


def forget_expired(state: ShardState) -> None:
    """Begin a batch: forget requests and tombstones whose time is over.

    A function of logged time and of the state at the batch before, so that every replica forgets
    the same at the same entry.
    """
    if len(state.sticky) > KEYS_MAX:
        forget_oldest(state)
    expiries = state.expiries
    now_ms = state.now_ms - FORGET_MARGIN_MS
    while expiries and expiries[0][0] < now_ms:
        _, name, is_tombstone = heappop(expiries)
        if is_tombstone:
            tombstone = state.tombstones.get(name)
            if tombstone is not None and tombstone.expires_ms < now_ms:
                del state.tombstones[name]
        else:
            state.requests.pop(name, None)


def tombstone(state: ShardState, key: str) -> Tombstone | None:
    """Return what is remembered of an ended run; None once the next batch would forget it.

    A shard that is idle has no batch: it must not keep an id for longer than a busy one.
    """
    found = state.tombstones.get(key)
    if found is not None and found.expires_ms < state.now_ms - FORGET_MARGIN_MS:
        return None
    return found


def idle_plans(state: ShardState) -> list[str]:
    """Return the plans that are to be forgotten: of those without a live run, the oldest."""
    if len(state.plans) <= IDLE_PLANS_MAX:
        return []
    idle = [digest for digest in state.plans if not state.plan_uses.get(digest)]
    return idle[: max(len(idle) - IDLE_PLANS_MAX, 0)]


def _plans_forgotten(state: ShardState, event: PlansForgotten) -> None:
    gone = set(event.digests)
    for digest in event.digests:
        state.plans.pop(digest, None)
        state.plan_uses.pop(digest, None)
    for cached in [key for key in state.programs if key[0] in gone]:
        del state.programs[cached]


def _plan_stored(state: ShardState, event: PlanStored) -> None:
    state.plans[event.digest] = event.data


def _run_evicted(state: ShardState, event: RunEvicted) -> None:
    run = state.runs.pop(event.run, None)
    if run is not None:
        for program in run.programs():
            state.plan_uses[program.digest] -= 1
    if event.not_after_ms >= state.now_ms - FORGET_MARGIN_MS:
        state.tombstones[event.run] = Tombstone(event.fingerprint, event.state, event.not_after_ms)
        heappush(state.expiries, (event.not_after_ms, event.run, True))


def _snapshot(state: ShardState, event: SnapshotRegistered) -> None:
    state.snapshots.append((event.position, event.name, event.state_hash))
    del state.snapshots[:-SNAPSHOTS_KEPT]


def _request(state: ShardState, event: RequestSeen) -> None:
    state.remember(event.request_id, event.not_after_ms)


def _key_waited(state: ShardState, event: KeyWaited) -> None:
    key = state.keys.get(event.key)
    if key is None:
        key = state.keys[event.key] = KeyRecord(event.limit)
    key.limit, key.per_ms = event.limit, event.per_ms
    if event.owner and not event.per_ms:
        key.terms[event.holder] = Terms(event.ttl_ms, event.until_ms, 0, event.owner)
    if event.mode & CANCEL_IN_PROGRESS:
        for holder, shard in key.holders.items():
            state.post(f"#{shard}", "preempt", event.key, holder)
    key.waiters[event.holder] = event.shard


def _key_granted(state: ShardState, event: KeyGrantedTo) -> None:
    key = state.keys[event.key]
    shard = key.waiters.pop(event.holder)
    key.holders[event.holder] = shard
    if event.audit_ms:
        key.audit_ms = event.audit_ms
    key.cool(state.now_ms)
    if event.token:
        state.token_last = max(state.token_last, event.token)
        key.terms[event.holder] = key.terms.get(event.holder, Terms())._replace(
            token=event.token, until_ms=event.until_ms
        )
    if shard >= 0:
        state.post(f"#{shard}", "granted", event.key, event.holder, *key.told(event.holder))


def _key_released(state: ShardState, event: KeyReleased) -> None:
    if event.reason not in ("replaced", "started"):
        name = released_id(event.key, event.holder)
        state.remember(name, state.now_ms + RELEASED_KEPT_MS)
    key = state.keys.get(event.key)
    if key is None:
        return
    shard = key.waiters.pop(event.holder, None)
    if shard is not None and event.reason == "replaced":
        state.post(f"#{shard}", "replaced", event.key, event.holder)
    held_by = key.holders.pop(event.holder, None)
    key.terms.pop(event.holder, None)
    key.cool(state.now_ms)
    if event.reason == "started" and held_by is not None:
        key.started(state.now_ms)
    elif event.reason in ("expired", "forced") and held_by is not None and held_by >= 0:
        state.post(f"#{held_by}", "expired", event.key, event.holder, event.reason)
    if key.is_idle:
        del state.keys[event.key]


def _keys_cooled(state: ShardState, event: KeysCooled) -> None:
    for name in event.keys:
        key = state.keys.get(name)
        if key is not None:
            key.cool(state.now_ms)
            if key.is_idle:
                del state.keys[name]


def _lock_renewed(state: ShardState, event: LockRenewed) -> None:
    state.remember(event.request_id, event.not_after_ms)
    terms = state.keys[event.key].terms
    terms[event.holder] = terms[event.holder]._replace(until_ms=event.until_ms)


def _cache_asked(state: ShardState, event: CacheAsked) -> None:
    found = state.kept.get(event.key, state.now_ms)
    told: tuple[Any, ...] = ()
    if found is not None:
        said = found.extra
        told = (found.output, found.run, found.path, found.time_ms)
        told += (said.env, said.path) if said is not None else ({}, [])
    state.post(f"#{event.shard}", "cached", event.key, event.holder, *told)


def _cache_stored(state: ShardState, event: CacheStored) -> None:
    for key in event.evicted:
        state.kept.drop(key)
    facts = (event.output, event.run, event.path, event.time_ms, event.until_ms, event.extra)
    state.kept.put(event.key, KeptResult(*facts))


def _cache_cleared(state: ShardState, event: CacheCleared) -> None:
    state.remember(event.request_id, event.not_after_ms)
    for key in event.keys:
        state.kept.drop(key)


def released_id(key: str, holder: str) -> str:
    """Return under what name a released holder is remembered: a late `acquire` gets nothing."""
    return f"released:{key}:{holder}"


def _key_declined(state: ShardState, event: KeyDeclined) -> None:
    state.post(event.key, "release", event.key, event.holder)


def _child_refused(state: ShardState, event: ChildRefused) -> None:
    more = (status.FAILED, EMPTY_MAP, event.reason)
    state.post(f"#{event.shard}", "child-ended", event.child, event.holder, *more)


def _key_audited(state: ShardState, event: KeyAudited) -> None:
    key = state.keys.get(event.key)
    if key is None:
        return
    key.audit_ms = event.audit_ms
    for holder in event.holders:
        shard = key.holders.get(holder)
        if shard is not None and shard >= 0:
            state.post(f"#{shard}", "audit", event.key, holder, *key.told(holder))


def _outbox_cleared(state: ShardState, event: OutboxCleared) -> None:
    state.outbox.pop(event.message, None)


def _settings(state: ShardState, event: SettingsChanged) -> None:
    state.settings.update(event.settings)
    # A shard that is new has not heard of what holds for namespaces.
    for namespace, (weight, number) in sorted(state.namespaces.items()):
        _tell_all(state, "namespace", namespace, weight, number)
    for namespace, (number, values) in sorted(state.variables.items()):
        _tell_all(state, "variables", namespace, values, number)


def _namespace(state: ShardState, event: NamespaceChanged) -> None:
    state.remember(event.request_id, event.not_after_ms)
    state.namespaces[event.namespace] = (event.weight, event.number)
    _tell_all(state, "namespace", event.namespace, event.weight, event.number)


def _variables(state: ShardState, event: VariablesChanged) -> None:
    state.remember(event.request_id, event.not_after_ms)
    state.variables[event.namespace] = (event.number, event.values)
    _tell_all(state, "variables", event.namespace, event.values, event.number)


def _tell_all(state: ShardState, kind: str, namespace: str, value: Any, number: int) -> None:
    """The system shard tells all others what holds for a namespace; *number* grows with each."""
    if state.shard != subjects.SYSTEM_SHARD:
        return
    for shard in range(sum(state.settings.get("layout", {}).values())):
        if shard != state.shard:
            state.post(f"#{shard}", kind, namespace, f"{number}.{shard}", value, number)


def _definition_registered(state: ShardState, event: DefinitionRegistered) -> None:
    state.remember(event.request_id, event.not_after_ms)
    versions = state.definitions.setdefault(event.key, {})
    versions[event.version] = Definition(event.digest, event.number, state.now_ms, event.actor)
    state.definition_last = event.number
    state.plan_uses[event.digest] = state.plan_uses.get(event.digest, 0) + 1
    definition_changed(state, event.key, events=event.events)
    if event.schedules:
        _tell_schedules(state, event.key)


def _definitions_deleted(state: ShardState, event: DefinitionsDeleted) -> None:
    state.remember(event.request_id, event.not_after_ms)
    versions = state.definitions[event.key]
    for version in event.versions:
        state.plan_uses[versions.pop(version).digest] -= 1
    if not versions:
        del state.definitions[event.key]
    definition_changed(state, event.key, events=event.events)
    if event.number:
        state.definition_last = event.number
        _tell_schedules(state, event.key)


def _tell_schedules(state: ShardState, key: str) -> None:
    """The newest version of a definition is another one: its schedules follow."""
    versions = state.definitions.get(key)
    version = next(reversed(versions)) if versions else ""
    plan = state.plans[versions[version].digest] if versions else b""
    # Home of all its schedules; they are named after it.
    home = subjects.schedule_home(key)
    state.post(home, "schedules", key, str(state.definition_last), version, plan)


_EVOLVE: dict[type, Callable[[ShardState, Any], None]] = {
    PlanStored: _plan_stored,
    PlansForgotten: _plans_forgotten,
    RunEvicted: _run_evicted,
    SnapshotRegistered: _snapshot,
    RequestSeen: _request,
    KeyWaited: _key_waited,
    KeyGrantedTo: _key_granted,
    KeyReleased: _key_released,
    KeyDeclined: _key_declined,
    KeyAudited: _key_audited,
    KeysCooled: _keys_cooled,
    LockRenewed: _lock_renewed,
    CacheAsked: _cache_asked,
    CacheStored: _cache_stored,
    CacheCleared: _cache_cleared,
    OutboxCleared: _outbox_cleared,
    ChildRefused: _child_refused,
    SettingsChanged: _settings,
    NamespaceChanged: _namespace,
    VariablesChanged: _variables,
    DefinitionRegistered: _definition_registered,
    DefinitionsDeleted: _definitions_deleted,
    **FOLD,
    **TRIGGER_FOLD,
}
