"""Raft messages between coordinators, as msgpack: typed, without pickles.

pysyncobj makes dicts whose commands are pickled calls of its one replicated method. What crosses
the wire is the method's argument alone; the receiver packs the call again by itself. So nothing
that a peer sent is ever unpickled, and a message of the wrong shape never reaches pysyncobj.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

WIRE_VERSION = 1


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of the Raft log; without a payload it is a new leader's empty one."""

    payload: bytes | None
    index: int
    term: int


class RequestVote(msgspec.Struct, frozen=True, array_like=True, tag="vote?", gc=False):
    """A candidate asks."""

    term: int
    last_index: int
    last_term: int


class Vote(msgspec.Struct, frozen=True, array_like=True, tag="vote", gc=False):
    """A yes."""

    term: int


class AppendEntries(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """A leader's entries, or its sign of life."""

    term: int
    commit_index: int
    previous_index: int
    previous_term: int
    entries: list[Entry]


class InstallView(msgspec.Struct, frozen=True, array_like=True, tag="view"):
    """The state at `last`, for a follower whose next entry the leader has dropped."""

    term: int
    commit_index: int
    view: bytes
    before: Entry
    last: Entry


class NextIndex(msgspec.Struct, frozen=True, array_like=True, tag="next", gc=False):
    """A follower's answer to entries.

    pysyncobj's own answer has no term: one that came late, from an earlier leadership of the same
    leader, made it believe that entries were replicated which were not.
    """

    term: int
    next_index: int
    reset: bool
    success: bool


class Forward(msgspec.Struct, frozen=True, array_like=True, tag="commit", gc=False):
    """A follower passes a commit on to its leader; nobody answers."""

    payload: bytes


RaftMessage: TypeAlias = RequestVote | Vote | AppendEntries | InstallView | NextIndex | Forward


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """What stands around a message."""

    version: int
    membership: str
    """Digest of the sender's list of peers."""
    sender: str
    birth: int
    """When the sender's replica was made (ms since the epoch): the life that speaks."""
    to_birth: int
    """Life of the receiver that is meant, for answers; 0: not known."""
    sequence: int
    message: RaftMessage


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)


def encode_envelope(envelope: Envelope) -> bytes:
    """Return the envelope's bytes."""
    return _encoder.encode(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """Return the envelope; raises `msgspec.MsgspecError` on anything else."""
    return _decoder.decode(data)
