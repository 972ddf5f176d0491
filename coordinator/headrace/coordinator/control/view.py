"""The replicated view: who is there, and which coordinator owns which shard. Pure data.

Everything in it can be learned again from heartbeats, so nothing of it is ever on disk, and
nothing durable may be put here.
"""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

import msgspec

CoordinatorStatus: TypeAlias = Literal["online", "draining", "offline"]
WorkerStatus: TypeAlias = Literal["online", "busy", "draining", "offline"]

RECENT_MAX = 128
"""Request ids remembered, so that a commit sent twice is applied once."""


class CoordinatorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One coordinator, as last agreed."""

    id: str
    """Stable ordinal."""
    incarnation: str
    release: str = ""
    feature_level: int = 0
    status: CoordinatorStatus = "online"
    drain_asked: bool = False
    """Somebody asked for it by command; holds until its next incarnation."""
    backlog: int = 0
    """Steps that wait in its shards; refreshed with every healing, advisory."""
    skew_ms: int = 0
    """Its wall clock minus the broker's; refreshed likewise."""
    since_ms: int = 0
    """When it got this status (wall clock of the controller)."""


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker, as last agreed."""

    id: str
    incarnation: str
    namespace: str
    capabilities: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ()
    """Names of its custom handlers."""
    slots: int = 0
    release: str = ""
    status: WorkerStatus = "online"
    since_ms: int = 0


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns a shard. Advice, not a lock: the shard's log fences."""

    owner: str
    incarnation: str
    """Of the owner; a later life of the same coordinator does not own the shard."""
    standby: str = ""
    """Coordinator that folds the log to be ready; empty: none."""
    generation: int
    """Rises with each change of owner; milliseconds since the epoch where clocks allow, so that
    it also rises over a restart of all coordinators."""


class ControlState(msgspec.Struct, kw_only=True):
    """The view. Only `machine.apply_commit` changes one that is replicated."""

    number: int = 0
    """View number: index of the last Raft entry applied."""
    changed: int = 0
    """Index of the last entry that was more than a healing."""
    term: int = 0
    """Of the controller that took control last; commits of earlier ones are refused."""
    controller: str = ""
    coordinators: dict[str, CoordinatorRecord] = {}
    workers: dict[str, WorkerRecord] = {}
    shards: dict[int, Assignment] = {}
    recent: list[str] = []

    def copy(self) -> ControlState:
        """Return a snapshot that later commits do not touch (records are immutable)."""
        return ControlState(
            number=self.number,
            changed=self.changed,
            term=self.term,
            controller=self.controller,
            coordinators=dict(self.coordinators),
            workers=dict(self.workers),
            shards=dict(self.shards),
            recent=list(self.recent),
        )

    def replace_with(self, other: ControlState) -> None:
        """Become a copy of *other*, in place."""
        copied = other.copy()
        for field in self.__struct_fields__:
            setattr(self, field, getattr(copied, field))

    def owned_by(self, coordinator: str, incarnation: str) -> dict[int, int]:
        """Return {shard: generation} of what this life of a coordinator owns."""
        return {
            shard: assignment.generation
            for shard, assignment in self.shards.items()
            if assignment.owner == coordinator and assignment.incarnation == incarnation
        }

    def standby_of(self, coordinator: str) -> frozenset[int]:
        """Return the shards that the coordinator keeps warm."""
        return frozenset(
            shard for shard, assignment in self.shards.items() if assignment.standby == coordinator
        )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ControlState)


def encode_state(state: ControlState) -> bytes:
    """Return the whole view; equal views give equal bytes."""
    # msgspec sorts no integer keys, so all are sorted here; records hold no dicts.
    ordered = state.copy()
    ordered.coordinators = dict(sorted(state.coordinators.items()))
    ordered.workers = dict(sorted(state.workers.items()))
    ordered.shards = dict(sorted(state.shards.items()))
    return _encoder.encode(ordered)


def decode_state(data: bytes) -> ControlState:
    """Return the view; raises `msgspec.MsgspecError` on anything else."""
    return _decoder.decode(data)


def state_hash(state: ControlState) -> str:
    """Return a digest of the view, equal on every replica that has the same `number`."""
    return hashlib.blake2b(encode_state(state), digest_size=8).hexdigest()


def ordinal_key(identity: str) -> tuple[int, str]:
    """Sort key under which ``coordinator-10`` comes after ``coordinator-9``."""
    return (len(identity), identity)
