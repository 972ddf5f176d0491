"""Streams, consumers and stored messages, as plain requests with typed errors.

Every call raises `Unreachable` when the outcome is unknown and a `JetStreamError` when the broker
refused. Limits of reads are explicit; nothing here retries.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from headrace.bus._errors import (
    Disconnected,
    JetStreamBusy,
    JetStreamInUse,
    JetStreamMissing,
    NoResponders,
    TimedOut,
    jetstream_error,
)
from headrace.bus._wire import Message

if TYPE_CHECKING:
    from headrace.bus._bus import Bus

T = TypeVar("T")

_NANOSECONDS = 1_000_000


class StreamConfig(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A stream, in the broker's own words; ages are nanoseconds there, milliseconds here."""

    name: str
    subjects: tuple[str, ...] = ()
    retention: Literal["limits", "interest", "workqueue"] = "limits"
    storage: Literal["file", "memory"] = "file"
    num_replicas: int = 1
    discard: Literal["old", "new"] = "old"
    max_msgs: int = -1
    max_bytes: int = -1
    max_age_ms: int = 0
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    duplicate_window_ms: int = 0
    """0: the broker's default of two minutes."""
    allow_direct: bool = True
    allow_rollup_hdrs: bool = False
    deny_delete: bool = False
    discard_new_per_subject: bool = False
    metadata: dict[str, str] = {}


class StreamState(msgspec.Struct, frozen=True):
    """Figures of a stream."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0
    consumer_count: int = 0
    subjects: dict[str, int] | None = None
    """Messages a subject, when asked for."""


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream as the broker has it; `created` tells one stream from a later one of its name."""

    config: dict[str, Any]
    state: StreamState
    created: str = ""
    cluster: dict[str, Any] | None = None
    ts: str = ""
    """The server's clock when it answered, RFC 3339."""

    @property
    def time_ms(self) -> int:
        """The server's clock when it answered, in ms since the epoch; 0: not said."""
        return int(datetime.fromisoformat(self.ts).timestamp() * 1_000) if self.ts else 0

    @property
    def max_bytes(self) -> int:
        """The limit on bytes; 0 for none."""
        return max(int(self.config.get("max_bytes", 0)), 0)


