"""What a world puts in the place of chance, clocks and long waits while it lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

from pysyncobj import syncobj

from headrace.coordinator.control import member, raft
from headrace.coordinator.core import entries, keys, schedules
from headrace.coordinator.core.requests import schedules as requests_schedules
from headrace.coordinator.dispatch import dispatcher
from headrace.coordinator.runtime import leading, owner, server, skew, snapshots
from headrace.coordinator.shardlog import jetstream
from headrace.worker import reporter
from support.sim import schedules as calendar
from support.sim.coordinators import SimControl, SimShard
from support.sim.loop import current_process

if TYPE_CHECKING:
    from support.sim.world import World


async def _nothing(*_: object, **__: object) -> None:
    return


async def _no_feed(*_: object) -> None:
    """A feed goes on as long as its shard is led, and so does what runs beside it."""
    await asyncio.get_running_loop().create_future()


@contextlib.contextmanager
def patched(world: World) -> Iterator[None]:
    """Give chance, ids and some limits into the world's hands."""
    rng = world.rng
    state = random.getstate()
    random.seed(world.seed)
    ids = SimpleNamespace(token_hex=lambda size: f"{rng.getrandbits(8 * size):0{2 * size}x}")
    noise = SimpleNamespace(urandom=lambda size: rng.getrandbits(8 * size).to_bytes(size, "big"))
    elections = random.Random(f"elections of {world.seed}")
    places = (
        (leading, "secrets", ids),
        (leading, "feed", _no_feed),
        (leading, "PEER_TIMEOUT_S", 0.5),
        (server, "secrets", ids),
        (server, "ensure_feed", _nothing),
        (server, "release", lambda: "simulated"),
        (server, "Shard", SimShard),
        (server, "ControlPlane", SimControl),
        (owner, "Machine", world.agreement.machine()),
        (skew, "MEASURE_S", 1.0),
        (syncobj, "monotonicTime", world.loop.time),
        (syncobj, "random", elections),
        (raft, "random", elections),
        (member, "random", elections),
        (jetstream, "os", noise),
        (dispatcher, "RETURN_MS", world.patience_ms),
        (dispatcher, "UNHELD_MS", 1_000),
        (keys, "AUDIT_MS", 3_000),
        (schedules, "calendar", calendar),
        (requests_schedules, "calendar", calendar),
        (schedules, "ON_TIME_MS", calendar.ON_TIME_MS),
        (schedules, "PAUSE_MS", calendar.PAUSE_MS),
        (entries, "PART_BYTES_MAX", world.part_bytes_max),
        (entries, "LONG_BYTES", world.segment_bytes),
        (snapshots, "COPY_TIMEOUT_S", 3.0),
        (reporter, "TIMEOUT_S", 1.0),
    )
    with contextlib.ExitStack() as stack:
        for module, name, value in places:
            stack.enter_context(mock.patch.object(module, name, value))
        if world.story is not None:
            stack.enter_context(_listening(world))
        try:
            yield
        finally:
            random.setstate(state)


@contextlib.contextmanager
def _listening(world: World) -> Iterator[None]:
    """Have what the code logs in the story."""
    handler, logger = _Story(world), logging.getLogger("headrace")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Story(logging.Handler):
    """Puts what the code logs into the story."""

    KNOWN = ("shard", "epoch", "reason", "error", "worker", "run", "step", "attempt", "token")

    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process()
        more = {name: getattr(record, name) for name in self.KNOWN if hasattr(record, name)}
        name = process.name if process is not None else "-"
        self._world.tell(f"{name}: {record.getMessage()} {more or ''}")
