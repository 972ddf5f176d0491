"""What a leader knows about its followers, to keep their answers from misleading pysyncobj. Pure.

pysyncobj's leader takes an answer at its word, which goes wrong with several messages in flight:

- a confirmation sets `nextIndex` back to what is confirmed, so entries that are already under way
  are sent again, and the follower truncates and takes anew what it may have applied (a CRITICAL
  line, and an applied index beyond the commit index);
- a late "start again" does the same, and may ask for entries that were confirmed long ago;
- an answer names no term, so one from an earlier leadership counts as a confirmation in this one;
- an answer may name an index beyond the leader's own log, after which it asks for ever.
"""

from __future__ import annotations

import msgspec

from headrace.coordinator.control.wire import NextIndex


class _Follower(msgspec.Struct):
    term: int
    birth: int
    confirmed: int = 0
    """Next index that this life of the follower has confirmed in this term."""
    sent: int = 0
    """Next index behind what was sent to it in this term."""


class Progress:
    """The followers of one leader, by id."""

    def __init__(self) -> None:
        self._followers: dict[str, _Follower] = {}

    def note_sent(self, peer: str, *, term: int, last_index: int) -> None:
        """Entries up to *last_index* are on their way to *peer*."""
        follower = self._of(peer, term, 0)
        follower.sent = last_index + 1

    def bounded(
        self, peer: str, birth: int, answer: NextIndex, *, term: int, commit_index: int
    ) -> list[NextIndex]:
        """Return what pysyncobj should be told instead of *answer*, in this order."""
        if answer.term != term:
            return []
        follower = self._of(peer, term, birth)
        if answer.success:
            follower.confirmed = max(follower.confirmed, answer.next_index)
            if follower.sent <= answer.next_index:
                return [answer]
            return [answer, NextIndex(term, follower.sent, True, False)]
        if not answer.reset:
            return [answer]
        next_index = max(min(answer.next_index, commit_index + 1), follower.confirmed)
        follower.sent = next_index
        return [NextIndex(term, next_index, True, False)]

    def _of(self, peer: str, term: int, birth: int) -> _Follower:
        follower = self._followers.get(peer)
        if follower is None or follower.term != term:
            follower = self._followers[peer] = _Follower(term, birth)
        elif birth and follower.birth != birth:
            # A life that we had not heard of: it has confirmed nothing.
            follower.birth, follower.confirmed = birth, 0
        return follower
