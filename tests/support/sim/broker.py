"""The broker: streams with compare-and-set, work queues with consumers, core messages.

What it promises is what NATS was seen to do: an append is stored or refused by the conditions in
its headers at the moment it *arrives*, which may be long after its sender gave up; a stream
without a leader answers nothing or "busy"; what was acknowledged stays; direct reads may come
from a replica that lags; a work queue in memory is gone with the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from headrace.bus import (
    ConsumerConfig,
    JetStreamBusy,
    JetStreamMissing,
    PubAck,
    StorageFull,
    Stored,
    StreamConfig,
    StreamInfo,
    StreamState,
    WrongLastSequence,
)
from support.sim.net import EPOCH_MS

if TYPE_CHECKING:
    from support.sim.bus import SimBus, SimSubscription
    from support.sim.pulls import SimPull
    from support.sim.world import World

ACK_WAIT_S_MAX = 3.0
"""Shorter than real ones, so that worlds are short."""
_EXPECTED = "Nats-Expected-Last-Sequence"
_EXPECTED_ON = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"
_MESSAGE_ID = "Nats-Msg-Id"


class Message:
    """A core message, as `headrace.bus.Message` shows it to callbacks."""

    __slots__ = ("data", "reply", "sender", "subject")
    status = 0

    def __init__(self, subject: str, data: bytes, reply: str = "", sender: Any = None) -> None:
        self.subject, self.data, self.reply, self.sender = subject, data, reply, sender


@lru_cache(maxsize=50_000)
def matches(pattern: tuple[str, ...], subject: str) -> bool:
    """Tell whether *subject* falls under a pattern's tokens (``*`` one token, ``>`` the rest)."""
    tokens = subject.split(".")
    for at, wanted in enumerate(pattern):
        if wanted == ">":
            return len(tokens) > at
        if at >= len(tokens) or (wanted != "*" and wanted != tokens[at]):
            return False
    return len(tokens) == len(pattern)


class Stream:
    """Stored messages of some subjects."""

    def __init__(self, config: StreamConfig, created: str) -> None:
        self.config, self.created = config, created
        self.subjects = [tuple(subject.split(".")) for subject in config.subjects]
        self.stored: dict[int, tuple[str, bytes, float]] = {}
        """Sequence -> (subject, payload, when); in order."""
        self.last = 0
        self.last_on: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self.full = False
        self.silent_until_s = 0.0
        """No leader before: requests are not answered, or with "busy"."""
        self.busy_until_s = 0.0
        """Its disk has work until then."""

    def store(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        now_s: float,
        *,
        full: bool = False,
    ) -> PubAck:
        """Store, or raise what the broker would answer."""
        known = self.ids.get(headers.get(_MESSAGE_ID, ""))
        if known is not None:
            return PubAck(self.config.name, known, True)
        self._check(subject, headers)
        if full:
            raise StorageFull("maximum bytes exceeded", err_code=10047)
        self.last += 1
        self.stored[self.last] = (subject, payload, now_s)
        self.last_on[subject] = self.last
        if _MESSAGE_ID in headers:
            self.ids[headers[_MESSAGE_ID]] = self.last
        return PubAck(self.config.name, self.last)

    def _check(self, subject: str, headers: Mapping[str, str]) -> None:
        expected = headers.get(_EXPECTED)
        if expected is not None and int(expected) != self.last:
            raise WrongLastSequence(f"wrong last sequence: {self.last}", err_code=10071)
        expected = headers.get(_EXPECTED_ON)
        if expected is not None:
            last = self.last_on.get(headers.get(_EXPECTED_SUBJECT, subject), 0)
            if int(expected) != last:
                raise WrongLastSequence(f"wrong last sequence: {last}", err_code=10071)

    def purge(self, subject: str, *, upto: int = 0, keep: int = 0) -> int:
        """Drop what *subject* (a pattern) matches."""
        pattern = tuple(subject.split("."))
        found = [
            seq
            for seq, stored in self.stored.items()
            if (not upto or seq <= upto) and matches(pattern, stored[0])
        ]
        if keep:
            del found[-keep:]
        for seq in found:
            name = self.stored.pop(seq)[0]
            if self.last_on.get(name) == seq:
                del self.last_on[name]
        return len(found)

    def read(self, start: int, count: int, subject: str, upto: int) -> list[Stored]:
        """Return messages in order, none behind *upto*."""
        if start > self.last:
            return []
        got = []
        pattern = tuple(subject.split(".")) if subject else None
        for seq, (name, data, when_s) in self.stored.items():
            if seq < start or (pattern is not None and not matches(pattern, name)):
                continue
            if seq > upto or len(got) >= count:
                break
            got.append(Stored(seq, name, data, stamp(name, when_s)))
        return got

    def info(self, subjects: str = "", now_s: float = 0.0) -> StreamInfo:
        """Return the stream's figures; the broker's clock is exact."""
        by_subject: dict[str, int] | None = None
        if subjects:
            by_subject = {}
            pattern = tuple(subjects.split("."))
            for name, _, _ in self.stored.values():
                if matches(pattern, name):
                    by_subject[name] = by_subject.get(name, 0) + 1
        return StreamInfo(
            config={"max_bytes": self.config.max_bytes},
            state=StreamState(
                messages=len(self.stored),
                bytes=sum(len(data) for _, data, _ in self.stored.values()),
                first_seq=next(iter(self.stored), 0),
                last_seq=self.last,
                subjects=by_subject,
            ),
            created=self.created,
            ts=written(now_s),
        )


