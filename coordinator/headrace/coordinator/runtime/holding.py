"""Standing still for a backup: for a moment no shard hears of another.

A backup takes each shard's log up to one position. Those positions fit together only if nothing
that one shard has heard from another lies behind the other's: so every shard is first asked to
let messages of others wait (they are sent again by themselves), and only when all do so is each
asked where its log ends. All else goes on: requests, results, timers, appends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from headrace.bus import Message
from headrace.coordinator.runtime.archives import described
from headrace.messages import UNREADABLE, encode

if TYPE_CHECKING:
    from headrace.coordinator.runtime.leading import Shard
    from headrace.coordinator.runtime.server import CoordinatorServer

log = logging.getLogger(__name__)

VERSION = 1
HOLD_MS_MAX = 10_000
"""A backup that died holds nobody for longer."""
DRAIN_S = 3.0
SNAPSHOT_S = 5.0


class Hold(msgspec.Struct, frozen=True, array_like=True, tag="hold"):
    """Let messages of other shards wait, for so long at most."""

    version: int
    hold: str
    for_ms: int


class Where(msgspec.Struct, frozen=True, array_like=True, tag="where"):
    """Say where the logs end. With a *hold*: of shards that still stand still under it."""

    version: int
    hold: str = ""


class GoOn(msgspec.Struct, frozen=True, array_like=True, tag="go-on"):
    """The backup has its positions."""

    version: int
    hold: str


class Doubt(msgspec.Struct, frozen=True, array_like=True, tag="doubt"):
    """Ask the logs whose they are, and read snapshots again: a restore has written them."""

    version: int


Order = Hold | Where | GoOn | Doubt


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where one shard's log ends, as its owner knows it: all up to there is acknowledged."""

    shard: int
    level: str
    epoch: int
    position: int


class Places(msgspec.Struct, frozen=True, array_like=True):
    """One coordinator's answer."""

    version: int
    coordinator: str
    release: str
    layout: dict[str, int]
    archive: str
    """jetstream; sqlite, a colon, and the path of the file on the coordinator's machine;
    or postgres, a colon, and the schema."""
    places: list[Place]


class Standstill:
    """Of one shard on one process: whether messages of other shards wait."""

    def __init__(self) -> None:
        self.hold = ""
        self._until_s = 0.0

    @property
    def on(self) -> bool:
        """Messages of others, and their receipts of ours, are to be dropped for now."""
        if not self.hold:
            return False
        if asyncio.get_running_loop().time() >= self._until_s:
            self.hold = ""
            return False
        return True

    def begin(self, hold: str, for_ms: int) -> None:
        """Stand still under this name from now on."""
        self.hold = hold
        self._until_s = asyncio.get_running_loop().time() + min(for_ms, HOLD_MS_MAX) / 1_000

    def end(self, hold: str) -> None:
        """Go on, unless another backup wants otherwise."""
        if self.hold == hold:
            self.hold = ""


class Holding:
    """Answers backups for one coordinator."""

    def __init__(self, server: CoordinatorServer, *, release: str) -> None:
        self._server, self._release = server, release
        self._tasks: set[asyncio.Task[None]] = set()

    def on_message(self, message: Message) -> None:
        """Take an order; whoever sent what we do not understand hears nothing."""
        try:
            order = _orders.decode(message.data)
        except UNREADABLE as error:
            log.warning("order of a backup not understood", extra={"error": str(error)})
            return
        task = asyncio.create_task(self._answer(order, message), name="backup")
        self._tasks.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a backup was not answered", exc_info=error)

    async def _answer(self, order: Order, message: Message) -> None:
        shards: Mapping[int, Shard] = self._server.shards
        if isinstance(order, GoOn):
            for shard in shards.values():
                shard.standstill.end(order.hold)
            return
        if isinstance(order, Doubt):
            for shard in shards.values():
                if shard.owner is not None and shard.level == "journal":
                    shard.owner.doubt()
                elif shard.mode == "leading" and shard.level == "snapshot":
                    await shard.become("")
                    await shard.become("leading")
            return
        found = await asyncio.gather(*(self._place(shard, order) for shard in shards.values()))
        places = Places(
            VERSION,
            self._server.config.coordinator.id,
            self._release,
            self._server.layout.settings(),
            described(self._server.config),
            [place for place in found if place is not None],
        )
        self._server.bus.respond(message, encode(places))

    async def _place(self, shard: Shard, order: Hold | Where) -> Place | None:
        owner = shard.owner
        if owner is None or not owner.leading.is_set():
            return None
        if isinstance(order, Hold):
            shard.standstill.begin(order.hold, order.for_ms)
            # What came before is in the inbox; it is in the log once this is.
            drained = asyncio.get_running_loop().create_future()
            owner.post_logged(lambda _machine: None, partial(_resolve, drained))
            try:
                async with asyncio.timeout(DRAIN_S):
                    await drained
            except TimeoutError:
                return None
        elif order.hold and not (shard.standstill.on and shard.standstill.hold == order.hold):
            return None
        elif order.hold and shard.level == "snapshot":
            try:
                async with asyncio.timeout(SNAPSHOT_S):
                    await owner.snapshot()
            except TimeoutError:
                return None
        machine = owner.machine
        if machine is None or owner is not shard.owner or shard.log is None:
            return None
        return Place(shard.shard, shard.level, shard.log.epoch, machine.state.batch_position)


_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)


def _resolve(drained: asyncio.Future[None]) -> None:
    if not drained.done():
        drained.set_result(None)
