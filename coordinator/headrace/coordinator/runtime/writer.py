"""Appends ticks to a shard's log, whatever the broker does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from headrace.coordinator.core import Machine, Run, ShardState
from headrace.coordinator.runtime.steptimes import StepTimes
from headrace.coordinator.runtime.watch import Tick, Watch
from headrace.coordinator.shardlog.log import ShardLog
from headrace.coordinator.traces import Traced
from headrace.errors import Unreachable
from headrace.events import StepFailed
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

RETAKE_PAUSE_S = 0.1


class Rebuild(Exception):
    """The speculative state is to be thrown away and built again from the log."""


class Sealed:
    """A tick that is decided and encoded, on its way into the log."""

    __slots__ = ("counts", "ended", "entries", "failed", "sealed_s", "sizes", "traced")

    def __init__(
        self,
        entries: deque[bytes],
        counts: Mapping[type, int],
        failed: Sequence[StepFailed],
        ended: Sequence[Run],
        sealed_s: float,
        traced: Sequence[Traced] = (),
    ) -> None:
        self.entries = entries
        """What is not in the log yet."""
        self.counts, self.failed, self.ended = counts, failed, ended
        self.sealed_s, self.traced = sealed_s, traced
        self.sizes: list[int] = []
        """Bytes of each entry that is."""


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
        self._step_times = StepTimes()
        self.epoch = 0
        """What our tasks bear: workers drop those of lower ones."""

    def seal(self, machine: Machine) -> Sealed:
        """End a tick: what happens from now on is the next one's."""
        counts, failed = machine.census() if self._watch.active else ({}, [])
        traced = self._step_times.take(machine) if self._watch.tracing else ()
        entries = deque(machine.finish(batch_id=self._new_id(), epoch=self._log.epoch))
        now_s = self._clock.monotonic()
        return Sealed(entries, counts, failed, machine.ended, now_s, traced)

    def keep(self, machine: Machine) -> None:
        """End a tick of a log that nobody reads: it is as good as appended. Raises `Fenced`."""
        counts, failed = machine.census() if self._watch.active else ({}, [])
        traced = self._step_times.take(machine) if self._watch.tracing else ()
        machine.finish_unread()
        machine.state.batch_position = self._log.append_now(b"")
        if self._watch.active:
            self._watch.ticked(Tick(counts, failed, machine.ended, [], 0.0, traced))

    def append_now(self, state: ShardState, sealed: Sealed) -> bool:
        """Append it without waiting; False: the log cannot. Raises as `append` does."""
        entries = sealed.entries
        while entries:
            position = self._log.append_now(entries[0])
            if not position:
                return False
            self._appended_one(state, sealed, position)
        self._told(sealed)
        return True

    async def append(self, state: ShardState, sealed: Sealed) -> None:
        """Append it, in one part or several. Raises `Fenced`, `LogFull` and `Rebuild`.

        One at a time, and in the order of sealing.
        """
        while sealed.entries:
            position = await self._append_one(state, sealed.entries[0])
            self._appended_one(state, sealed, position)
        self._told(sealed)

    def _appended_one(self, state: ShardState, sealed: Sealed, position: int) -> None:
        size = len(sealed.entries.popleft())
        state.batch_position = position
        self._appended(size)
        sealed.sizes.append(size)

    def _told(self, sealed: Sealed) -> None:
        if self._watch.active:
            took_s = self._clock.monotonic() - sealed.sealed_s
            self._watch.ticked(
                Tick(
                    sealed.counts,
                    sealed.failed,
                    sealed.ended,
                    sealed.sizes,
                    took_s,
                    sealed.traced,
                )
            )

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
