"""Snapshots and the archive: what they hold lasts; now and then they fail, or tear what is put."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.archive.store import ArchivedRun, RunSummary, Segment
from headrace.coordinator.shardlog.snapshots import MemorySnapshotStore
from headrace.errors import Unavailable, Unreachable

if TYPE_CHECKING:
    from support.sim.world import World


class SimSnapshots(MemorySnapshotStore):
    """`SnapshotStore`: with trouble, requests fail before or after, and bytes are torn."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.trouble = 0.0
        """Share of the requests that fail."""
        self.tears = 0.0
        """Share of the puts that store less than they were given."""
        self._rotten: set[int] = set()

    async def _way(self) -> None:
        world = self._world
        await asyncio.sleep(world.net.delay_s())
        if self.trouble and world.rng.random() < self.trouble:
            raise Unreachable("snapshot store: no answer")

    async def put(self, shard: int, position: int, data: bytes) -> str:
        await self._way()
        rng = self._world.rng
        torn = self.tears > 0 and rng.random() < self.tears
        name = await super().put(shard, position, data)
        if torn:
            self._held[shard, name] = data[: rng.randrange(len(data))]
            if rng.random() < 0.5:
                raise Unreachable("snapshot store: the connection broke")
        await self._way()
        return name

    async def get(self, shard: int, name: str) -> bytes:
        await self._way()
        return await super().get(shard, name)

    async def names(self, shard: int) -> list[str]:
        await self._way()
        return await super().names(shard)

    async def delete(self, shard: int, name: str) -> None:
        await self._way()
        self._world.oracle.deleted(shard, name)
        await super().delete(shard, name)
        await self._way()

    def damage(self) -> None:
        """One stored snapshot rots; of each shard only one: what two are kept for."""
        sound = [place for place in sorted(self._held) if place[0] not in self._rotten]
        if sound:
            place = self._world.rng.choice(sound)
            self._rotten.add(place[0])
            data = self._held[place]
            self._held[place] = data[: len(data) // 2]


class SimArchive(MemoryArchive):
    """`Archive`, shared by all coordinators: with trouble, requests fail before or after."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.trouble = 0.0

    async def _way(self) -> None:
        world = self._world
        await asyncio.sleep(world.net.delay_s())
        if self.trouble and world.rng.random() < self.trouble:
            raise Unavailable("archive: no answer")

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        await self._way()
        await super().put(runs)
        await self._way()

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        await self._way()
        await super().put_segment(namespace, run, segment)
        await self._way()

    async def put_plan(self, digest: str, data: bytes) -> None:
        await self._way()
        await super().put_plan(digest, data)

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        await self._way()
        return await super().get(namespace, run)

    async def history(self, namespace: str, run: str) -> list[Segment]:
        await self._way()
        return await super().history(namespace, run)

    def has(self, key: str) -> bool:
        """Tell whether a run (by its key) is archived."""
        namespace, _, run = key.partition("/")
        return (namespace, run) in self._runs

    def kept(self) -> list[tuple[RunSummary, list[Segment]]]:
        """Return all that is archived, without a network between."""
        return [
            (summary, [Segment(first, data) for first, data in sorted(self._segments[key].items())])
            for key, summary in self._runs.items()
        ]
