"""Inputs that do not fit into a task message go through the object store, as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable

import msgspec

from headrace.bus import Bus, ObjectBucket
from headrace.errors import HeadraceError
from headrace.messages import Task, encode, subjects
from headrace.payloads import reference_to

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
WAITING_MAX = 64
"""Tasks whose inputs are being stored; the next ones fail."""


class Oversized:
    """Stores inputs in the background."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._storing: set[asyncio.Task[None]] = set()

    def store(
        self, task: Task, then: Callable[[Task], None], failed: Callable[[str], None]
    ) -> None:
        """Store the inputs of *task*; call *then* with a task that refers to them, or *failed*."""
        if len(self._storing) >= WAITING_MAX:
            failed("too many large inputs at a time")
            return

        async def work() -> None:
            try:
                small = await self._stored(task)
            except HeadraceError as error:
                log.warning("inputs not stored", extra={"run": task.run, "error": str(error)})
                failed(str(error))
            else:
                then(small)

        storing = asyncio.create_task(work(), name="oversized-inputs")
        self._storing.add(storing)
        storing.add_done_callback(self._storing.discard)

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
