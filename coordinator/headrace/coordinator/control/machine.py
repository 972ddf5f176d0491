"""The control plane's state machine: commands, and how they change the view. Pure, deterministic.

Every command says what it expects, where expectations matter, so that one that comes late or
twice (a deposed controller's, a resent one) changes nothing.
"""

from __future__ import annotations

import zlib
from typing import TypeAlias, assert_never

import msgspec

from headrace.coordinator.control.view import (
    RECENT_MAX,
    Assignment,
    ControlState,
    CoordinatorRecord,
    WorkerRecord,
    decode_state,
    encode_state,
)

COMMIT_VERSION = 1
VIEW_BYTES_MAX = 32 * 1024 * 1024
"""A compressed view that grows beyond this is refused."""


class TakeControl(msgspec.Struct, frozen=True, tag="take"):
    """A newly elected controller's first command: from here on earlier terms are refused."""

    controller: str
    term: int


class PutCoordinator(msgspec.Struct, frozen=True, tag="coordinator"):
    """Register a coordinator, or change its status."""

    record: CoordinatorRecord


class DropCoordinator(msgspec.Struct, frozen=True, tag="drop-coordinator"):
    """Forget a coordinator that is offline and no longer a member."""

    id: str
    incarnation: str


class DrainCoordinator(msgspec.Struct, frozen=True, tag="drain"):
    """Move a coordinator's shards away; anybody may ask. Holds until its next incarnation."""

    id: str
    incarnation: str = ""
    """Empty: whichever lives now."""


class PutWorker(msgspec.Struct, frozen=True, tag="worker"):
    """Register a worker, or change its status."""

    record: WorkerRecord


class DropWorker(msgspec.Struct, frozen=True, tag="drop-worker"):
    """Forget a worker that has been offline for long."""

    id: str
    incarnation: str


class Assign(msgspec.Struct, frozen=True, tag="assign"):
    """Give a shard to an owner, if its generation still is *expected* (0: never assigned)."""

    shard: int
    expected: int
    assignment: Assignment


class SetStandby(msgspec.Struct, frozen=True, tag="standby"):
    """Name another standby for the ownership *generation* of a shard."""

    shard: int
    generation: int
    standby: str


class Unassign(msgspec.Struct, frozen=True, tag="unassign"):
    """Forget a shard that exists no more."""

    shard: int
    expected: int


class Heal(msgspec.Struct, frozen=True, tag="heal"):
    """The whole view as it was at Raft index *at*; mends a replica that went astray.

    Skipped where a later command has been applied already, since it would erase that one.
    """

    at: int
    view: bytes
    """`encode_state`, compressed by zlib."""


Command: TypeAlias = (
    TakeControl
    | PutCoordinator
    | DropCoordinator
    | DrainCoordinator
    | PutWorker
    | DropWorker
    | Assign
    | SetStandby
    | Unassign
    | Heal
)


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One Raft entry: commands that are applied together."""

    version: int = COMMIT_VERSION
    request: str
    """Unique; the second commit with it is skipped."""
    term: int = 0
    """Of the controller that decided it; 0: a request of somebody else, valid in any term."""
    commands: tuple[Command, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Commit)


def encode_commit(commit: Commit) -> bytes:
    """Return the commit's bytes for the Raft log."""
    return _encoder.encode(commit)


def decode_commit(data: bytes) -> Commit:
    """Return the commit; raises `msgspec.MsgspecError` on anything else."""
    return _decoder.decode(data)


def heal_of(state: ControlState) -> Heal:
    """Return the command that makes any replica equal to *state*."""
    return Heal(at=state.number, view=zlib.compress(encode_state(state), 1))


def apply_commit(state: ControlState, commit: Commit, *, index: int) -> None:
    """Apply the entry at Raft *index* to *state*, in place.

    The same entries give the same bytes on every replica. Raises `msgspec.MsgspecError` or
    `zlib.error` before anything but the view number has changed, on a view that does not decode.
    """
    state.number = index
    if 0 < commit.term < state.term or commit.request in state.recent:
        return
    views = [_view_of(command) for command in commit.commands if isinstance(command, Heal)]
    if views:
        assert len(commit.commands) == 1, "a healing comes alone"
        _heal(state, *views[0])
        return
    state.changed = index
    state.recent.append(commit.request)
    del state.recent[:-RECENT_MAX]
    for command in commit.commands:
        apply(state, command)


def apply(state: ControlState, command: Command) -> None:
    """Apply one command other than `Heal` (that is `apply_commit`'s) to *state*, in place."""
    match command:
        case TakeControl(controller, term):
            state.controller, state.term = controller, term
        case PutCoordinator(record):
            state.coordinators[record.id] = record
        case DropCoordinator(identity, incarnation):
            known = state.coordinators.get(identity)
            if known and known.incarnation == incarnation and known.status == "offline":
                del state.coordinators[identity]
        case DrainCoordinator(identity, incarnation):
            known = state.coordinators.get(identity)
            if known and incarnation in ("", known.incarnation):
                state.coordinators[identity] = msgspec.structs.replace(known, drain_asked=True)
        case PutWorker(worker):
            state.workers[worker.id] = worker
        case DropWorker(identity, incarnation):
            lost = state.workers.get(identity)
            if lost and lost.incarnation == incarnation and lost.status == "offline":
                del state.workers[identity]
        case Assign() | SetStandby() | Unassign():
            _place(state, command)
        case Heal():
            raise AssertionError("a healing is applied by apply_commit")
        case _:
            assert_never(command)


def _place(state: ControlState, command: Assign | SetStandby | Unassign) -> None:
    held = state.shards.get(command.shard)
    generation = held.generation if held else 0
    match command:
        case Assign(shard, expected, assignment):
            if generation == expected and assignment.generation > expected:
                state.shards[shard] = assignment
        case SetStandby(shard, expected, standby):
            if held and generation == expected and standby != held.owner:
                state.shards[shard] = msgspec.structs.replace(held, standby=standby)
        case Unassign(shard, expected):
            if held and generation == expected:
                del state.shards[shard]
        case _:
            assert_never(command)


def _view_of(heal: Heal) -> tuple[int, ControlState]:
    unzip = zlib.decompressobj()
    data = unzip.decompress(heal.view, VIEW_BYTES_MAX)
    if not unzip.eof:
        raise zlib.error("view is truncated or too large")
    return heal.at, decode_state(data)


def _heal(state: ControlState, at: int, view: ControlState) -> None:
    if state.changed > at:
        return
    number = state.number
    state.replace_with(view)
    state.number = number
