"""What coordinators tell each other, and what was heard lately. Pure; times are passed in.

Heartbeats are never replicated: every coordinator hears them for itself, so that a new
controller starts with a table of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import msgspec

from headrace.errors import InvalidConfig
from headrace.messages import subjects

HEARTBEAT_VERSION = 1

NODES_MAX = 20_000
"""Heartbeats kept of one kind; more senders than that are not heard."""

FORGET_S = 60.0


class CoordinatorHeartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """Published on ``headrace.hb.coordinator.<id>``."""

    version: int
    id: str
    incarnation: str
    started_ms: int
    sent_ms: int
    membership: str
    """Digest of the configured peers: coordinators of different lists are different clusters."""
    members: int
    """How many peers that list has."""
    release: str = ""
    feature_level: int = 0
    backlog: int = 0
    skew_ms: int = 0
    """Own wall clock minus the broker's, as measured by the sender."""
    view: int = 0
    """View number."""
    view_hash: str = ""
    controller: bool = False
    term: int = 0
    owned: dict[int, int] = {}
    """Shards that it owns by its view, with the generation."""
    draining: bool = False
    stopped: bool = False
    """The last heartbeat of this life."""
    own_archive: bool = False
    """Closed runs go to a file of its own, where nobody else can read them."""
    archive: str = ""
    """Kind of the archive; empty: of a release that does not say."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CoordinatorHeartbeat)


def encode_heartbeat(beat: CoordinatorHeartbeat) -> bytes:
    """Return the heartbeat's bytes."""
    return _encoder.encode(beat)


def decode_heartbeat(data: bytes) -> CoordinatorHeartbeat:
    """Return the heartbeat; raises `msgspec.MsgspecError` on anything else."""
    return _decoder.decode(data)


def membership_digest(peers: Iterable[str]) -> str:
    """Return the digest of a list of coordinator ids, in whatever order it stands."""
    return hashlib.blake2b("\x00".join(sorted(peers)).encode(), digest_size=6).hexdigest()


def check_members(members: frozenset[str], me: str) -> None:
    """Check a list of coordinator ids, of which *me* is one; raises `InvalidConfig`."""
    if me not in members:
        raise InvalidConfig("coordinator.peers", f"does not contain this coordinator's id {me!r}")
    for name in members:
        if not subjects.valid_name(name):
            raise InvalidConfig("coordinator.peers", f"{name!r} is not a valid name")


class Beat(Protocol):
    """What the table needs of a heartbeat."""

    @property
    def id(self) -> str:
        """Who sent it."""
        ...

    @property
    def incarnation(self) -> str:
        """In which life."""
        ...

    @property
    def started_ms(self) -> int:
        """When that life began (wall clock of the sender)."""
        ...

    @property
    def stopped(self) -> bool:
        """It is the last one of that life."""
        ...


B = TypeVar("B", bound=Beat)


class Heard(msgspec.Struct, Generic[B], frozen=True):
    """The latest heartbeat of one sender."""

    beat: B
    at_s: float
    """When it was heard (own monotonic clock)."""


class HeartbeatTable(Generic[B]):
    """The latest heartbeat of each sender.

    A life that began earlier than the one heard lately is not heard: two processes that run
    under one id by mistake must not take turns.
    """

    def __init__(self, *, settle_s: float = 3.0) -> None:
        self._settle_s = settle_s
        self._heard: dict[str, Heard[B]] = {}
        self.listening_since_s = 0.0
        """Silence counts from here on at the earliest: we were deaf before."""

    def hear(self, beat: B, now_s: float) -> bool:
        """Take note of *beat*; True when its sender is new, in a new life, or has just stopped."""
        known = self._heard.get(beat.id)
        if known is None:
            if len(self._heard) >= NODES_MAX:
                self.forget(now_s)
                if len(self._heard) >= NODES_MAX:
                    return False
        elif known.beat.incarnation != beat.incarnation:
            older = beat.started_ms < known.beat.started_ms
            if older and not known.beat.stopped and now_s - known.at_s < self._settle_s:
                return False
        elif known.beat.stopped:
            return False
        self._heard[beat.id] = Heard(beat, now_s)
        return known is None or known.beat.incarnation != beat.incarnation or beat.stopped

    def deaf(self, now_s: float) -> None:
        """Nothing could be heard until *now_s*: every silence begins anew."""
        self.listening_since_s = now_s

    def forget(self, now_s: float) -> None:
        """Drop what has been silent for long."""
        limit = now_s - FORGET_S
        for identity in [name for name, heard in self._heard.items() if heard.at_s < limit]:
            del self._heard[identity]

    def get(self, identity: str) -> Heard[B] | None:
        """Return what was heard last of *identity*."""
        return self._heard.get(identity)

    def silence_s(self, identity: str, now_s: float) -> float:
        """Return how long *identity* has been silent, as far as we could have heard it."""
        heard = self._heard.get(identity)
        since = self.listening_since_s
        return now_s - (max(since, heard.at_s) if heard else since)

    def fresh(self, now_s: float, within_s: float) -> Iterator[B]:
        """Yield the heartbeats of those who live: heard lately, and not stopped."""
        for identity, heard in self._heard.items():
            if not heard.beat.stopped and self.silence_s(identity, now_s) <= within_s:
                yield heard.beat

    def __len__(self) -> int:
        return len(self._heard)

    def __iter__(self) -> Iterator[Heard[B]]:
        return iter(self._heard.values())
