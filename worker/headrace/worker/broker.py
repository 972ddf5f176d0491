"""The executor's and reporter's ports on a real broker connection."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from headrace.bus import Bus, SharedObjects
from headrace.errors import HeadraceError
from headrace.messages import LogLine, LogLines, Task, encode, subjects
from headrace.worker.core import Origin

log = logging.getLogger(__name__)

VERSION: Final = 1
LOG_BACKLOG_BYTES_MAX: Final = 4 * 1024 * 1024
"""Encoded lines kept while the broker is away; then the oldest go."""


class BusRequests:
    """`reporter.Requests` on a bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Return the answer's payload. Raises as `Bus.request` does."""
        return (await self._bus.request(subject, payload, timeout_s=timeout_s)).data


class BusLogs:
    """Publishes output lines; keeps a bounded backlog while the broker cannot take them."""

    def __init__(
        self,
        bus: Bus,
        *,
        on_lines: Callable[[str, int], None] = lambda _stream, _count: None,
        on_dropped: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._bus = bus
        self._on_lines, self._on_dropped = on_lines, on_dropped
        self._backlog: deque[tuple[str, bytes, int]] = deque()
        self._backlog_bytes = 0
        bus.on_up(self.flush)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait for the broker."""
        return self._backlog_bytes

    def write(self, origin: Origin, task: Task, first: int, lines: Sequence[LogLine]) -> None:
        """Send *lines*, in order behind what waits."""
        message = LogLines(
            VERSION, task.run, task.step, task.path, task.attempt, first, list(lines)
        )
        payload = encode(message)
        for line in lines:
            self._on_lines(line.stream, 1)
        self._backlog.append((subjects.step_logs(origin.shard, task.run), payload, len(lines)))
        self._backlog_bytes += len(payload)
        self.flush()
        while self._backlog_bytes > LOG_BACKLOG_BYTES_MAX:
            self._pop()

    def flush(self) -> None:
        """Send what waits, as far as the broker takes it."""
        while self._backlog:
            subject, payload, count = self._backlog[0]
            try:
                if not self._bus.publish(subject, payload):
                    return
            except HeadraceError as error:
                log.debug("log lines not sent", extra={"lines": count, "error": str(error)})
                return
            self._backlog.popleft()
            self._backlog_bytes -= len(payload)

    def _pop(self) -> None:
        _, payload, count = self._backlog.popleft()
        self._backlog_bytes -= len(payload)
        # A reader sees the gap in the numbers of the lines.
        self._on_dropped(count)


class BusBlobs:
    """A `BlobStore` in the blob bucket; names are ``<run key>/<random>``: a run's lie together."""

    def __init__(self, bus: Bus) -> None:
        self._bucket = SharedObjects(bus, subjects.BLOB_BUCKET, timeout_s=30.0)
        self.stored = self.stored_bytes = self.fetched = self.fetched_bytes = 0
        """Values so far, and their bytes."""

    async def put(self, run: str, data: bytes) -> str:
        """Store *data*. Raises `HeadraceError`."""
        reference = f"{run}/{uuid.uuid4().hex}"
        await self._bucket.put(reference, data)
        self.stored += 1
        self.stored_bytes += len(data)
        return reference

    async def get(self, reference: str) -> bytes:
        """Return the bytes. Raises `NotFound` or another `HeadraceError`."""
        data = await self._bucket.get(reference)
        self.fetched += 1
        self.fetched_bytes += len(data)
        return data
