"""Lanes on JetStream: the task stream, one durable consumer a lane, publishing with receipts.

The stream may live in memory: what it holds can be made again from the shards' state. A publish
is repeated until the broker acknowledges it; the worker drops doubles by attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from msgspec.structs import replace

from headrace.bus import (
    Bus,
    ConsumerConfig,
    JetStreamInUse,
    JetStreamMissing,
    Message,
    StreamConfig,
    StreamInfo,
)
from headrace.errors import Busy, HeadraceError, LimitExceeded
from headrace.messages import subjects
from headrace.telemetry import Clock

log = logging.getLogger(__name__)

RECEIPT_MS = 1_000
"""A publish without a receipt for this long is repeated."""
DUPLICATES_MS = 30_000
"""So long the broker drops a repeated publish whose first copy it has stored after all."""
IDLE_LANE_MS = 600_000
ACK_WAIT_MS = 30_000
PENDING_BYTES_MAX = 64 * 1024 * 1024
MARKS_MAX = 10_000
HEADERS_BYTES = 256
"""Room for what goes beside a payload."""
_SECRET: Final = "headrace-names"
"""In the stream's metadata: what makes consumers' names unguessable."""
_SEQUENCE = re.compile(rb'"seq":\s*(\d+)')
_LAST_TOKEN = re.compile(r"[^.]+$")


class _Sent(NamedTuple):
    lane: tuple[str, str]
    shard: int
    subject: str
    payload: bytes
    sent_ms: int
    first_ms: int


class _Trouble:
    """Logs when the broker begins to refuse task messages, and when it has them all: no line each.

    A refused message is repeated every second, and thousands may wait.
    """

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        """Tokens of refused messages that are kept."""
        self._messages = self._refusals = 0
        self.refusals = 0
        """Of all times."""

    def refused(self, token: str, reason: str) -> None:
        """A message was not taken; it is kept."""
        if not self._waiting:
            log.warning("task messages are refused by the broker", extra={"reason": reason})
        self._refusals += 1
        self.refusals += 1
        if token not in self._waiting:
            self._messages += 1
            self._waiting.add(token)

    def settled(self, token: str) -> None:
        """A message was taken, or is no longer ours to send."""
        if token in self._waiting:
            self._waiting.discard(token)
            if not self._waiting:
                self._tell()

    def forget(self) -> None:
        """Nothing is kept any more."""
        if self._waiting:
            self._waiting.clear()
            self._tell()

    def _tell(self) -> None:
        log.info(
            "no task message is refused any more",
            extra={"messages": self._messages, "refusals": self._refusals},
        )
        self._messages = self._refusals = 0


class Lanes:
    """The task stream, as one coordinator uses it."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        *,
        replicas: int = 1,
        new_secret: Callable[[], str] = secrets.token_hex,
    ) -> None:
        self._bus, self._clock, self._replicas = bus, clock, replicas
        self._new_secret = new_secret
        self._inbox = bus.new_inbox()
        self._receipts = bus.subscribe(f"{self._inbox}.*", self._receipt)
        self._token = 0
        self._sent: dict[str, _Sent] = {}
        self._marks: dict[tuple[str, str], deque[tuple[int, int]]] = {}
        """(namespace, lane) -> (sent, stream sequence) of messages that may not be delivered yet,
        in the order in which they were stored."""
        self._pending_bytes = 0
        self._made: set[str] = set()
        self._making: dict[str, asyncio.Task[None]] = {}
        self._created = self._secret = ""
        self.doubtful = False
        """The stream may be gone: look at it, with `start`."""
        self._trouble = _Trouble()
        self.on_stream_lost: Callable[[], None] = lambda: None
        self.messages = self.message_bytes = self.repeats = self.losses = 0
        """Messages published, their bytes; publishes repeated; streams lost. They only grow."""

    async def start(self) -> None:
        """Make the stream, or find it. Raises `Unreachable`."""
        config = StreamConfig(
            name=subjects.TASK_STREAM,
            subjects=("headrace.task.>",),
            retention="workqueue",
            storage="memory",
            num_replicas=self._replicas,
            discard="new",
            duplicate_window_ms=DUPLICATES_MS,
        )
        info = await self._made_stream(config)
        self.doubtful = False
        if self._created and info.created != self._created:
            # The broker's memory is gone: nothing that was on its way is there any more.
            self.losses += 1
            log.warning("task stream was lost; what nobody holds is dispatched again")
            self._made.clear()
            self._sent.clear()
            self._trouble.forget()
            self._marks.clear()
            self._pending_bytes = 0
            self.on_stream_lost()
        self._created = info.created

    async def _made_stream(self, config: StreamConfig) -> StreamInfo:
        """Make the stream, or bring the one that exists to *config*; learn its secret.

        The secret is in the stream's metadata, which coordinators alone may read: so all of them,
        and those to come, name consumers alike, and nobody else can guess a name.
        """
        js = self._bus.js
        found: StreamInfo | None = None
        while found is None:
            try:
                found = await js.stream_info(config.name)
            except JetStreamMissing:
                # A stream that was lost gets the secret of the one before: workers pull by it.
                fresh = {_SECRET: self._secret or self._new_secret()}
                with contextlib.suppress(JetStreamInUse):  # another was quicker: read what it chose
                    found = await js.create_stream(replace(config, metadata=fresh))
        kept = found.config.get("metadata") or {}
        self._secret = kept.get(_SECRET) or self._new_secret()
        return await js.ensure_stream(replace(config, metadata={_SECRET: self._secret}))

    def consumer(self, namespace: str, lane: str) -> str:
        """Return the name of a lane's durable consumer."""
        return subjects.task_consumer(namespace, lane, self._secret)

    def close(self) -> None:
        """Stop; what is in the stream stays."""
        self._receipts.close()
        for task in self._making.values():
            task.cancel()

    # -- publishing ---------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Bytes that the broker has not confirmed."""
        return self._pending_bytes

    @property
    def refusals(self) -> int:
        """Refusals of the broker so far."""
        return self._trouble.refusals

    @property
    def congested(self) -> bool:
        """The broker does not keep up: dispatch nothing more for now."""
        return self._pending_bytes > PENDING_BYTES_MAX

    def _now_ms(self) -> int:
        return int(self._clock.monotonic() * 1_000)

    def publish(
        self, namespace: str, lane: str, shard: int, payload: bytes, *, begun_ms: int
    ) -> bool:
        """Publish a task message; it is repeated until the broker has it.

        *begun_ms*: the time that its leases bear, so that `delivered_upto` never counts it in
        before it is delivered. False: it is larger than the broker takes, and is not sent.
        """
        if len(payload) + HEADERS_BYTES > self._bus.max_payload_bytes:
            return False
        self._token += 1
        token = f"{self._token:x}"
        subject = subjects.task(namespace, lane, shard)
        now_ms = self._now_ms()
        self._sent[token] = _Sent((namespace, lane), shard, subject, payload, now_ms, begun_ms)
        self._pending_bytes += len(payload)
        self.messages += 1
        self.message_bytes += len(payload)
        self._send(token, subject, payload)
        return True

    def _send(self, token: str, subject: str, payload: bytes) -> None:
        # Stored twice, it would be run by two workers. The inbox is unique to this process.
        reply = f"{self._inbox}.{token}"
        try:
            self._bus.publish(subject, payload, reply=reply, headers={"Nats-Msg-Id": reply})
        except (Busy, LimitExceeded) as error:
            # Kept: `repeat` sends it again (to a broker with a lower limit, until it is moved).
            self._trouble.refused(token, str(error))

    def drop_shard(self, shard: int) -> None:
        """A shard is not ours any more: what the broker has not got is its new owner's to send."""
        for token in [token for token, sent in self._sent.items() if sent.shard == shard]:
            self._pending_bytes -= len(self._sent.pop(token).payload)
            self._trouble.settled(token)

    def _receipt(self, message: Message) -> None:
        found = _LAST_TOKEN.search(message.subject)
        token = found.group() if found else ""
        if b'"error"' in message.data or message.status:
            # Kept: `repeat` sends it again. Nobody answers (503) for a stream that is gone.
            self.doubtful = True
            if token in self._sent:
                answer = bytes(message.data[:200]).decode(errors="replace")
                self._trouble.refused(token, answer or f"status {message.status}")
            return
        sent = self._sent.pop(token, None)
        if sent is not None:
            self._trouble.settled(token)
            self._pending_bytes -= len(sent.payload)
            stored = _SEQUENCE.search(message.data)
            if stored is not None:
                marks = self._marks.setdefault(sent.lane, deque(maxlen=MARKS_MAX))
                marks.append((sent.first_ms, int(stored.group(1))))

    def repeat(self) -> None:
        """Publish again what got no receipt in time. Call it every now and then."""
        now_ms = self._now_ms()
        for token, sent in list(self._sent.items()):
            if now_ms - sent.sent_ms < RECEIPT_MS:
                break
            del self._sent[token]
            self._sent[token] = sent._replace(sent_ms=now_ms)
            self.repeats += 1
            self._send(token, sent.subject, sent.payload)

    # -- consumers ----------------------------------------------------------------------------

    def ensure(self, namespace: str, lane: str, then: Callable[[], None]) -> None:
        """Make the lane's consumer in the background if need be, then call *then*."""
        consumer = self.consumer(namespace, lane)
        if consumer in self._made:
            then()
            return
        if consumer in self._making:
            return

        async def make() -> None:
            config = ConsumerConfig(
                durable_name=consumer,
                filter_subject=subjects.task(namespace, lane, "*"),
                ack_policy="explicit",
                ack_wait_ms=ACK_WAIT_MS,
                # The owner alone judges loss: what came again by itself would run a recorded step.
                max_deliver=1,
                max_ack_pending=1_000,
                inactive_threshold_ms=IDLE_LANE_MS,
                mem_storage=True,
            )
            try:
                await self._bus.js.ensure_consumer(subjects.TASK_STREAM, config)
            except HeadraceError as error:
                log.warning("lane not made", extra={"lane": consumer, "error": str(error)})
                return
            self._made.add(consumer)
            then()

        task = asyncio.create_task(make(), name=f"lane-{consumer}")
        self._making[consumer] = task
        task.add_done_callback(lambda _: self._making.pop(consumer, None))

    def is_made(self, namespace: str, lane: str) -> bool:
        """Tell whether the lane's consumer is there, as far as we know."""
        return self.consumer(namespace, lane) in self._made

    def forget(self, namespace: str, lane: str) -> None:
        """The consumer may be gone: look again at the next `ensure`."""
        self._made.discard(self.consumer(namespace, lane))

    async def remove(self, namespace: str, lane: str) -> None:
        """Remove a lane (a dead worker's): its messages and its consumer.

        Raises `HeadraceError`: to be tried again.
        """
        self.forget(namespace, lane)
        self._marks.pop((namespace, lane), None)
        try:
            await self._bus.js.purge(
                subjects.TASK_STREAM, subject=subjects.task(namespace, lane, "*")
            )
            await self._bus.js.delete_consumer(subjects.TASK_STREAM, self.consumer(namespace, lane))
        except JetStreamMissing:
            self.doubtful = True

    async def recall(self, namespace: str, lane: str, shards: Iterable[int]) -> None:
        """Take back what *shards*, all of ours, sent to a lane that nobody reads any more.

        Raises `HeadraceError`. What was delivered in spite of it is for the leases to judge.
        """
        for shard in shards:
            subject = subjects.task(namespace, lane, shard)
            await self._bus.js.purge(subjects.TASK_STREAM, subject=subject)
        self._marks.pop((namespace, lane), None)

    async def delivered_upto(self, namespace: str, lane: str) -> int:
        """Return a time: every task of ours sent to the lane before it was delivered.

        0 when that is not known. Raises `Unreachable`.
        """
        asked_ms = self._now_ms()
        try:
            info = await self._bus.js.consumer_info(
                subjects.TASK_STREAM, self.consumer(namespace, lane)
            )
        except JetStreamMissing:
            self.forget(namespace, lane)
            self.doubtful = True
            return 0
        upto = asked_ms
        marks = self._marks.get((namespace, lane))
        if marks:
            while marks and marks[0][1] <= info.delivered.stream_seq:
                marks.popleft()
            if marks:
                upto = min(upto, min(sent_ms for sent_ms, _ in marks))
        waiting = [s.first_ms for s in self._sent.values() if s.lane == (namespace, lane)]
        return min([upto, *waiting])

    async def purge_shard(self, shard: int) -> None:
        """Drop all tasks of a shard: its new owner dispatches again what nobody holds."""
        try:
            await self._bus.js.purge(subjects.TASK_STREAM, subject=subjects.task("*", "*", shard))
        except JetStreamMissing:
            await self.start()
