"""The public event feed: tails a shard's log into `headrace.events.<shard>`.

The message id is (shard, position), so that after a takeover nothing is skipped or doubled: the
new owner goes on behind the last one that the feed's stream has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from headrace.bus import Bus, StreamConfig
from headrace.coordinator.shardlog.log import ShardLog
from headrace.errors import HeadraceError, LimitExceeded
from headrace.events import decode_batch
from headrace.messages import decode, encode, subjects

log = logging.getLogger(__name__)

AGE_MS_MAX = 3_600_000
BYTES_MAX = 256 * 1024 * 1024
PUBLISH_TIMEOUT_S = 2.0
RETRY_S = 0.5


class FeedMessage(msgspec.Struct, frozen=True, array_like=True):
    """One message of the feed: an entry of a shard's log."""

    version: int
    shard: int
    position: int
    batch: bytes


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


async def feed(bus: Bus, shard_log: ShardLog) -> None:
    """Publish a shard's entries until the log is closed, from behind what the feed has already."""
    shard = shard_log.shard
    subject = subjects.events(shard)
    after = -1
    old = waiting = False
    while True:
        try:
            if after < 0:
                after = await _last(bus, subject)
                # Nothing there: what is as old as the feed gets has been in it, and has left it.
                old = after == 0
            follow = shard_log.follow(after=after)
            async with contextlib.aclosing(follow) as entries:  # type: ignore[type-var]
                async for position, data in entries:
                    if old and (old := _is_old(data)):
                        after = position
                        continue
                    try:
                        await bus.js.publish(
                            subject,
                            encode(FeedMessage(1, shard, position, data)),
                            headers={"Nats-Msg-Id": f"{shard}.{position}"},
                            timeout_s=PUBLISH_TIMEOUT_S,
                        )
                    except LimitExceeded as error:
                        # It will never fit: better one missing than none at all from here on.
                        log.error("entry left out of the event feed", extra={"error": str(error)})
                    after, waiting = position, False
            return
        except HeadraceError as error:
            if not waiting:
                log.info("event feed waits", extra={"shard": shard, "error": str(error)})
            waiting = True
        await asyncio.sleep(RETRY_S)


def _is_old(data: bytes) -> bool:
    return decode_batch(data).time_ms < time.time_ns() // 1_000_000 - AGE_MS_MAX


async def _last(bus: Bus, subject: str) -> int:
    stored = await bus.js.get_last(subjects.EVENTS_STREAM, subject)
    return decode(FeedMessage, stored.data).position if stored is not None else 0
