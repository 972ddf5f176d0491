"""Snapshots and the archive: what they hold lasts; they fail, tear what is put, rot and fill up.

What is stored belongs to the world; a coordinator reaches it over its own connection, so requests
are lost, late and cut off like all others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.bus import StorageFull
from headrace.coordinator.archive.memory import MemoryArchive
from headrace.coordinator.archive.store import LAST_EVENT, ArchivedRun, RunSummary, Segment
from headrace.coordinator.shardlog.snapshots import MemorySnapshotStore
from headrace.errors import HeadraceError, Unavailable, Unreachable
from headrace.messages import ListRuns, RunPage

if TYPE_CHECKING:
    from support.sim.bus import SimBus
    from support.sim.world import World

T = TypeVar("T")
TIMEOUT_S = 1.0


class CorruptSnapshot(HeadraceError):
    """As the object store says it when a digest does not match."""

    code = "corrupt-object"


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


class SimSnapshots(MemorySnapshotStore):
    """What is stored of snapshots."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.trouble = 0.0
        """Share of the requests that fail."""
        self.tears = 0.0
        """Share of the puts that store less than they were given."""
        self._rotten: dict[int, str] = {}
        """Shard -> the snapshot that is damaged; of each shard only one: what two are kept for."""
        self._flipped: set[tuple[int, str]] = set()

    def stumble(self) -> None:
        """Fail, perhaps."""
        world = self._world
        if self.trouble and world.rng.random() < self.trouble:
            world.tally["store-failed"] += 1
            raise Unreachable("snapshot store: no answer")

    def store(self, shard: int, position: int, data: bytes) -> str:
        """Store a snapshot, or a piece of it."""
        world, rng = self._world, self._world.rng
        if world.broker.full:
            world.tally["disk-full"] += 1
            raise StorageFull("maximum bytes exceeded", err_code=10047)
        known = set(self._held)
        name = at_once(self.put(shard, position, data))
        self._flipped.discard((shard, name))
        if self.tears and (shard, name) not in known and rng.random() < self.tears:
            world.tally["snapshot-torn"] += 1
            self._held[shard, name] = data[: rng.randrange(len(data))]
            if rng.random() < 0.5:
                raise Unreachable("snapshot store: the connection broke")
        return name

    def fetch(self, shard: int, name: str) -> bytes:
        """Return a snapshot; damage is noticed, or not, as the object store does."""
        data = at_once(self.get(shard, name))
        if self._rotten.get(shard) == name:
            self._world.tally["snapshot-corrupt"] += 1
        if (shard, name) in self._flipped:
            raise CorruptSnapshot(f"{name}: the digest does not match")
        return data

    def drop(self, shard: int, name: str) -> None:
        """Delete one."""
        self._world.oracle.deleted(shard, name)
        at_once(self.delete(shard, name))

    def damage(self, rng: random.Random) -> bool:
        """One stored snapshot is cut, changed or lost; False: there is none to be damaged."""
        newest = {shard: name for shard, name in sorted(self._held) if shard not in self._rotten}
        sound = sorted(newest.items())
        if not sound:
            return False
        place = rng.choice(sound)
        self._rotten[place[0]] = place[1]
        data, draw = self._held[place], rng.random()
        self._world.tally["snapshot-rotten"] += 1
        if draw < 0.4:
            self._held[place] = data[: rng.randrange(len(data))]
        elif draw < 0.8:
            self._flipped.add(place)
        else:
            del self._held[place]
        return True

    def sound(self, shard: int) -> list[tuple[str, bytes]]:
        """Return (name, bytes) of those of a shard that are as they were put."""
        return [
            (name, data)
            for (held, name), data in sorted(self._held.items())
            if held == shard and self._rotten.get(shard) != name
        ]


class CoordinatorSnapshots:
    """`SnapshotStore` over one coordinator's connection."""

    def __init__(self, store: SimSnapshots, bus: SimBus) -> None:
        self._store, self._bus = store, bus

    async def _ask(self, serve: Callable[[], T]) -> T:
        def stumbling() -> T:
            self._store.stumble()
            answer = serve()
            self._store.stumble()
            return answer

        return await self._bus.ask(stumbling, TIMEOUT_S, "snapshots")

    async def put(self, shard: int, position: int, data: bytes) -> str:
        """See `SnapshotStore.put`."""
        return await self._ask(lambda: self._store.store(shard, position, data))

    async def get(self, shard: int, name: str) -> bytes:
        """See `SnapshotStore.get`."""
        return await self._ask(lambda: self._store.fetch(shard, name))

    async def names(self, shard: int) -> list[str]:
        """See `SnapshotStore.names`."""
        return await self._ask(lambda: at_once(self._store.names(shard)))

    async def delete(self, shard: int, name: str) -> None:
        """See `SnapshotStore.delete`."""
        await self._ask(lambda: self._store.drop(shard, name))


class SimArchive(MemoryArchive):
    """What is stored of closed runs."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.trouble = 0.0

    def stumble(self) -> None:
        """Fail, perhaps."""
        world = self._world
        if self.trouble and world.rng.random() < self.trouble:
            world.tally["store-failed"] += 1
            raise Unavailable("archive: no answer")

    def room(self) -> None:
        """Fail, if the disk is full."""
        if self._world.broker.full:
            self._world.tally["disk-full"] += 1
            raise Unavailable("archive: no space left on device")

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


class CoordinatorArchive:
    """`Archive` over one coordinator's connection: shared by all, as the one on JetStream is."""

    def __init__(self, store: SimArchive, bus: SimBus) -> None:
        self._store, self._bus = store, bus

    async def _ask(self, work: Callable[[], Coroutine[Any, Any, T]], *, write: bool = False) -> T:
        def serve() -> T:
            self._store.stumble()
            if write:
                self._store.room()
            answer = at_once(work())
            self._store.stumble()
            return answer

        try:
            return await self._bus.ask(serve, TIMEOUT_S, "archive")
        except Unreachable as error:
            raise Unavailable(f"archive: {error}") from error

    async def put(self, runs: Sequence[ArchivedRun]) -> None:
        """See `Archive.put`."""
        await self._ask(lambda: self._store.put(runs), write=True)

    async def put_segment(self, namespace: str, run: str, segment: Segment) -> None:
        """See `Archive.put_segment`."""
        await self._ask(lambda: self._store.put_segment(namespace, run, segment), write=True)

    async def put_plan(self, digest: str, data: bytes) -> None:
        """See `Archive.put_plan`."""
        await self._ask(lambda: self._store.put_plan(digest, data), write=True)

    async def get(self, namespace: str, run: str) -> RunSummary | None:
        """See `Archive.get`."""
        return await self._ask(lambda: self._store.get(namespace, run))

    async def known(self, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """See `Archive.known`."""
        return await self._ask(lambda: self._store.known(keys))

    async def history(
        self, namespace: str, run: str, *, after: int = 0, upto: int = LAST_EVENT
    ) -> list[Segment]:
        """See `Archive.history`."""
        return await self._ask(lambda: self._store.history(namespace, run, after=after, upto=upto))

    async def plan(self, digest: str) -> bytes | None:
        """See `Archive.plan`."""
        return await self._ask(lambda: self._store.plan(digest))

    async def list(self, namespace: str, query: ListRuns) -> RunPage:
        """See `Archive.list`."""
        return await self._ask(lambda: self._store.list(namespace, query))

    async def expire(self, *, before_ms: int, limit: int) -> int:
        """See `Archive.expire`."""
        return await self._ask(lambda: self._store.expire(before_ms=before_ms, limit=limit))

    async def close(self) -> None:
        """Nothing is this coordinator's own."""
