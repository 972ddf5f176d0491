"""Which coordinator owns which shard: assign, take over, drain, balance, standbys. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from headrace.coordinator.control.machine import Assign, Command, SetStandby, Unassign
from headrace.coordinator.control.view import Assignment, ControlState, ordinal_key


class PlacementPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of what placement may do and when."""

    skew_max_ms: int = 2_000
    """A coordinator whose clock is off by more owns nothing."""
    feature_level_min: int = 0
    """A coordinator whose release knows less owns nothing."""
    moves_max: int = 2
    """Shards moved for balance in one round; take-overs and drains are not limited."""
    balance_after_ms: int = 3_000
    """Rest after the last change of members or owners before anything moves for balance."""


class Claims(msgspec.Struct, frozen=True):
    """Who says that it owns a shard: `{shard: (generation, coordinator, incarnation)}`."""

    by_shard: Mapping[int, tuple[int, str, str]] = {}


def place(
    state: ControlState,
    *,
    expected: Iterable[int],
    claims: Claims,
    settled: bool,
    now_ms: int,
    policy: PlacementPolicy,
) -> list[Command]:
    """Return what brings the shard map to where it should be.

    *settled*: all members that can be expected have been heard, so that a shard without an owner
    in the view may be given to anybody; before that only to one that claims it. A shard goes
    first to its standby, which is warm; balance comes later, and moves few.
    """
    round_ = _Round(state, sorted(set(expected)), now_ms, policy)
    for shard in [shard for shard in state.shards if shard not in round_.expected]:
        round_.commands.append(Unassign(shard, state.shards[shard].generation))
    urgent = False
    for shard in round_.expected:
        urgent |= _settle_owner(round_, shard, claims, settled)
    if not urgent:
        _balance(round_)
    _name_standbys(round_)
    return round_.commands


class _Round:
    """The shard map as it will be once the commands so far are applied."""

    def __init__(
        self, state: ControlState, expected: list[int], now_ms: int, policy: PlacementPolicy
    ) -> None:
        self.state, self.expected, self.now_ms, self.policy = state, expected, now_ms, policy
        self.shards = {shard: state.shards[shard] for shard in expected if shard in state.shards}
        self.commands: list[Command] = []
        able = [
            record
            for record in state.coordinators.values()
            if record.status == "online"
            and abs(record.skew_ms) <= policy.skew_max_ms
            and record.feature_level >= policy.feature_level_min
        ]
        self.eligible = sorted((record.id for record in able), key=ordinal_key)

    def holds(self, assignment: Assignment) -> bool:
        """Tell whether the owner lives, in the life that owns."""
        record = self.state.coordinators.get(assignment.owner)
        return (
            record is not None
            and record.incarnation == assignment.incarnation
            and record.status != "offline"
        )

    def load(self) -> dict[str, int]:
        """Return how many shards each eligible coordinator owns."""
        counts = dict.fromkeys(self.eligible, 0)
        for assignment in self.shards.values():
            if assignment.owner in counts and self.holds(assignment):
                counts[assignment.owner] += 1
        return counts

    def least_loaded(self) -> str:
        counts = self.load()
        return min(self.eligible, key=lambda name: counts[name])

    def give(self, shard: int, owner: str, *, generation_min: int = 0) -> None:
        """Assign *shard* to *owner*; the old owner, when it still can, becomes the standby."""
        held = self.shards.get(shard)
        expected = held.generation if held else 0
        standby = ""
        if held:
            standby = held.owner if held.owner in self.eligible else held.standby
        if standby == owner or standby not in self.eligible:
            standby = ""
        assignment = Assignment(
            owner=owner,
            incarnation=self.state.coordinators[owner].incarnation,
            standby=standby,
            generation=max(expected + 1, generation_min, self.now_ms),
        )
        self.shards[shard] = assignment
        self.commands.append(Assign(shard, expected, assignment))


def _settle_owner(round_: _Round, shard: int, claims: Claims, settled: bool) -> bool:
    """Give the shard an owner that can own it; True when something had to be done."""
    held = round_.shards.get(shard)
    eligible = round_.eligible
    if held and round_.holds(held) and held.owner in eligible:
        return False
    if not eligible:
        return held is None
    if held is None:
        claim = claims.by_shard.get(shard)
        if claim and claim[1] in eligible and _lives(round_, claim[1], claim[2]):
            round_.give(shard, claim[1], generation_min=claim[0])
        elif settled:
            round_.give(shard, round_.least_loaded(), generation_min=claim[0] + 1 if claim else 0)
        return True
    round_.give(shard, held.standby if held.standby in eligible else round_.least_loaded())
    return True


def _lives(round_: _Round, identity: str, incarnation: str) -> bool:
    return round_.state.coordinators[identity].incarnation == incarnation


def _balance(round_: _Round) -> None:
    policy, now_ms = round_.policy, round_.now_ms
    changes = [record.since_ms for record in round_.state.coordinators.values()]
    changes += [assignment.generation for assignment in round_.shards.values()]
    if changes and 0 <= now_ms - max(changes) < policy.balance_after_ms:
        return
    for _ in range(policy.moves_max):
        counts = round_.load()
        if len(counts) < 2:
            return
        most = max(round_.eligible, key=lambda name: counts[name])
        least = min(round_.eligible, key=lambda name: counts[name])
        if counts[most] - counts[least] <= 1:
            return
        owned = [shard for shard, held in round_.shards.items() if held.owner == most]
        warm = [shard for shard in owned if round_.shards[shard].standby == least]
        round_.give((warm or owned)[0], least)


def _name_standbys(round_: _Round) -> None:
    counts = dict.fromkeys(round_.eligible, 0)
    for assignment in round_.shards.values():
        if assignment.standby in counts:
            counts[assignment.standby] += 1
    for shard in round_.expected:
        held = round_.shards.get(shard)
        if held is None:
            continue
        others = [name for name in round_.eligible if name != held.owner]
        if held.standby in others or (not others and not held.standby):
            continue
        standby = min(others, key=lambda name: counts[name]) if others else ""
        if standby:
            counts[standby] += 1
        round_.shards[shard] = msgspec.structs.replace(held, standby=standby)
        round_.commands.append(SetStandby(shard, held.generation, standby))