class ConsumerConfig(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A pull consumer; durable when `durable_name` is set."""

    durable_name: str = ""
    filter_subject: str = ""
    filter_subjects: tuple[str, ...] = ()
    ack_policy: Literal["explicit", "all", "none"] = "explicit"
    deliver_policy: Literal["all", "last", "new", "by_start_sequence"] = "all"
    opt_start_seq: int = 0
    ack_wait_ms: int = 30_000
    max_deliver: int = -1
    max_ack_pending: int = 1000
    max_waiting: int = 512
    inactive_threshold_ms: int = 0
    num_replicas: int = 0
    mem_storage: bool = False


class Delivered(msgspec.Struct, frozen=True):
    """How far a consumer has come."""

    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer as the broker has it."""

    name: str
    stream_name: str
    config: dict[str, Any]
    delivered: Delivered = Delivered()
    num_pending: int = 0
    num_ack_pending: int = 0
    num_waiting: int = 0
    num_redelivered: int = 0


class PubAck(msgspec.Struct, frozen=True):
    """The broker has stored the message."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False


class Stored(msgspec.Struct, frozen=True):
    """A stored message."""

    seq: int
    subject: str
    data: bytes
    time: str = ""
    """When the broker stored it, RFC 3339."""
    headers: Mapping[str, str] = {}
    """If it was read by `JetStream.read`: the publisher's, and the broker's own (``Nats-…``)."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


class _Ack(PubAck, frozen=True):
    error: _Error | None = None


class _Got(msgspec.Struct):
    seq: int
    subject: str
    data: str = ""
    time: str = ""


class _MessageAnswer(msgspec.Struct):
    message: _Got


class _Purged(msgspec.Struct):
    purged: int = 0


_decode_ack = msgspec.json.Decoder(_Ack).decode
_decode_error = msgspec.json.Decoder(_Answer).decode


class JetStream:
    """The JetStream API on one bus; without a *timeout_s* the connection's own counts."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def api(
        self, name: str, body: object, answer: type[T], *, timeout_s: float | None = None
    ) -> T:
        """Call ``$JS.API.<name>`` and return its answer as *answer*."""
        message = await self._request(f"$JS.API.{name}", msgspec.json.encode(body), timeout_s)
        _raise_error(_decode_error(message.data).error)
        return msgspec.json.decode(message.data, type=answer)

    # -- streams -------------------------------------------------------------------------------

    async def ensure_stream(
        self, config: StreamConfig, *, timeout_s: float | None = None
    ) -> StreamInfo:
        """Create the stream, or bring the one that exists to *config*; return it."""
        body = _to_broker(config)
        try:
            return await self.api(
                f"STREAM.CREATE.{config.name}", body, StreamInfo, timeout_s=timeout_s
            )
        except JetStreamInUse:
            pass
        return await self.api(f"STREAM.UPDATE.{config.name}", body, StreamInfo, timeout_s=timeout_s)

    async def create_stream(self, config: StreamConfig) -> StreamInfo:
        """Create the stream. Raises `JetStreamInUse` when there is another of its name."""
        body = _to_broker(config)
        return await self.api(f"STREAM.CREATE.{config.name}", body, StreamInfo)

    async def stream_info(
        self, stream: str, *, subjects: str = "", timeout_s: float | None = None
    ) -> StreamInfo:
        """Return the stream; with *subjects* (a filter) also the messages for each subject."""
        body: dict[str, Any] = {"subjects_filter": subjects} if subjects else {}
        info = await self.api(f"STREAM.INFO.{stream}", body, StreamInfo, timeout_s=timeout_s)
        names = info.state.subjects
        while subjects and names and len(names) % _SUBJECTS_A_PAGE == 0:
            page = await self.api(
                f"STREAM.INFO.{stream}", {**body, "offset": len(names)}, StreamInfo
            )
            if not page.state.subjects:
                break
            names.update(page.state.subjects)
        return info

    async def delete_stream(self, stream: str) -> bool:
        """Delete the stream; False when there is none."""
        try:
            await self.api(f"STREAM.DELETE.{stream}", {}, dict[str, Any])
        except JetStreamMissing:
            return False
        return True

    async def purge(self, stream: str, *, subject: str, upto: int = 0, keep: int = 0) -> int:
        """Drop messages on *subject* and return how many: all, those with a sequence up to and
        including *upto*, or all but the newest *keep*. The subject is not optional: a purge
        without one takes records of other subjects along."""
        assert subject
        assert not (upto and keep)
        body: dict[str, Any] = {"filter": subject}
        if upto:
            body["seq"] = upto + 1
        if keep:
            body["keep"] = keep
        return (await self.api(f"STREAM.PURGE.{stream}", body, _Purged)).purged

    async def renumber(self, stream: str, upto: int) -> None:
        """Drop all messages, of every subject; the next one has a sequence above *upto*."""
        await self.api(f"STREAM.PURGE.{stream}", {"seq": upto + 1}, _Purged)

    # -- messages ------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> PubAck:
        """Store a message and return where. Not repeated here: an unknown outcome stays one."""
        message = await self._bus.request(
            subject, payload, timeout_s=timeout_s, headers=headers or {}
        )
        try:
            ack = _decode_ack(message.data)
        except msgspec.DecodeError as error:
            raise JetStreamBusy(f"unreadable acknowledgement: {error}") from error
        _raise_error(ack.error)
        return ack

    async def get_last(
        self, stream: str, subject: str, *, timeout_s: float | None = None
    ) -> Stored | None:
        """Return the newest message on *subject* as the stream's leader has it; None without."""
        return await self._get(stream, {"last_by_subj": subject}, timeout_s)

    async def get_msg(
        self, stream: str, seq: int, *, timeout_s: float | None = None
    ) -> Stored | None:
        """Return message *seq* as the stream's leader has it; None without."""
        return await self._get(stream, {"seq": seq}, timeout_s)

    async def _get(
        self, stream: str, body: dict[str, Any], timeout_s: float | None
    ) -> Stored | None:
        try:
            got = await self.api(
                f"STREAM.MSG.GET.{stream}", body, _MessageAnswer, timeout_s=timeout_s
            )
        except JetStreamMissing as error:
            if error.err_code == _NO_MESSAGE:
                return None
            raise
        message = got.message
        data = base64.b64decode(message.data)
        return Stored(message.seq, message.subject, data, message.time)

    async def read(
        self,
        stream: str,
        start: int,
        *,
        count: int = 1000,
        bytes_max: int = 4 * 1024 * 1024,
        subject: str = "",
        timeout_s: float | None = None,
    ) -> tuple[list[Stored], bool]:
        """Return messages from sequence *start* on, in order, and whether there were more.

        A direct get: *any replica* answers, one that lags too. So ([], False) says that this
        replica has nothing there *yet*; whoever knows better asks again. *subject* filters.
        """
        body: dict[str, Any] = {"seq": max(start, 1), "batch": count, "max_bytes": bytes_max}
        if subject:
            body["next_by_subj"] = subject
        got: list[Stored] = []
        limit_s = self._bus.api_timeout_s if timeout_s is None else timeout_s
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()

        def collect(message: Message) -> None:
            if done.done():
                return
            status = message.status
            if status == 0:
                got.append(_stored(message))
            elif status == 204:
                done.set_result(int(message.headers.get("Nats-Num-Pending", "0")) > 0)
            elif status == 404:
                done.set_result(False)
            elif status == 503:
                done.set_exception(NoResponders(f"nobody answers for stream {stream}"))
            else:
                done.set_exception(jetstream_error(status, 0, message.status_text))

        bus = self._bus
        inbox = bus.new_inbox()
        subscription = bus.subscribe(inbox, collect)
        bus.fail_on_loss(done)
        timer = loop.call_later(limit_s, _expire, done, got, stream, limit_s)
        try:
            request = msgspec.json.encode(body)
            if not bus.publish(f"$JS.API.DIRECT.GET.{stream}", request, reply=inbox):
                raise Disconnected("not connected to the broker")
            more = await done
            return got, more
        finally:
            timer.cancel()
            subscription.close()

    # -- consumers -----------------------------------------------------------------------------

    async def ensure_consumer(
        self, stream: str, config: ConsumerConfig, *, timeout_s: float | None = None
    ) -> ConsumerInfo:
        """Create the consumer or bring the one of its durable name to *config*; return it."""
        body = {"stream_name": stream, "config": _to_broker(config)}
        name = config.durable_name
        path = f"CONSUMER.DURABLE.CREATE.{stream}.{name}" if name else f"CONSUMER.CREATE.{stream}"
        return await self.api(path, body, ConsumerInfo, timeout_s=timeout_s)

    async def consumer_info(self, stream: str, consumer: str) -> ConsumerInfo:
        """Return the consumer."""
        return await self.api(f"CONSUMER.INFO.{stream}.{consumer}", {}, ConsumerInfo)

    async def delete_consumer(self, stream: str, consumer: str) -> bool:
        """Delete the consumer; False when there is none."""
        try:
            await self.api(f"CONSUMER.DELETE.{stream}.{consumer}", {}, dict[str, Any])
        except JetStreamMissing:
            return False
        return True

    async def _request(self, subject: str, payload: bytes, timeout_s: float | None) -> Message:
        limit_s = self._bus.api_timeout_s if timeout_s is None else timeout_s
        return await self._bus.request(subject, payload, timeout_s=limit_s)


_SUBJECTS_A_PAGE = 100_000
_NO_MESSAGE = 10037


def _raise_error(error: _Error | None) -> None:
    if error is not None:
        raise jetstream_error(error.code, error.err_code, error.description)


def _to_broker(config: StreamConfig | ConsumerConfig) -> dict[str, Any]:
    """Return *config* as the broker spells it: durations in nanoseconds, no empty names."""
    body: dict[str, Any] = {}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if value in ("", (), {}) or (name == "opt_start_seq" and not value):
            continue
        if name.endswith("_ms"):
            if value:
                body[name[:-3]] = value * _NANOSECONDS
        else:
            body[name] = value
    return body


def _stored(message: Message) -> Stored:
    headers = message.headers
    return Stored(
        int(headers["Nats-Sequence"]),
        headers["Nats-Subject"],
        message.data,
        headers.get("Nats-Time-Stamp", ""),
        headers,
    )


def _expire(done: asyncio.Future[bool], got: list[Stored], stream: str, timeout_s: float) -> None:
    if done.done():
        return
    if got:
        done.set_result(True)  # a slow answer: what is there is in order, and worth keeping
    else:
        done.set_exception(TimedOut(f"stream {stream}: read not answered in {timeout_s} s"))
