"""Snapshots of a shard: taken between ticks, read back and compared, then registered in the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from headrace.coordinator.core import (
    BadSnapshot,
    Capture,
    Machine,
    ShardState,
    loading,
    verify,
)
from headrace.coordinator.shardlog.log import SnapshotStore
from headrace.errors import HeadraceError, NotFound, Unreachable
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

COPY_TIMEOUT_S = 60.0
PAUSE_S = 0.002
"""Between two pieces: about half of the loop's time is for the ticks meanwhile."""
_UNREADABLE = (BadSnapshot.code, NotFound.code, "corrupt-object")


class Snapshots:
    """When to take a shard's snapshots, and where they are."""

    def __init__(
        self,
        store: SnapshotStore,
        clock: Clock,
        *,
        every_touches: int = 100_000,
        every_ms: int = 600_000,
        survives: bool = True,
    ) -> None:
        """*every_touches* 0: never.

        *survives*: positions of the log outlive the process (not so at level snapshot).
        """
        self._store, self._clock = store, clock
        self._every_touches, self._every_ms = every_touches, every_ms
        self._survives = survives
        self.pause_s = PAUSE_S
        """Between two pieces of a snapshot, of one that is being made too. 0: nobody else wants the
        loop any more."""
        self.touches = 0
        self._last_ms = clock.now_ms()
        self._builtin: frozenset[str] = frozenset()
        self._shard = 0

    async def load(self, shard: int, builtin: frozenset[str]) -> ShardState:
        """Return the newest state that can be read, or an empty one.

        A torn or corrupted snapshot is passed over: the log is kept up to the older one.
        """
        self._builtin = builtin
        for name in reversed(await self._store.names(shard)):
            try:
                state = await _loaded(await self._store.get(shard, name), builtin)
            except (HeadraceError, LookupError, TypeError, ValueError) as error:
                # Torn, gone meanwhile, of another release: not a store that is away.
                if isinstance(error, HeadraceError) and error.code not in _UNREADABLE:
                    raise
                log.error(
                    "snapshot passed over",
                    extra={"shard": shard, "snapshot": name, "error": str(error)},
                )
                continue
            if not self._survives:
                state.batch_position = 0
            return state
        return ShardState(shard, builtin)

    def begin(self, state: ShardState) -> None:
        """A new ownership begins with *state*."""
        self._shard = state.shard
        self._builtin = state.builtin
        self.touches = 0
        self._last_ms = self._clock.now_ms()

    def due(self, now_ms: int) -> bool:
        """Tell whether it is time for a snapshot."""
        if not self._every_touches:
            return False
        if self.touches >= self._every_touches:
            return True
        return self.touches > 0 and now_ms - self._last_ms >= self._every_ms

    def copy_soon(self) -> Copy:
        """Begin a snapshot; its `copy` is to be called between two ticks."""
        self.touches = 0
        self._last_ms = self._clock.now_ms()
        return Copy(self._store, self._builtin, self._pause)

    async def _pause(self) -> None:
        await _pause(self.pause_s)

    def purge_position(self, state: ShardState) -> int:
        """Return up to where the log may be purged: the *older* registered snapshot, or 0."""
        if len(state.snapshots) < 2 or not self._survives:
            return 0
        return state.snapshots[0][0]

    async def tidy(self, state: ShardState) -> None:
        """Drop what is older than the two registered snapshots, once their entries are logged.

        Judged by age and not by name: a successor's snapshots are newer than any of ours, so an
        owner that is deposed without knowing it deletes none of them.
        """
        if len(state.snapshots) < 2:
            return
        oldest = state.snapshots[0][1]
        for name in await self._store.names(state.shard):
            if name >= oldest:
                continue
            try:
                await self._store.delete(state.shard, name)
            except HeadraceError as error:
                log.warning("old snapshot kept", extra={"snapshot": name, "error": str(error)})


class Copy:
    """One snapshot on its way: captured between two ticks, encoded piece by piece behind them."""

    def __init__(
        self,
        store: SnapshotStore,
        builtin: frozenset[str],
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        self._store, self._builtin, self._pause = store, builtin, pause
        self._taken = asyncio.Event()
        self._capture: Capture | None = None
        self.size = 0
        """Bytes; 0 before all are there."""

    def copy(self, machine: Machine) -> None:
        """Capture the state. Called before anything else in a tick: it holds logged events only."""
        self._capture = machine.copying = Capture(machine.state)
        self._taken.set()

    async def store(self, machine: Machine) -> tuple[int, str, str]:
        """Encode, store, read back, fold and compare; return (position, name, state hash).

        Raises `BadSnapshot` when what was read back is not what was written.
        """
        try:
            async with asyncio.timeout(COPY_TIMEOUT_S):
                await self._taken.wait()
        except TimeoutError:
            raise Unreachable(f"no tick ended in {COPY_TIMEOUT_S} s") from None
        capture = self._capture
        assert capture is not None
        try:
            for _ in capture.pieces():
                await self._pause()
        finally:
            machine.copying = None
        self.size = len(capture.data)
        name = await self._store.put(capture.shard, capture.index, capture.data)
        # A large one is there once while it is read back, not twice.
        capture.forget()
        if await self._read(capture, name) != capture.hash:
            raise BadSnapshot(f"snapshot {name} of shard {capture.shard} reads back differently")
        return capture.position, name, capture.hash

    async def _read(self, capture: Capture, name: str) -> str:
        """Return the hash of a stored snapshot."""
        data = await self._store.get(capture.shard, name)
        reading = verify(data, self._builtin, capture.cuts)
        while True:
            try:
                next(reading)
            except StopIteration as end:
                return str(end.value)
            except (LookupError, TypeError, ValueError) as error:
                raise BadSnapshot(f"snapshot {name} cannot be read back: {error!r}") from error
            await self._pause()


async def _loaded(data: bytes, builtin: frozenset[str]) -> ShardState:
    """Read a state piece by piece: the loop has other shards, and heartbeats, to look after."""
    pieces = loading(data, builtin)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            state: ShardState = end.value
            return state
        await asyncio.sleep(0)


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)
