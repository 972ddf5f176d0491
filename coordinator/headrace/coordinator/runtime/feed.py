"""The public event feed: tails a shard's log into `headrace.events.<shard>`.

The message id is (shard, first position), so that after a takeover nothing is skipped or doubled:
the new owner goes on behind the last one that the feed's stream has.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence

import msgspec

from headrace.bus import Bus, StreamConfig
from headrace.coordinator.runtime.watch import Watch
from headrace.coordinator.shardlog.log import ShardLog
from headrace.errors import HeadraceError, LimitExceeded
from headrace.events import decode_batch
from headrace.messages import decode, encode, subjects

log = logging.getLogger(__name__)

AGE_MS_MAX = 3_600_000
BYTES_MAX = 256 * 1024 * 1024
PUBLISH_TIMEOUT_S = 2.0
RETRY_S = 0.5
MESSAGE_BYTES_MAX = 256 * 1024
"""Entries that are read together are published together, up to so much."""


class FeedMessage(msgspec.Struct, frozen=True, array_like=True):
    """One message of the feed: entries of a shard's log, in order and without a gap."""

    version: int
    shard: int
    position: int
    batch: bytes
    more: list[tuple[int, bytes]] = []
    """(position, batch) of the entries behind the first one."""

    def entries(self) -> list[tuple[int, bytes]]:
        """Return (position, batch) of all."""
        return [(self.position, self.batch), *self.more]


async def ensure_feed(bus: Bus, *, replicas: int) -> None:
    """Make the feed's stream, or find it. Raises `Unreachable`."""
    await bus.js.ensure_stream(
        StreamConfig(
            name=subjects.EVENTS_STREAM,
            subjects=("headrace.events.*",),
            storage="memory",
            num_replicas=replicas,
            max_age_ms=AGE_MS_MAX,
            max_bytes=BYTES_MAX,
        )
    )


async def ensure_step_logs(bus: Bus, *, replicas: int) -> None:
    """Make the stream of steps' output, or find it. Raises `Unreachable`."""
    await bus.js.ensure_stream(
        StreamConfig(
            name=subjects.LOGS_STREAM,
            subjects=("headrace.logs.>",),
            storage="file",
            num_replicas=replicas,
            max_age_ms=7 * 86_400_000,
            max_bytes=1024 * 1024 * 1024,
            max_msgs_per_subject=10_000,
        )
    )


async def feed(bus: Bus, shard_log: ShardLog, watch: Watch | None = None) -> None:
    """Publish a shard's entries until the log is closed, from behind what the feed has already."""
    watch = watch or Watch()
    subject = subjects.events(shard_log.shard)
    after, least = -1, 0
    old = waiting = False
    while True:
        try:
            if after < 0:
                after = await _last(bus, subject)
                # Nothing there: what is as old as the feed gets has been in it, and has left it.
                old = after == 0
                after = max(after, least)
            follow = shard_log.follow(after=after)
            async with contextlib.aclosing(follow) as read:  # type: ignore[type-var]
                async for entries in read:
                    if old:
                        gone = len(list(itertools.takewhile(_is_old, entries)))
                        after, entries = entries[gone - 1][0] if gone else after, entries[gone:]
                        old = not entries
                    for part in _parts(entries):
                        await _publish(bus, shard_log.shard, part)
                        after, waiting = part[-1][0], False
                        watch.fed(len(part))
            return
        except _Overtaken as overtaken:
            after, least = -1, overtaken.position
            continue
        except HeadraceError as error:
            if not waiting:
                log.info("event feed waits", extra={"shard": shard_log.shard, "error": str(error)})
            waiting = True
        await asyncio.sleep(RETRY_S)


Entries = Sequence[tuple[int, bytes]]
"""(position, batch) of each."""


class _Overtaken(Exception):
    """Somebody has published from *position* on: a successor, or we, unheard."""

    def __init__(self, position: int) -> None:
        self.position = position


def _parts(entries: Entries) -> Iterator[Entries]:
    """Divide what was read together into messages."""
    if not entries:
        return
    first = size = 0
    for number, (_, data) in enumerate(entries):
        if number > first and size + len(data) > MESSAGE_BYTES_MAX:
            yield entries[first:number]
            first, size = number, 0
        size += len(data)
    yield entries[first:]


async def _publish(bus: Bus, shard: int, entries: Entries) -> None:
    """Publish *entries* as one message; raises `_Overtaken`.

    Its id is its first position. Every message begins right behind the one before, whoever sent
    that, so two publishers who disagree send the same id, and the broker keeps the first.
    """
    (position, batch), *more = entries
    try:
        ack = await bus.js.publish(
            subjects.events(shard),
            encode(FeedMessage(2, shard, position, batch, more)),
            headers={"Nats-Msg-Id": f"{shard}.{position}"},
            timeout_s=PUBLISH_TIMEOUT_S,
        )
    except LimitExceeded as error:
        if more:
            for entry in entries:
                await _publish(bus, shard, [entry])
        else:
            # It will never fit: better one missing than none at all from here on.
            log.error("entry left out of the event feed", extra={"error": str(error)})
        return
    if ack.duplicate:
        raise _Overtaken(position)


def _is_old(entry: tuple[int, bytes]) -> bool:
    return decode_batch(entry[1]).time_ms < time.time_ns() // 1_000_000 - AGE_MS_MAX


async def _last(bus: Bus, subject: str) -> int:
    stored = await bus.js.get_last(subjects.EVENTS_STREAM, subject)
    return decode(FeedMessage, stored.data).entries()[-1][0] if stored is not None else 0
