"""What is known of a compensation while it goes on. Data only."""

from __future__ import annotations

from typing import Any


class Saga:
    """A group whose completed steps are being undone before it ends, or begins anew."""

    __slots__ = ("cause", "current", "due_ms", "reason", "retry", "status", "stopped")

    def __init__(self, status: int, cause: int, reason: str, *, retry: bool, due_ms: int) -> None:
        self.status = status
        """What the group ends with."""
        self.cause = cause
        """The step that failed first; -1: the group itself did, or somebody cancelled."""
        self.reason = reason
        """``type: message``."""
        self.retry = retry
        self.due_ms = due_ms
        """Deadline of the group, which is not that of its compensations; 0: none."""
        self.current = -1
        """The compensation that runs."""
        self.stopped = False
        """Somebody cancelled the compensations, too."""

    def image(self) -> list[Any]:
        """Return it as plain data."""
        return [
            self.status, self.cause, self.reason, self.retry, self.due_ms, self.current,
            self.stopped,
        ]  # fmt: skip

    @classmethod
    def of(cls, image: list[Any]) -> Saga:
        """Return what `image` was made of."""
        value, cause, reason, retry, due_ms, current, stopped = image
        saga = cls(value, cause, reason, retry=retry, due_ms=due_ms)
        saga.current, saga.stopped = current, stopped
        return saga
