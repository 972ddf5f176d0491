"""Appends ticks to a shard's log, whatever the broker does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from headrace.coordinator.core import Machine, ShardState
from headrace.coordinator.runtime.watch import Tick, Watch
from headrace.coordinator.shardlog.log import ShardLog
from headrace.errors import Unreachable
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

RETAKE_PAUSE_S = 0.1


class Rebuild(Exception):
    """The speculative state is to be thrown away and built again from the log."""


class Writer:
    """One owner's: one append at a time."""

    def __init__(
        self,
        shard_log: ShardLog,
        identity: str,
        clock: Clock,
        watch: Watch,
        *,
        new_id: Callable[[], str],
        appended: Callable[[int], None],
    ) -> None:
        """*appended* is told the size of each entry that was stored."""
        self._log, self._identity, self._clock = shard_log, identity, clock
        self._watch, self._new_id, self._appended = watch, new_id, appended
        self.epoch = 0
        """What our tasks bear: workers drop those of lower ones."""

    async def append(self, machine: Machine) -> None:
        """Append a tick, in one part or several. Raises `Fenced`, `LogFull` and `Rebuild`."""
        state = machine.state
        watched = self._watch.active
        counts, failed = machine.census() if watched else ({}, [])
        sizes: list[int] = []
        began = self._clock.monotonic() if watched else 0.0
        for entry in machine.finish(batch_id=self._new_id(), epoch=self._log.epoch):
            position = self._log.append_now(entry) or await self._append_one(state, entry)
            state.batch_position = position
            self._appended(len(entry))
            sizes.append(len(entry))
        if watched:
            took_s = self._clock.monotonic() - began
            self._watch.ticked(Tick(counts, failed, machine.ended, sizes, took_s))

    async def _append_one(self, state: ShardState, entry: bytes) -> int:
        """Append one entry; an unresolved outcome is resolved by taking the log again."""
        while True:
            try:
                return await self._log.append(entry)
            except Unreachable as error:
                log.warning(
                    "append not acknowledged",
                    extra={"shard": state.shard, "error": str(error)},
                )
            found = await self._retake(state.batch_position)
            self.epoch = self._log.epoch
            if len(found) == 1 and found[0][1] == entry:
                return found[0][0]
            if found:
                # Perhaps behind our own entry: what it says is not in our state.
                raise Rebuild("another owner wrote in between")

    async def _retake(self, after: int) -> list[tuple[int, bytes]]:
        """Take the log again, however long it takes; return what lies behind *after*."""
        found: list[tuple[int, bytes]] = []

        def collect(position: int, data: bytes) -> None:
            found.append((position, data))

        while True:
            try:
                await self._log.take(self._identity, collect, after=after)
            except Unreachable:
                found.clear()
                await asyncio.sleep(RETAKE_PAUSE_S)
            else:
                return found
