"""Keeps one shard's log small: snapshots, purges, and an eye on how full it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.coordinator.core import Machine
from headrace.coordinator.runtime.room import Room
from headrace.coordinator.runtime.snapshots import Copy, Snapshots
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.shardlog.log import ShardLog
from headrace.errors import HeadraceError, Unreachable
from headrace.events import SnapshotRegistered
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

LOOK_S = 0.25
REGISTER_TIMEOUT_S = 60.0
Logged = Callable[[Callable[[Machine], None], Callable[[], None]], None]
"""Runs its first argument in a coming tick, though the log be full, and the second one after it
was appended."""


class Keeper:
    """One owner's. `copies` are to be made before anything else in a tick."""

    def __init__(
        self,
        shard_log: ShardLog,
        snapshots: Snapshots,
        clock: Clock,
        watch: Watch,
        *,
        logged: Logged,
        wake: Callable[[], None],
    ) -> None:
        self.room = Room()
        self.copies: list[Copy] = []
        self._log, self._snapshots, self._clock, self._watch = shard_log, snapshots, clock, watch
        self._logged, self._wake = logged, wake
        self._snapshotting = asyncio.Lock()

    async def run(self, machine: Machine) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_ms = self._clock.now_ms()
            if self.room.to_measure(now_ms):
                await self._measure()
            if self._snapshots.due(now_ms) or self.room.to_snapshot(now_ms):
                await self.snapshot(machine)

    async def snapshot(self, machine: Machine) -> None:
        """Take, verify and register a snapshot; then purge what the older one covers.

        A failure is logged: the next one is due soon.
        """
        try:
            async with self._snapshotting:
                await self._take_snapshot(machine)
        except HeadraceError as error:
            self._watch.no_snapshot()
            log.error("snapshot failed", extra={"shard": self._log.shard, "error": str(error)})

    async def _take_snapshot(self, machine: Machine) -> None:
        begun_s = self._clock.monotonic()
        taken = self._snapshots.copy_soon()
        # The copy is made between two ticks: the state is exactly what the log holds then.
        self.copies.append(taken)
        self._wake()
        try:
            registered = await taken.store(machine)
        finally:
            if taken in self.copies:
                # Given up before a tick came: what it would capture, nobody would ever encode.
                self.copies.remove(taken)
        done = asyncio.Event()

        def register(m: Machine) -> None:
            m.emit_shard(SnapshotRegistered(*registered))

        self._logged(register, done.set)
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                await done.wait()
        except TimeoutError:
            raise Unreachable(f"not registered within {REGISTER_TIMEOUT_S:g} s") from None
        self._watch.snapshot(taken.size, self._clock.monotonic() - begun_s)
        older = self._snapshots.purge_position(machine.state)
        if older:
            await self._log.purge(upto=older)
            await self._measure()
        await self._snapshots.tidy(machine.state)

    async def _measure(self) -> None:
        """Look at the log's size; an owner whose log was full may find that there is room again."""
        try:
            self.room.measured(await self._log.status(), self._clock.now_ms())
        except HeadraceError as error:
            log.debug("log not measured", extra={"shard": self._log.shard, "error": str(error)})
        self._wake()
