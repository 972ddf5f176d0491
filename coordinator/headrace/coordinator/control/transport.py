"""Raft messages over broker subjects: order, identity, and what is refused. Knows no pysyncobj.

All peers count as connected while our own connection to the broker is up: who lives is told by
heartbeats, not by connections. Nothing is sent while it is down, so nothing of the past is flushed
later.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from headrace.coordinator.control.wire import (
    WIRE_VERSION,
    Envelope,
    NextIndex,
    RaftMessage,
    RequestVote,
    Vote,
    decode_envelope,
    encode_envelope,
)
from headrace.errors import Busy, LimitExceeded
from headrace.messages import UNREADABLE

log = logging.getLogger(__name__)

SEEN_EXPIRES_S = 5.0
"""A life that has been silent for so long no longer shuts out one with an earlier birth: the
peer's clock may have been set back."""


def raft_subject(coordinator: str) -> str:
    """Raft messages to one coordinator."""
    return f"headrace.raft.{coordinator}"


class Publish(Protocol):
    """Send and forget; False when disconnected, having sent nothing."""

    def __call__(self, subject: str, payload: bytes, /) -> bool:
        """Send *payload* on *subject*."""
        ...


class _Seen(msgspec.Struct):
    birth: int
    sequence: int
    at_s: float


class NatsTransport:
    """One replica's end of the Raft traffic; a new one for each life of a replica."""

    def __init__(
        self,
        *,
        me: str,
        peers: Iterable[str],
        membership: str,
        birth: int,
        publish: Publish,
        monotonic: Callable[[], float],
        mute_until_s: float = 0.0,
    ) -> None:
        self.me, self.membership, self.birth = me, membership, birth
        self.up = False
        self.refused: dict[str, int] = {}
        """Messages not taken, counted by reason."""
        self._peers = frozenset(peers) - {me}
        self._publish, self._monotonic = publish, monotonic
        self._mute_until_s = mute_until_s
        self._sequence = 0
        self._seen: dict[str, _Seen] = {}

    @property
    def muted(self) -> bool:
        """A fresh replica has forgotten its vote: it neither votes nor stands for a while."""
        return self._monotonic() < self._mute_until_s

    def link(self, up: bool) -> bool:
        """Take note of the connection's state; True when it has changed."""
        changed, self.up = up != self.up, up
        return changed

    def send(self, peer: str, message: RaftMessage) -> bool:
        """Send to *peer*; False when nothing was sent."""
        if not self.up:
            return False
        if isinstance(message, RequestVote | Vote) and self.muted:
            return False
        self._sequence += 1
        seen = self._seen.get(peer)
        envelope = Envelope(
            WIRE_VERSION,
            self.membership,
            self.me,
            self.birth,
            seen.birth if seen else 0,
            self._sequence,
            message,
        )
        try:
            return self._publish(raft_subject(peer), encode_envelope(envelope))
        except (Busy, LimitExceeded) as error:
            self._refuse(error.code)
            log.warning("raft message not sent", extra={"peer": peer, "error": str(error)})
            return False

    def receive(self, data: bytes) -> Envelope | None:
        """Return the message in its envelope, or None for what must not be looked at.

        Refused: anything malformed, of another version or list of peers, of a stranger, an answer
        to an earlier life of ours, and whatever is older than the newest seen of its sender.
        """
        try:
            envelope = decode_envelope(data)
        except UNREADABLE:
            self._refuse("malformed")
            return None
        if envelope.version != WIRE_VERSION:
            self._refuse("version")
            return None
        if envelope.membership != self.membership or envelope.sender not in self._peers:
            self._refuse("stranger")
            return None
        if isinstance(envelope.message, Vote | NextIndex) and envelope.to_birth != self.birth:
            self._refuse("former-life")
            return None
        now_s = self._monotonic()
        seen = self._seen.get(envelope.sender)
        if seen is None:
            seen = self._seen[envelope.sender] = _Seen(envelope.birth, 0, now_s)
        elif (envelope.birth, envelope.sequence) <= (seen.birth, seen.sequence) and (
            envelope.birth == seen.birth or now_s - seen.at_s < SEEN_EXPIRES_S
        ):
            self._refuse("old")
            return None
        seen.birth, seen.sequence, seen.at_s = envelope.birth, envelope.sequence, now_s
        return envelope

    def _refuse(self, reason: str) -> None:
        self.refused[reason] = self.refused.get(reason, 0) + 1