def stamp(subject: str, when_s: float) -> str:
    """Return when a message was stored, as the broker writes it; only epoch records are asked."""
    if not subject.endswith(".epoch"):
        return ""
    return written(when_s)


def written(when_s: float) -> str:
    """Return a time as the broker writes it."""
    return datetime.fromtimestamp(EPOCH_MS / 1000 + when_s, UTC).isoformat()


@dataclass
class Consumer:
    """A durable pull consumer of a work queue."""

    pattern: tuple[str, ...]
    ack_wait_s: float
    max_deliver: int
    waiting: list[int] = field(default_factory=list)
    unacked: dict[int, float] = field(default_factory=dict)
    """Sequence -> when it is delivered again."""
    pulls: list[SimPull] = field(default_factory=list)
    deliveries: dict[int, int] = field(default_factory=dict)
    """Sequence -> how often it was delivered, of what is not acknowledged."""
    delivered: int = 0
    """The highest sequence that was ever delivered."""


class Broker:
    """All streams, consumers, subscriptions and connections."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.buses: list[SimBus] = []
        self.routes: dict[str, list[SimSubscription]] = {}
        """Subject -> who takes it; emptied whenever somebody comes or goes."""
        self.disk_s = 0.0
        """How long the slow disk takes for what it is to keep, at most; 0: no time."""
        self.full = False
        """The disk has no room: nothing in files grows."""
        self.appended: dict[str, list[tuple[int, str, bytes, float]]] = {}
        """Everything that was ever stored, by stream: purges do not touch it."""
        self.on_append: Callable[[str, int, str, bytes], None] = lambda *_: None
        self._created = 0

    # -- streams -------------------------------------------------------------------------------

    def stream(self, name: str) -> Stream:
        """Return a stream that answers; raises `JetStreamMissing`, or `JetStreamBusy`."""
        found = self.streams.get(name)
        if found is None:
            raise JetStreamMissing(f"stream {name} not found", status=404, err_code=10059)
        if found.silent_until_s > self.world.loop.now_s:
            raise JetStreamBusy("no leader", status=503, err_code=10008)
        return found

    def ensure_stream(self, config: StreamConfig) -> StreamInfo:
        """Create a stream, or find it."""
        if config.name not in self.streams:
            self._created += 1
            self.streams[config.name] = Stream(config, f"{self._created}")
            self.appended.setdefault(config.name, [])
        return self.info(config.name)

    def info(self, name: str, subjects: str = "") -> StreamInfo:
        """Return a stream's figures; raises as `stream` does."""
        return self.stream(name).info(subjects, self.world.loop.now_s)

    def publish(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> PubAck:
        """A message for a stream has arrived."""
        stream = self._captures(subject)
        if stream is None:
            raise JetStreamMissing(f"no stream takes {subject}", status=503)
        self.stream(stream.config.name)
        full = stream.full or (self.full and stream.config.storage != "memory")
        try:
            ack = stream.store(subject, payload, headers, self.world.loop.now_s, full=full)
        except StorageFull:
            self.world.tally["disk-full"] += 1
            raise
        if not ack.duplicate:
            name = stream.config.name
            self.appended[name].append((ack.seq, subject, payload, self.world.loop.now_s))
            self.on_append(name, ack.seq, subject, payload)
            for (owner, _), consumer in self.consumers.items():
                if owner == name and matches(consumer.pattern, subject):
                    consumer.waiting.append(ack.seq)
                    self.serve(consumer, stream)
        return ack

    def _captures(self, subject: str) -> Stream | None:
        for stream in self.streams.values():
            if any(matches(pattern, subject) for pattern in stream.subjects):
                return stream
        return None

    def disk_wait_s(self, subject: str) -> float:
        """Return how long a message waits for the disk: writes to a stream go one by one."""
        stream = self._captures(subject)
        if not self.disk_s or stream is None or stream.config.storage == "memory":
            return 0.0
        world = self.world
        world.tally["disk-slow"] += 1
        begin_s = max(stream.busy_until_s, world.loop.now_s)
        stream.busy_until_s = begin_s + world.rng.random() * self.disk_s
        return stream.busy_until_s - world.loop.now_s

    def takers(self, subject: str) -> list[SimSubscription]:
        """Return the subscriptions that take a core message, whoever is connected."""
        found = self.routes.get(subject)
        if found is None:
            found = self.routes[subject] = [
                subscription
                for bus in self.buses
                for subscription in bus.subscriptions
                if subscription.takes(subject)
            ]
        return found

    # -- consumers -----------------------------------------------------------------------------

    def ensure_consumer(self, stream: str, config: ConsumerConfig) -> None:
        """Create a consumer, or find it."""
        name = config.durable_name
        source = self.stream(stream)
        if (stream, name) not in self.consumers:
            pattern = tuple(config.filter_subject.split("."))
            waiting = [s for s, stored in source.stored.items() if matches(pattern, stored[0])]
            wait_s = min(config.ack_wait_ms / 1000, ACK_WAIT_S_MAX)
            self.consumers[stream, name] = Consumer(pattern, wait_s, config.max_deliver, waiting)

    def consumer(self, stream: str, name: str) -> Consumer:
        """Return a consumer; raises `JetStreamMissing`."""
        self.stream(stream)
        found = self.consumers.get((stream, name))
        if found is None:
            raise JetStreamMissing(f"consumer {name} not found", status=404, err_code=10014)
        return found

    def serve(self, consumer: Consumer, stream: Stream) -> None:
        """Hand waiting messages to pulls that asked for them, in turns."""
        world = self.world
        consumer.pulls = [pull for pull in consumer.pulls if pull.stands]
        while consumer.waiting:
            asking = [pull for pull in consumer.pulls if pull.asked > 0]
            if not asking:
                return
            seq = consumer.waiting.pop(0)
            stored = stream.stored.get(seq)
            if stored is None:
                continue
            pull = world.rng.choice(asking)
            pull.asked -= 1
            consumer.delivered = max(consumer.delivered, seq)
            consumer.unacked[seq] = world.loop.now_s + consumer.ack_wait_s
            times = consumer.deliveries[seq] = consumer.deliveries.get(seq, 0) + 1
            for _ in world.net.copies_of("task-doubled"):
                pull.send(seq, stored[0], stored[1], times)

    def ack(self, stream: str, consumer: Consumer, seq: int) -> None:
        """A message is done with."""
        consumer.unacked.pop(seq, None)
        consumer.deliveries.pop(seq, None)
        source = self.streams.get(stream)
        if source is not None:
            source.stored.pop(seq, None)

    def redeliver(self) -> None:
        """Deliver again what was not acknowledged in time; called now and then."""
        now_s = self.world.loop.now_s
        for (name, _), consumer in self.consumers.items():
            stream = self.streams.get(name)
            if stream is None:
                continue
            for seq, due_s in list(consumer.unacked.items()):
                if due_s <= now_s:
                    del consumer.unacked[seq]
                    if consumer.max_deliver != 1:
                        consumer.waiting.append(seq)
            self.serve(consumer, stream)

    # -- faults --------------------------------------------------------------------------------

    def holds_in_memory(self) -> bool:
        """Tell whether there is something to forget."""
        return any(s.stored for s in self.streams.values() if s.config.storage == "memory")

    def restart(self, *, forget: bool) -> None:
        """Every connection breaks; with *forget*, streams in memory are gone."""
        for bus in list(self.buses):
            bus.cut()
        if forget:
            lost = [n for n, s in self.streams.items() if s.config.storage == "memory"]
            for name in lost:
                del self.streams[name]
                self.world.tally["memory-lost"] += 1
            self.consumers = {k: c for k, c in self.consumers.items() if k[0] not in lost}
