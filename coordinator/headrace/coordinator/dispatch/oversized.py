"""Inputs that do not fit into a task message go through the object store, as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

import msgspec

from headrace.bus import Bus, ObjectBucket
from headrace.errors import Busy, HeadraceError, Unavailable, Unreachable
from headrace.messages import Task, encode, subjects
from headrace.payloads import reference_to
from headrace.telemetry import attempt_fields

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
STORING_MAX = 8
"""Inputs that are being stored at the same time; the next ones wait."""
WAITING_MAX = 10_000
"""Tasks that wait for it, which credit bounds long before; the next ones fail."""
PAUSE_S = 0.5
PAUSE_S_MAX = 5.0
_MAY_PASS = (Busy, Unavailable, Unreachable)


class Oversized:
    """Stores inputs in the background."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._storing: set[asyncio.Task[None]] = set()
        self.stored = 0
        """Inputs stored so far."""
        self._turn = asyncio.Semaphore(STORING_MAX)

    def store(
        self,
        task: Task,
        then: Callable[[Task], None],
        failed: Callable[[str], None],
        *,
        wanted: Callable[[], bool],
    ) -> None:
        """Store the inputs of *task*; call *then* with a task that refers to them, or *failed*.

        A store that is away is waited for as long as the task is *wanted*.
        """
        if len(self._storing) >= WAITING_MAX:
            failed("too many large inputs at a time")
            return

        async def work() -> None:
            try:
                small = await self._stored_at_last(task, wanted)
            except HeadraceError as error:
                log.warning("inputs not stored", extra=_fields(task) | {"error": str(error)})
                failed(str(error))
            else:
                self.stored += 1
                then(small)

        storing = asyncio.create_task(work(), name="oversized-inputs")
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)

    async def _stored_at_last(self, task: Task, wanted: Callable[[], bool]) -> Task:
        pause_s = PAUSE_S
        while True:
            try:
                async with self._turn:
                    return await self._stored(task)
            except _MAY_PASS as error:
                if not wanted():
                    raise
                log.info("inputs not stored yet", extra=_fields(task) | {"error": str(error)})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _stored(self, task: Task) -> Task:
        data = bytes(task.inputs)
        name = f"{task.run}/{hashlib.blake2b(data, digest_size=20).hexdigest()}"
        bucket = ObjectBucket(self._bus, subjects.BLOB_BUCKET, timeout_s=TIMEOUT_S)
        if not await bucket.has(name, size=len(data)):
            await bucket.put(name, data)
        inputs = msgspec.Raw(encode(reference_to(name, len(data))))
        return msgspec.structs.replace(task, inputs=inputs)

    def close(self) -> None:
        """Stop; who waits hears nothing more."""
        for storing in self._storing:
            storing.cancel()


def _fields(task: Task) -> dict[str, str | int]:
    trace = task.options.traceparent if task.options is not None else ""
    return attempt_fields(task.run, task.path, task.attempt, trace)
