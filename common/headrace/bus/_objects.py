"""Objects of any size in a bucket, in the layout of NATS' object store (ADR-20).

By hand because nats-py's `get` waits without a limit when the connection breaks, and its `put`
sends one chunk a round trip. The `nats object` command reads what is written here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from headrace.bus._errors import JetStreamError, WrongLastSequence
from headrace.bus._jetstream import Stored, StreamConfig
from headrace.errors import HeadraceError, NotFound, Unreachable

if TYPE_CHECKING:
    from headrace.bus._bus import Bus

CHUNK_BYTES = 128 * 1024
WINDOW = 8
"""Chunks on their way at once."""
READ_CHUNKS = 16
"""Chunks asked for at once: 2 MB."""


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the bucket says of an object; the broker's own names."""

    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    mtime: str = ""
    deleted: bool = False
    options: dict[str, int] = msgspec.field(default_factory=dict)


class ObjectEntry(NamedTuple):
    """An object as a walk through the bucket meets it."""

    name: str
    size: int
    nuid: str
    seq: int
    """Grows whenever the object is put or touched."""
    time_ms: int
    """When that was, by the broker's clock."""


class CorruptObject(HeadraceError):
    """An object's bytes are not those that were put."""

    code = "corrupt-object"

    def __init__(self, bucket: str, name: str, reason: str) -> None:
        self.bucket, self.name, self.reason = bucket, name, reason
        super().__init__(f"object {bucket}/{name}: {reason}")


