"""Another process under our own id: a mistake that one of the two has to end.

The one that began later does. A predecessor that is about to go is waited for.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat

WAIT_S = 5.0
"""A predecessor goes on for less: heartbeats of a killed one end at once."""


class Rival:
    """Times are seconds of the own monotonic clock."""

    def __init__(self, incarnation: str, started_ms: int) -> None:
        self._own = (started_ms, incarnation)
        self._since: dict[str, float] = {}
        self.stays: Callable[[], None] = lambda: None
        """Called while another process, older than we, runs under our id and goes on."""

    def heard(self, beat: CoordinatorHeartbeat, now_s: float) -> None:
        """Take a heartbeat under our id.

        Who is older is told by the wall clock of each, which it tells the other: the two agree.
        """
        if beat.stopped:
            self._since.pop(beat.incarnation, None)
            return
        older = (beat.started_ms, beat.incarnation) < self._own
        if older and now_s - self._since.setdefault(beat.incarnation, now_s) >= WAIT_S:
            self.stays()
