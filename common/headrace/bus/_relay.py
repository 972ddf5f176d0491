"""Large values and output lines in shared streams, read and written as far as a login reaches.

A login that reaches the streams uses them. One that does not (a worker's or a client's account has
no JetStream, see docs/security.md) hears at once that nobody answers there, and asks a coordinator,
which looks at the namespace.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

from headrace.bus._errors import (
    JetStreamDisabled,
    JetStreamError,
    JetStreamMissing,
    NoResponders,
)
from headrace.bus._objects import CHUNK_BYTES, CorruptObject, ObjectBucket, digest_text
from headrace.errors import NotFound, Unreachable, from_wire
from headrace.messages import (
    AddChunk,
    GetLines,
    GetObject,
    NameObject,
    StoreReply,
    StoreRequest,
    TouchObject,
    decode,
    encode,
    nuid_of,
    subjects,
)

if TYPE_CHECKING:
    from headrace.bus._bus import Bus

T = TypeVar("T")

VERSION = 1
WINDOW = 4
"""Chunks in one answer: half a megabyte."""
PAGE, PAGE_BYTES = 1_000, 1024 * 1024
AGAIN_S = 0.02
"""Before a lagging replica is asked again."""


class SharedObjects:
    """A bucket that all namespaces share; names begin with the namespace and a slash."""

    def __init__(self, bus: Bus, bucket: str, *, timeout_s: float = 30.0) -> None:
        self._bus, self.bucket, self._timeout_s = bus, bucket, timeout_s
        self._objects = ObjectBucket(bus, bucket, timeout_s=timeout_s)

    async def put(self, name: str, data: bytes) -> None:
        """Store *data* under *name*, in place of what was there."""
        await self._either(lambda: self._put(name, data), lambda: self._relay_put(name, data))

    async def get(self, name: str) -> bytes:
        """Return the bytes; raises as `ObjectBucket.get` does."""
        return await self._either(lambda: self._objects.get(name), lambda: self._relay_get(name))

    async def size_of(self, name: str) -> int | None:
        """Return the size of an object; None: there is none."""

        async def ask() -> int | None:
            size = (await self._ask(name, GetObject(VERSION, name))).size
            return None if size < 0 else size

        return await self._either(lambda: self._objects.size_of(name), ask)

    async def touch(self, name: str, *, size: int) -> bool:
        """Make the object as young as a new one; False if there is none of *size* bytes."""

        async def ask() -> bool:
            return (await self._ask(name, TouchObject(VERSION, name, size))).size >= 0

        return await self._either(lambda: self._objects.touch(name, size=size), ask)

    async def _put(self, name: str, data: bytes) -> None:
        await self._objects.put(name, data)

    async def _either(
        self, direct: Callable[[], Awaitable[T]], relayed: Callable[[], Awaitable[T]]
    ) -> T:
        """Do it ourselves; by a coordinator's hand if the streams are out of reach.

        Each way of ours begins with a question to the bucket: nothing is half done.
        """
        try:
            return await direct()
        except (NoResponders, JetStreamDisabled):
            return await relayed()

    async def _relay_put(self, name: str, data: bytes) -> None:
        nuid = nuid_of(name.partition("/")[0], os.urandom(11).hex())
        digest = hashlib.sha256()
        for at in range(0, len(data), CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            digest.update(chunk)
            # One after the other: chunks are read in the order in which they were stored.
            await self._ask(name, AddChunk(VERSION, nuid, chunk))
        text = digest_text(digest.digest())
        await self._ask(name, NameObject(VERSION, name, nuid, len(data), text))

    async def _relay_get(self, name: str) -> bytes:
        gathered, digest = BytesIO(), hashlib.sha256()
        after = count = 0
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        while True:
            reply = await self._ask(name, GetObject(VERSION, name, after, WINDOW))
            if reply.size < 0:
                raise NotFound(f"no object {name} in bucket {self.bucket}")
            for after, chunk in reply.parts:  # noqa: B007 - the last one is where we go on
                gathered.write(chunk)
                digest.update(chunk)
            count += len(reply.parts)
            if count >= reply.chunks:
                break
            if not reply.parts:
                if asyncio.get_running_loop().time() > deadline_s:
                    raise CorruptObject(self.bucket, name, f"{count} of {reply.chunks} chunks")
                await asyncio.sleep(AGAIN_S)
        if reply.digest != digest_text(digest.digest()):
            raise CorruptObject(self.bucket, name, "digest does not match")
        return gathered.getvalue()

    async def _ask(self, name: str, request: StoreRequest) -> StoreReply:
        namespace = name.partition("/")[0]
        return await _ask(self._bus, namespace, request, timeout_s=self._timeout_s)


async def _ask(bus: Bus, namespace: str, request: StoreRequest, *, timeout_s: float) -> StoreReply:
    data = encode(request)
    answer = await bus.request(subjects.store(namespace), data, timeout_s=timeout_s)
    reply = decode(StoreReply, answer.data)
    if reply.code:
        raise from_wire(reply.code, reply.message)
    return reply


async def stored_lines(
    bus: Bus, subject: str, *, after: int = 0
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield (stream sequence, data) of what is stored of a run's output now, in order.

    *subject*: `subjects.step_logs`. Begins behind *after*; nothing, if there is no such stream.
    Raises `Unreachable`.
    """
    more = True
    while more:
        try:
            parts, more = await _lines(bus, subject, after)
        except JetStreamMissing:
            return
        except JetStreamError as error:
            raise Unreachable(str(error)) from error
        for sequence, data in parts:
            after = sequence
            yield sequence, data
        more = more and bool(parts)


async def _lines(bus: Bus, subject: str, after: int) -> tuple[list[tuple[int, bytes]], bool]:
    try:
        return await read_lines(bus, subject, after, bytes_max=PAGE_BYTES)
    except NoResponders:
        pass
    try:
        # No such stream, or one that has lost its leader: the broker can tell.
        await bus.js.stream_info(subjects.LOGS_STREAM)
    except (NoResponders, JetStreamDisabled):
        namespace = subject.split(".")[3]
        request = GetLines(VERSION, subject, after)
        reply = await _ask(bus, namespace, request, timeout_s=bus.api_timeout_s)
        return reply.parts, reply.more
    raise NoResponders(f"nobody answers for stream {subjects.LOGS_STREAM}")


async def read_lines(
    bus: Bus, subject: str, after: int, *, bytes_max: int
) -> tuple[list[tuple[int, bytes]], bool]:
    """Return (sequence, data) of messages on *subject* behind *after*, and whether there are more.

    Raises as `JetStream.read` does.
    """
    got, more = await bus.js.read(
        subjects.LOGS_STREAM, after + 1, count=PAGE, bytes_max=bytes_max, subject=subject
    )
    return [(message.seq, message.data) for message in got], more