class ObjectBucket:
    """One bucket. All calls raise `Unreachable` and `JetStreamError` as the stream's do."""

    def __init__(self, bus: Bus, bucket: str, *, timeout_s: float = 5.0) -> None:
        self.bucket = bucket
        self._bus, self._js = bus, bus.js
        self._stream = f"OBJ_{bucket}"
        self._timeout_s = timeout_s

    async def ensure(self, *, replicas: int = 1, max_bytes: int = -1, max_age_ms: int = 0) -> None:
        """Create the bucket, or bring the one that exists to these settings."""
        await self._js.ensure_stream(
            StreamConfig(
                name=self._stream,
                subjects=(f"$O.{self.bucket}.C.>", f"$O.{self.bucket}.M.>"),
                num_replicas=replicas,
                discard="new",
                max_bytes=max_bytes,
                max_age_ms=max_age_ms,
                allow_rollup_hdrs=True,
            )
        )

    async def put(self, name: str, data: bytes) -> ObjectInfo:
        """Store *data* under *name*, in place of what was there; readers see the old or the new."""
        old = await self.info(name)
        nuid = os.urandom(11).hex()
        try:
            digest = await self._put_chunks(nuid, data)
            info = self.describe(name, nuid, size=len(data), digest=digest)
            await self._publish_info(info)
        except HeadraceError:
            await self._drop_quietly(nuid)
            raise
        if old is not None:
            await self._drop_quietly(old.nuid)
        return info

    def describe(self, name: str, nuid: str, *, size: int, digest: str) -> ObjectInfo:
        """Return what the bucket is to say of an object; *digest*: SHA-256, in base 64 for URLs."""
        return ObjectInfo(
            name=name,
            bucket=self.bucket,
            nuid=nuid,
            size=size,
            chunks=-(-size // CHUNK_BYTES),
            digest=f"SHA-256={digest}",
            options={"max_chunk_size": CHUNK_BYTES},
        )

    async def add_chunk(self, nuid: str, data: bytes) -> None:
        """Store the next chunk of an object that `register` names later."""
        await self._js.publish(self._chunks(nuid), data, timeout_s=self._timeout_s)

    async def register(self, info: ObjectInfo) -> None:
        """Give an object, whose chunks are there, its name; what had it goes."""
        old = await self.info(info.name)
        await self._publish_info(info)
        if old is not None and old.nuid != info.nuid:
            await self._drop_quietly(old.nuid)

    async def chunks(self, info: ObjectInfo, after: int, *, count: int) -> list[tuple[int, bytes]]:
        """Return some chunks of an object from behind sequence *after* on: (sequence, bytes).

        Nothing: a lagging replica has answered, or they are gone.
        """
        got, _ = await self._js.read(
            self._stream,
            after + 1,
            count=count,
            subject=self._chunks(info.nuid),
            timeout_s=self._timeout_s,
        )
        return [(stored.seq, stored.data) for stored in got]

    async def _publish_info(self, info: ObjectInfo) -> None:
        await self._js.publish(
            self._meta(info.name),
            msgspec.json.encode(info),
            headers={"Nats-Rollup": "sub"},
            timeout_s=self._timeout_s,
        )

    async def get(self, name: str) -> bytes:
        """Return the bytes; raises `NotFound`, or `CorruptObject` if they are not what was put."""
        info = await self.info(name)
        if info is None or info.deleted:
            raise NotFound(f"no object {name} in bucket {self.bucket}")
        # Gathered and digested as it comes: all at once, a large object would hold the loop up.
        gathered, digest, chunks = BytesIO(), hashlib.sha256(), 0
        start, subject = 1, self._chunks(info.nuid)
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        while chunks < info.chunks:
            got, _ = await self._js.read(
                self._stream,
                start,
                count=min(info.chunks - chunks, READ_CHUNKS),
                subject=subject,
                timeout_s=self._timeout_s,
            )
            if got:
                for stored in got:
                    gathered.write(stored.data)
                    digest.update(stored.data)
                chunks += len(got)
                start = got[-1].seq + 1
                continue
            if asyncio.get_running_loop().time() > deadline_s:
                raise CorruptObject(self.bucket, name, f"{chunks} of {info.chunks} chunks")
            await asyncio.sleep(0.02)  # a lagging replica answered: ask again
        if info.digest.partition("=")[2] != digest_text(digest.digest()):
            raise CorruptObject(self.bucket, name, "digest does not match")
        return gathered.getvalue()

    async def size_of(self, name: str) -> int | None:
        """Return the size of an object; None: there is none."""
        info = await self.info(name)
        return None if info is None or info.deleted else info.size

    async def has(self, name: str, *, size: int) -> bool:
        """Tell whether there is an object *name* of *size* bytes."""
        info = await self.info(name)
        return info is not None and not info.deleted and info.size == size

    async def delete(self, name: str) -> bool:
        """Drop *name* and its bytes; False when there is none."""
        info = await self.info(name)
        if info is None:
            return False
        await self._js.purge(self._stream, subject=self._meta(name))
        await self._js.purge(self._stream, subject=self._chunks(info.nuid))
        return True

    async def touch(self, name: str, *, size: int) -> bool:
        """Make the object as young as one that is put now; False if there is none of *size* bytes.

        Its bytes are not written again: whoever reads them is not disturbed.
        """
        stored = await self._js.get_last(self._stream, self._meta(name), timeout_s=self._timeout_s)
        info = None if stored is None else _info_decode(stored.data)
        if stored is None or info is None or info.deleted or info.size != size:
            return False
        try:
            await self._js.publish(
                self._meta(name),
                stored.data,
                headers={
                    "Nats-Rollup": "sub",
                    "Nats-Expected-Last-Subject-Sequence": str(stored.seq),
                },
                timeout_s=self._timeout_s,
            )
        except WrongLastSequence:
            return False  # deleted or put again meanwhile
        return True

    async def entries(self, after: int, *, count: int) -> tuple[list[ObjectEntry], int]:
        """Return objects in the order in which they were put, from behind *after* on.

        Looks at *count* of them at most. Also returns what to give as *after* to go on; 0: that
        was the end. A replica that lags may answer: an object may be gone, or be younger, by now.
        """
        got, more = await self._js.read(
            self._stream,
            after + 1,
            count=count,
            subject=f"$O.{self.bucket}.M.>",
            timeout_s=self._timeout_s,
        )
        found = []
        for stored in got:
            info = _info_decode(stored.data)
            if info is not None and not info.deleted:
                time_ms = int(datetime.fromisoformat(stored.time).timestamp() * 1_000)
                found.append(ObjectEntry(info.name, info.size, info.nuid, stored.seq, time_ms))
        return found, got[-1].seq if got and more else 0

    async def drop(self, entry: ObjectEntry) -> bool:
        """Delete what `entries` told of; False if it is gone, or younger than it was then."""
        meta = self._meta(entry.name)
        if not await self._js.purge(self._stream, subject=meta, upto=entry.seq):
            return False
        await self._js.purge(self._stream, subject=self._chunks(entry.nuid))
        return True

    async def names(self) -> list[str]:
        """Return the names in the bucket, in alphabetical order; all of them, so for small ones."""
        prefix = f"$O.{self.bucket}.M."
        info = await self._js.stream_info(self._stream, subjects=f"{prefix}>")
        found = info.state.subjects or {}
        return sorted(
            base64.urlsafe_b64decode(subject[len(prefix) :]).decode() for subject in found
        )

    async def _put_chunks(self, nuid: str, data: bytes) -> str:
        """Store the bytes; return their digest."""
        subject, digest = self._chunks(nuid), hashlib.sha256()
        for window in range(0, len(data), CHUNK_BYTES * WINDOW):
            part = data[window : window + CHUNK_BYTES * WINDOW]
            digest.update(part)
            # Sent in order on one connection, so stored in order.
            outcomes = await asyncio.gather(
                *(
                    self._js.publish(
                        subject, part[at : at + CHUNK_BYTES], timeout_s=self._timeout_s
                    )
                    for at in range(0, len(part), CHUNK_BYTES)
                ),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        return digest_text(digest.digest())

    async def info(self, name: str) -> ObjectInfo | None:
        """Return what the bucket says of an object, a deleted one too; None: there is none."""
        stored: Stored | None = await self._js.get_last(
            self._stream, self._meta(name), timeout_s=self._timeout_s
        )
        return None if stored is None else _info_decoder.decode(stored.data)

    async def _drop_quietly(self, nuid: str) -> None:
        try:
            await self._js.purge(self._stream, subject=self._chunks(nuid))
        except (Unreachable, JetStreamError):
            return  # orphaned chunks cost space only; the sweep of the bucket's owner finds them

    def _meta(self, name: str) -> str:
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    def _chunks(self, nuid: str) -> str:
        return f"$O.{self.bucket}.C.{nuid}"


def digest_text(digest: bytes) -> str:
    """Return a SHA-256 as `ObjectBucket.describe` takes it."""
    return base64.urlsafe_b64encode(digest).decode()


_info_decoder = msgspec.json.Decoder(ObjectInfo)


def _info_decode(data: bytes) -> ObjectInfo | None:
    """Return what is said of an object; None for what somebody else has put there."""
    try:
        return _info_decoder.decode(data)
    except msgspec.MsgspecError:
        return None
