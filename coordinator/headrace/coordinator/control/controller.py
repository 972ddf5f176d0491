"""What a controller decides: a pure function of the view, what was heard, and the time.

Two controllers at once (an election under way, a change of the number of coordinators) are
harmless: every owner is fenced in its shard's log, so what they disagree about costs a take-over,
never an event. Safety does not depend on who is elected; only liveness does.
"""

from __future__ import annotations

import msgspec

from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat
from headrace.coordinator.control.machine import Command, apply
from headrace.coordinator.control.placement import Claims, PlacementPolicy, place
from headrace.coordinator.control.registry import (
    CoordinatorTable,
    RegistryPolicy,
    WorkerTable,
    coordinator_changes,
    worker_changes,
)
from headrace.coordinator.control.view import ControlState

RIVAL_REMEMBERED_S = 3.0
"""A rival cluster without a controller for a moment (an election) still counts as having one."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The controller's limits."""

    registry: RegistryPolicy = RegistryPolicy()
    placement: PlacementPolicy = PlacementPolicy()
    settle_s: float = 1.5
    """How long a new controller waits for members that it has not heard, before shards that
    nobody claims are given away."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a decision rests on besides the view."""

    coordinators: CoordinatorTable
    workers: WorkerTable
    members: frozenset[str]
    """Configured coordinator ids."""
    membership: str
    """Digest of the same."""
    expected: frozenset[int]
    """Shards that should have an owner."""
    since_s: float
    """When we became controller, monotonic."""
    now_s: float
    now_ms: int


def decide(
    state: ControlState, seen: Observation, policy: Policy, *, workers_too: bool = True
) -> list[Command]:
    """Return the commands that are due now; empty when everything is as it should be.

    Nodes are registered, their status follows their heartbeats, silent ones go offline; shards
    get owners and standbys, leave coordinators that drain, and are balanced to a difference of
    at most one.
    """
    commands = coordinator_changes(
        state,
        seen.coordinators,
        members=seen.members,
        membership=seen.membership,
        skew_max_ms=policy.placement.skew_max_ms,
        now_s=seen.now_s,
        now_ms=seen.now_ms,
        policy=policy.registry,
    )
    after = state.copy()
    for command in commands:
        apply(after, command)
    commands += place(
        after,
        expected=seen.expected,
        claims=claims_of(seen, policy),
        settled=_settled(seen, policy),
        now_ms=seen.now_ms,
        policy=policy.placement,
    )
    if workers_too:
        commands += worker_changes(
            state, seen.workers, now_s=seen.now_s, now_ms=seen.now_ms, policy=policy.registry
        )
    return commands


def claims_of(seen: Observation, policy: Policy) -> Claims:
    """Return who says that it owns what; of several the highest generation."""
    by_shard: dict[int, tuple[int, str, str]] = {}
    for beat in seen.coordinators.fresh(seen.now_s, policy.registry.coordinator_expire_s):
        for shard, generation in beat.owned.items():
            claim = (generation, beat.id, beat.incarnation)
            by_shard[shard] = max(claim, by_shard.get(shard, claim))
    return Claims(by_shard)


def speaks(
    heard: CoordinatorTable,
    own: CoordinatorHeartbeat,
    *,
    now_s: float,
    expire_s: float,
    rivals: dict[str, float],
) -> bool:
    """Tell whether our list of peers is the one that rules.

    While the number of coordinators changes, some run with the old list of peers and some with
    the new one: two clusters, each perhaps with a controller. The one with more living members
    rules (then the longer list, then the digest); the other's coordinators own nothing. *rivals*
    remembers, between calls, when each other list was last seen to have a controller.
    """
    living: dict[str, tuple[int, int]] = {own.membership: (1, own.members)}
    for beat in heard.fresh(now_s, expire_s):
        if beat.id == own.id:
            continue
        count, _ = living.get(beat.membership, (0, 0))
        living[beat.membership] = (count + 1, beat.members)
        if beat.controller and beat.membership != own.membership:
            rivals[beat.membership] = now_s
    mine = (*living[own.membership], own.membership)
    for membership, seen_s in list(rivals.items()):
        if now_s - seen_s > RIVAL_REMEMBERED_S:
            del rivals[membership]
        elif membership in living and (*living[membership], membership) > mine:
            return False
    return True


def _settled(seen: Observation, policy: Policy) -> bool:
    if seen.now_s - seen.since_s >= policy.settle_s:
        return True
    living = {
        beat.id
        for beat in seen.coordinators.fresh(seen.now_s, policy.registry.coordinator_expire_s)
        if beat.membership == seen.membership
    }
    return seen.members <= living
