"""A warm standby: folds a shard's log as it grows, so that a takeover has little left to read."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from headrace.coordinator.core import BrokenLog, Folder, ShardState, state_hash
from headrace.coordinator.runtime.parker import park_followed
from headrace.coordinator.runtime.snapshots import Snapshots
from headrace.coordinator.shardlog.log import ShardLog
from headrace.errors import HeadraceError, Unreachable
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

RETRY_S = 0.5
CHECK_TIMEOUT_S = 5.0


class Follower:
    """One shard, followed. ``run`` it as a task; `release` hands the state to an owner."""

    def __init__(
        self, shard_log: ShardLog, snapshots: Snapshots, builtin: frozenset[str], clock: Clock
    ) -> None:
        self._clock = clock
        self._log, self._snapshots, self._builtin = shard_log, snapshots, builtin
        self.folder: Folder | None = None
        self.lag_ms = 0
        """From the time of the newest entry to its folding here."""
        self._check_at = 0
        self._checked: asyncio.Future[str] | None = None

    @property
    def state(self) -> ShardState | None:
        """What was folded so far."""
        return self.folder.state if self.folder is not None else None

    async def run(self) -> None:
        """Fold until cancelled. Raises `BrokenLog` on a hole that no snapshot covers."""
        parker = asyncio.create_task(park_followed(lambda: self.state, self._clock))
        try:
            await self._follow()
        finally:
            parker.cancel()

    async def _follow(self) -> None:
        self.folder = Folder(await self._load())
        while True:
            after = self.folder.state.batch_position
            try:
                follow = self._log.follow(after=after)
                async with contextlib.aclosing(follow) as entries:  # type: ignore[type-var]
                    async for some in entries:
                        for position, data in some:
                            self.folder.fold(position, data)
                            self._look_for_check()
                        now_ms = self._clock.now_ms()
                        self.lag_ms = max(now_ms - self.folder.state.now_ms, 0)
            except BrokenLog as error:
                # We may have been away while the log was purged: then a snapshot reaches further.
                newest = await self._load()
                if newest.batch_position <= self.folder.state.batch_position:
                    raise
                log.warning(
                    "standby goes on from a snapshot",
                    extra={"shard": self._log.shard, "error": str(error)},
                )
                self.folder = Folder(newest)
                continue
            except Unreachable as error:
                log.info(
                    "standby waits for the log",
                    extra={"shard": self._log.shard, "error": str(error)},
                )
            await asyncio.sleep(RETRY_S)

    async def _load(self) -> ShardState:
        while True:
            try:
                return await self._snapshots.load(self._log.shard, self._builtin)
            except HeadraceError as error:
                log.info(
                    "standby waits for a snapshot",
                    extra={"shard": self._log.shard, "error": str(error)},
                )
                await asyncio.sleep(RETRY_S)

    def _look_for_check(self) -> None:
        state = self.state
        if self._checked is None or state is None or self._checked.done():
            return
        if state.batch_position == self._check_at:
            self._checked.set_result(state_hash(state))
        elif state.batch_position > self._check_at:
            self._checked.set_result("")

    async def hash_at(self, position: int) -> str:
        """Return the state's hash at *position*, or "" if the standby is past it already.

        Raises TimeoutError when it does not get there in time.
        """
        self._check_at = position
        self._checked = asyncio.get_running_loop().create_future()
        self._look_for_check()
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await self._checked
