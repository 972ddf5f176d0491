"""Output lines of running attempts: masked, cut, numbered, batched, bounded.

Writing never blocks and works from any thread; lines leave on the event loop, at the latest
`FLUSH_S` after they were written.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

import msgspec

from headrace.messages import LogLine, Task
from headrace.telemetry import Clock
from headrace.worker.core import Origin
from headrace.worker.masks import Masker
from headrace.worker.ports import LogSink

FLUSH_S: Final = 0.05


class LogLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one attempt's output."""

    line_bytes_max: int = 16 * 1024
    """The rest of a longer line is cut."""
    batch_bytes: int = 16 * 1024
    """So much is sent at once, without waiting for the timer."""
    pending_bytes_max: int = 512 * 1024
    """Lines that find so much waiting are dropped and counted."""
    attempt_bytes_max: int = 32 * 1024 * 1024
    """All lines of an attempt; what comes later is dropped and counted."""


class Spool:
    """Flushes the logs of all attempts of one executor."""

    def __init__(self, sink: LogSink, clock: Clock, limits: LogLimits) -> None:
        self.sink, self.clock, self.limits = sink, clock, limits
        self.loop: asyncio.AbstractEventLoop | None = None
        """The executor's; set before the first line is written."""
        self._dirty: dict[StepLog, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def open(self, origin: Origin, task: Task, masker: Masker) -> StepLog:
        """Return the log of one attempt; from any thread."""
        return StepLog(self, origin, task, masker)

    def notice(self, log: StepLog, *, now: bool) -> None:
        """Flush *log* soon, or *now*; from any thread."""
        loop = self.loop
        assert loop is not None
        try:
            on_loop = asyncio.get_running_loop() is loop
        except RuntimeError:
            on_loop = False
        if on_loop:
            self._schedule(log, now)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._schedule, log, now)

    def _schedule(self, log: StepLog, now: bool) -> None:
        if now:
            self._dirty.pop(log, None)
            log.flush()
            return
        self._dirty[log] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Send everything that waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dirty, self._dirty = self._dirty, {}
        for log in dirty:
            log.flush()


class StepLog:
    """The lines of one attempt."""

    def __init__(self, spool: Spool, origin: Origin, task: Task, masker: Masker) -> None:
        self._spool, self._origin, self._task = spool, origin, task
        self.masker = masker
        self._lock = threading.Lock()
        self._lines: list[LogLine] = []
        self._pending_bytes = 0
        self._total_bytes = 0
        self._dropped = 0
        self._next = 0

    def write(self, stream: str, text: str) -> None:
        """Take one line (without its end) of *stream*: `stdout`, `stderr` or `system`."""
        limits = self._spool.limits
        if self.masker:
            text = self.masker.text(text)
        if len(text) > limits.line_bytes_max:
            text = f"{text[: limits.line_bytes_max]}… ({len(text) - limits.line_bytes_max} cut)"
        size = len(text) + 16
        with self._lock:
            over = self._pending_bytes + size > limits.pending_bytes_max
            if over or self._total_bytes + size > limits.attempt_bytes_max:
                self._dropped += 1
                return
            first = not self._lines
            self._lines.append(LogLine(self._spool.clock.now_ms(), stream, text))
            self._total_bytes += size
            before, self._pending_bytes = self._pending_bytes, self._pending_bytes + size
        full = before < limits.batch_bytes <= self._pending_bytes
        if first or full:
            self._spool.notice(self, now=full)

    def flush(self) -> None:
        """Hand what waits to the sink; on the event loop only."""
        with self._lock:
            lines, self._lines = self._lines, []
            self._pending_bytes = 0
            dropped, self._dropped = self._dropped, 0
            if dropped:
                text = f"{dropped} lines dropped: more output than can be kept"
                lines.append(LogLine(self._spool.clock.now_ms(), "system", text))
            first, self._next = self._next, self._next + len(lines)
        if lines:
            self._spool.sink.write(self._origin, self._task, first, lines)
