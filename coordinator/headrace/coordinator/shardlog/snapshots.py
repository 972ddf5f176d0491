"""Snapshot stores: in memory, and in an object bucket of the broker."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from headrace.errors import NotFound
from headrace.messages import subjects

if TYPE_CHECKING:
    from headrace.bus import Bus, ObjectBucket


NAMING_BYTES = 64 * 1024


def snapshot_name(position: int, data: bytes) -> str:
    """Return a name that sorts by position and differs for different bytes.

    A deposed owner may write one for the same position: it must not replace what the log names.
    Both ends are enough to tell: the hash of the last batch, which names all before it, stands at
    the beginning. (All of a large one would hold the loop up.)
    """
    digest = hashlib.blake2b(data[:NAMING_BYTES], digest_size=8)
    digest.update(data[-NAMING_BYTES:])
    digest.update(len(data).to_bytes(8, "little"))
    return f"{position:020d}-{digest.hexdigest()}"


class MemorySnapshotStore:
    """`SnapshotStore` in memory."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], bytes] = {}

    async def put(self, shard: int, position: int, data: bytes) -> str:
        """See `SnapshotStore.put`."""
        name = snapshot_name(position, data)
        self._held[shard, name] = data
        return name

    async def get(self, shard: int, name: str) -> bytes:
        """See `SnapshotStore.get`."""
        try:
            return self._held[shard, name]
        except KeyError:
            raise NotFound(f"shard {shard}: no snapshot {name}") from None

    async def names(self, shard: int) -> list[str]:
        """See `SnapshotStore.names`."""
        return sorted(name for held, name in self._held if held == shard)

    async def delete(self, shard: int, name: str) -> None:
        """See `SnapshotStore.delete`."""
        self._held.pop((shard, name), None)


class ObjectSnapshotStore:
    """`SnapshotStore` in the bucket ``headrace-snapshots``; `ensure` comes first."""

    def __init__(self, bus: Bus, *, bucket: str = subjects.SNAPSHOT_BUCKET) -> None:
        from headrace.bus import ObjectBucket

        self._bucket: ObjectBucket = ObjectBucket(bus, bucket)

    async def ensure(self, *, replicas: int = 1, max_bytes: int = -1) -> None:
        """Create the bucket, or bring the one that exists to these settings."""
        await self._bucket.ensure(replicas=replicas, max_bytes=max_bytes)

    async def put(self, shard: int, position: int, data: bytes) -> str:
        """See `SnapshotStore.put`; raises `Unreachable` and `JetStreamError`, as all here do."""
        name = snapshot_name(position, data)
        await self._bucket.put(f"{shard}/{name}", data)
        return name

    async def get(self, shard: int, name: str) -> bytes:
        """See `SnapshotStore.get`; raises `CorruptObject` when the digest does not match."""
        return await self._bucket.get(f"{shard}/{name}")

    async def names(self, shard: int) -> list[str]:
        """See `SnapshotStore.names`."""
        prefix = f"{shard}/"
        return [
            name.removeprefix(prefix)
            for name in await self._bucket.names()
            if name.startswith(prefix)
        ]

    async def delete(self, shard: int, name: str) -> None:
        """See `SnapshotStore.delete`."""
        await self._bucket.delete(f"{shard}/{name}")
