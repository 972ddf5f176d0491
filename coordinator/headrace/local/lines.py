"""What steps and workflow functions write, kept for those who follow a run in this process.

The newest lines of all runs, in memory, up to a limit: a journal of this engine has none of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from headrace.local.dispatch import OnLog
from headrace.messages import LogLine, LogLines, Task, encode, subjects
from headrace.worker.core import Origin

BYTES_MAX: Final = 16 * 1024 * 1024
"""Of all runs together; the oldest go first."""


class KeptLines:
    """A `LogSink` that keeps what it is given, and calls back."""

    def __init__(self, shard: int, on_log: OnLog | None, *, bytes_max: int = BYTES_MAX) -> None:
        self._shard, self._on_log, self._bytes_max = shard, on_log, bytes_max
        self._kept: dict[str, deque[tuple[int, bytes]]] = {}
        """By subject, as a broker has them: (sequence, encoded lines)."""
        self._order: deque[str] = deque()
        """Subjects, the one of the oldest message first."""
        self._bytes = self._sequence = 0
        self.listeners: dict[str, set[Callable[[bytes], None]]] = {}
        """Called with each message of a subject."""

    def write(self, origin: Origin, task: Task, first: int, lines: Sequence[LogLine]) -> None:
        """See `LogSink.write`."""
        told = LogLines(1, task.run, task.step, task.path, task.attempt, first, list(lines))
        if self._on_log is not None:
            self._on_log(told)
        subject, data = subjects.step_logs(self._shard, task.run), encode(told)
        self._sequence += 1
        self._kept.setdefault(subject, deque()).append((self._sequence, data))
        self._order.append(subject)
        self._bytes += len(data)
        while self._bytes > self._bytes_max:
            self._drop_oldest()
        for listener in tuple(self.listeners.get(subject, ())):
            listener(data)

    def _drop_oldest(self) -> None:
        subject = self._order.popleft()
        kept = self._kept[subject]
        self._bytes -= len(kept.popleft()[1])
        if not kept:
            del self._kept[subject]

    def stored(self, subject: str, after: int) -> list[tuple[int, bytes]]:
        """Return what is kept of a subject behind the sequence *after*, in order."""
        return [message for message in self._kept.get(subject, ()) if message[0] > after]
