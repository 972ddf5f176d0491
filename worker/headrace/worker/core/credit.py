"""How many task messages to ask for, so that never much more than the slots is held.

A message holds 1 to some fifty tasks, and how many is known only when it is there: the size of
the last ones is the estimate. The owner bounds what a lane holds; this bounds what one worker
may snatch of it.
"""

from __future__ import annotations

from typing import Final

TASKS_FIRST: Final = 50
_WEIGHT: Final = 0.2
"""Of the newest message in the estimate."""


class Credit:
    """Estimate and arithmetic; one for a worker, whatever the number of its lanes."""

    def __init__(self, *, slots: int, queue_max: int, messages_max: int = 64) -> None:
        self.slots = slots
        self.queue_max = queue_max
        self.messages_max = messages_max
        """Pulls outstanding for one lane, at most."""
        self.tasks_a_message = float(min(slots, TASKS_FIRST))
        """The estimate; large at first, for it is better to ask twice than to choke."""

    def observe(self, tasks: int) -> None:
        """Learn from a message of so many *tasks*."""
        self.tasks_a_message += (max(tasks, 1) - self.tasks_a_message) * _WEIGHT

    def wanted(self, *, held: int, lanes: int, outbox_full: bool) -> int:
        """Return how many messages should be on request for each of *lanes*; 0: stop pulling.

        *held* counts queued and running attempts.
        """
        room = self.slots - held
        if outbox_full or room <= 0 or lanes <= 0:
            return 0
        share = room / (self.tasks_a_message * lanes)
        return max(1, min(self.messages_max, int(share)))
