"""A process's connection to the simulated broker: what `headrace.bus.Bus` shows to its users."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.bus import (
    ConsumerConfig,
    ConsumerInfo,
    Delivered,
    Disconnected,
    JetStreamBusy,
    JetStreamError,
    NoResponders,
    PubAck,
    Stored,
    StreamConfig,
    StreamInfo,
    TimedOut,
)
from headrace.errors import HeadraceError
from support.sim.broker import Broker, Message, matches
from support.sim.loop import Process
from support.sim.net import BROKER

if TYPE_CHECKING:
    from support.sim.world import World

T = TypeVar("T")
_BUSY = b'{"error":{"code":503,"err_code":10008,"description":"no leader"}}'


class SimSubscription:
    """One subscription."""

    def __init__(self, bus: SimBus, subject: str, callback: Callable[[Any], None]) -> None:
        self.bus, self.subject, self.callback = bus, subject, callback
        self.pattern = tuple(subject.split("."))
        self.wild = "*" in self.pattern or ">" in self.pattern
        self.open = True

    def takes(self, subject: str) -> bool:
        """Tell whether it gets messages on *subject*."""
        return matches(self.pattern, subject) if self.wild else subject == self.subject

    def close(self) -> None:
        """Unsubscribe."""
        self.open = False
        if self in self.bus.subscriptions:
            self.bus.subscriptions.remove(self)
            self.bus.broker.routes.clear()

    def receive(self, message: Message) -> None:
        """Called in the process, when the message has arrived."""
        if self.open and self.bus.connected:
            self.callback(message)


class SimBus:
    """See the module."""

    max_payload_bytes = 1024 * 1024
    backlog_bytes = 0

    def __init__(self, world: World, process: Process, name: str) -> None:
        self.world, self.process, self.name = world, process, name
        self.broker: Broker = world.broker
        self.connected = True
        self.generation = 1
        self.subscriptions: list[SimSubscription] = []
        self.js = SimJetStream(self)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._token = 0
        self._up: list[Callable[[], None]] = []
        self._down: list[Callable[[str], None]] = []
        self._quiet_s: dict[int, float] = {}
        """When the last message to each other bus arrives: messages keep their order."""
        self.broker.buses.append(self)
        self.broker.routes.clear()

    # -- the connection ------------------------------------------------------------------------

    def cut(self) -> None:
        """The connection breaks, and is made again when the world says so."""
        if not self.connected:
            return
        self.connected = False
        if self.process.alive:
            self.process.call_later(0.0, self._fell)

    def _fell(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Disconnected("connection to the broker broke"))
        for callback in tuple(self._down):
            callback("cut")

    def mend(self) -> None:
        """The connection is back."""
        if self.connected or not self.process.alive:
            return
        self.process.call_later(0.0, self._rose)

    def _rose(self) -> None:
        if self.connected:
            return
        self.connected = True
        self.generation += 1
        for callback in tuple(self._up):
            callback()

    def close(self) -> None:
        """The process has died, or ends."""
        self.connected = False
        if self in self.broker.buses:
            self.broker.buses.remove(self)
            self.broker.routes.clear()

    def on_up(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._up.append(callback)
        return lambda: self._up.remove(callback) if callback in self._up else None

    def on_down(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._down.append(callback)
        return lambda: self._down.remove(callback) if callback in self._down else None

    async def flush(self, *, timeout_s: float = 5.0) -> None:
        await self.ask(lambda: None, timeout_s, "flush")

    # -- messages ------------------------------------------------------------------------------

    def new_inbox(self) -> str:
        self._token += 1
        return f"_INBOX.{self.process.name}-{self._token}"

    def subscribe(
        self, subject: str, callback: Callable[[Any], None], *, queue: str = ""
    ) -> SimSubscription:
        found = SimSubscription(self, subject, callback)
        self.subscriptions.append(found)
        self.broker.routes.clear()
        return found

    def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        if not self.connected or not self.process.acts():
            return False
        if subject.startswith("headrace.task."):
            self._publish_task(subject, bytes(payload), reply, dict(headers or {}))
            return True
        self._spread(Message(subject, bytes(payload), reply, self))
        return True

    def respond(self, message: Message, payload: bytes) -> bool:
        if not message.reply or not self.connected or not self.process.acts():
            return False
        self.world.oracle.answered(message.subject, message.data, bytes(payload))
        asker: SimBus = message.sender
        self._deliver(asker, asker._answered, int(message.reply), bytes(payload))
        return True

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        if not self.connected or not self.process.acts():
            raise Disconnected(f"{subject}: not connected")
        token, future = self._future(subject, timeout_s)
        if self.world.forgets(subject, payload):
            self.process.call_later(self.world.net.delay_s(), self._resolve, token, b"")
            await future
            return Message(subject, b"")
        reached = self._spread(Message(subject, bytes(payload), str(token), self))
        if not reached:
            self.process.call_later(0.001, self._nobody, token, subject)
        data = await future
        return Message(subject, data)

    def fail_on_loss(self, future: asyncio.Future[Any]) -> None:
        self._token += 1
        self._waiting[self._token] = future

    # -- inside --------------------------------------------------------------------------------

    def _future(self, what: str, timeout_s: float) -> tuple[int, asyncio.Future[Any]]:
        self._token += 1
        token = self._token
        loop = self.process.loop
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting[token] = future
        timer = loop.call_later(timeout_s, self._too_late, token, what)

        def forget(_: object) -> None:
            timer.cancel()
            self._waiting.pop(token, None)

        future.add_done_callback(forget)
        return token, future

    def _too_late(self, token: int, what: str) -> None:
        future = self._waiting.get(token)
        if future is not None and not future.done():
            future.set_exception(TimedOut(f"no answer on {what}"))

    def _nobody(self, token: int, subject: str) -> None:
        future = self._waiting.get(token)
        if future is not None and not future.done():
            future.set_exception(NoResponders(f"nobody answers on {subject}"))

    def _answered(self, token: int, data: bytes) -> None:
        future = self._waiting.get(token)
        if future is not None and not future.done() and self.connected:
            future.set_result(data)

    def _spread(self, message: Message) -> int:
        """Send to every subscription that takes the subject; return how many there are."""
        reached = 0
        for subscription in self.broker.takers(message.subject):
            to = subscription.bus
            if to.connected and not self.world.net.kept_back(self.name, to.name, message.subject):
                reached += 1
                self._deliver(to, subscription.receive, message)
        return reached

    def _deliver(self, to: SimBus, receive: Callable[..., None], *content: Any) -> None:
        """Let *receive* be called in the other process, when the network has brought it there."""
        net, now_s = self.world.net, self.world.loop.now_s
        if net.parted(self.name, to.name) or net.lost():
            return
        for _ in net.copies_of():
            at_s = now_s + net.delay_s()
            quiet_s = self._quiet_s.get(id(to), 0.0)
            if at_s >= quiet_s:
                self._quiet_s[id(to)] = at_s
            elif net.in_order:
                at_s = quiet_s
            else:
                net.overtakes()
            to.process.call_later(at_s - now_s, receive, *content)

    def _publish_task(
        self, subject: str, payload: bytes, reply: str, headers: dict[str, str]
    ) -> None:
        world = self.world
        if world.net.parted(self.name, BROKER) or world.net.lost():
            return
        for _ in world.net.copies_of():
            delay_s = world.net.delay_s()
            world.later(delay_s, self._task_arrived, subject, payload, reply, headers)

    def _task_arrived(
        self, subject: str, payload: bytes, reply: str, headers: dict[str, str]
    ) -> None:
        try:
            ack = self.broker.publish(subject, payload, headers)
            answer = b'{"stream":"%s","seq":%d}' % (ack.stream.encode(), ack.seq)
        except JetStreamBusy:
            answer = _BUSY
        except JetStreamError:
            return
        message = Message(reply, answer)
        for subscription in list(self.subscriptions):
            if subscription.takes(reply):
                self._deliver(self, subscription.receive, message)

    async def ask(
        self, serve: Callable[[], T], timeout_s: float, what: str, *, disk: str = ""
    ) -> T:
        """Have *serve* run at the broker, and return what it returns or raise what it raises.

        The request may be lost before or after it was served, be served twice, or arrive after we
        gave up. *disk*: it waits for the disk of that stream, behind others.
        """
        if not self.connected or not self.process.acts():
            raise Disconnected(f"{what}: not connected")
        net, world = self.world.net, self.world
        token, future = self._future(what, timeout_s)
        fate = net.fate()
        there_s = net.delay_s()
        if fate == "request-late":
            there_s += timeout_s * (0.5 + world.rng.random() * 2)

        def arrive() -> None:
            wait_s = self.broker.disk_wait_s(disk) if disk else 0.0
            if wait_s:
                world.later(wait_s, work)
            else:
                work()

        def work() -> None:
            try:
                answer: Any = serve()
            except JetStreamBusy as error:
                # A stream without a leader: mostly silence.
                world.tally["leaderless"] += 1
                if world.rng.random() < 0.6:
                    return
                answer = error
            except HeadraceError as error:
                answer = error
            if fate != "answer-lost" and not net.parted(BROKER, self.name):
                self.process.call_later(net.delay_s(), self._resolve, token, answer)

        if fate != "request-lost" and not net.parted(self.name, BROKER):
            for copy in net.copies_of("request-doubled"):
                world.later(there_s + (net.delay_s() if copy else 0.0), arrive)
        return await future  # type: ignore[no-any-return]

    def _resolve(self, token: int, answer: Any) -> None:
        future = self._waiting.get(token)
        if future is None or future.done() or not self.connected:
            return
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class SimJetStream:
    """The calls of `headrace.bus.JetStream` that a coordinator makes."""

    def __init__(self, bus: SimBus) -> None:
        self._bus, self._broker = bus, bus.broker

    async def ensure_stream(self, config: StreamConfig, *, timeout_s: float = 5.0) -> StreamInfo:
        return await self._bus.ask(
            lambda: self._broker.ensure_stream(config), timeout_s, config.name
        )

    async def create_stream(self, config: StreamConfig) -> StreamInfo:
        return await self.ensure_stream(config)

    async def stream_info(
        self, stream: str, *, subjects: str = "", timeout_s: float = 5.0
    ) -> StreamInfo:
        return await self._bus.ask(lambda: self._broker.info(stream, subjects), timeout_s, stream)

    async def purge(self, stream: str, *, subject: str, upto: int = 0, keep: int = 0) -> int:
        def serve() -> int:
            source = self._broker.stream(stream)
            self._bus.world.oracle.purged(stream, subject, upto)
            return source.purge(subject, upto=upto, keep=keep)

        return await self._bus.ask(serve, 5.0, stream)

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> PubAck:
        sent, data = dict(headers or {}), bytes(payload)
        self._bus.world.logs(self._bus.name, subject)
        return await self._bus.ask(
            lambda: self._broker.publish(subject, data, sent), timeout_s, subject, disk=subject
        )

    async def get_last(self, stream: str, subject: str, *, timeout_s: float = 5.0) -> Stored | None:
        def serve() -> Stored | None:
            source = self._broker.stream(stream)
            seq = source.last_on.get(subject, 0)
            return Stored(seq, *source.stored[seq][:2]) if seq else None

        return await self._bus.ask(serve, timeout_s, stream)

    async def read(
        self,
        stream: str,
        start: int,
        *,
        count: int = 1000,
        bytes_max: int = 0,
        subject: str = "",
        timeout_s: float = 5.0,
    ) -> tuple[list[Stored], bool]:
        world = self._bus.world

        def serve() -> tuple[list[Stored], bool]:
            if stream not in self._broker.streams:
                raise NoResponders(f"nobody answers for stream {stream}")
            source = self._broker.stream(stream)
            upto = source.last
            if upto >= start and world.net.replica_lags():
                upto = max(start - 1, upto - world.rng.randint(1, 3))
            return source.read(start, count, subject, upto), False

        return await self._bus.ask(serve, timeout_s, stream)

    async def ensure_consumer(
        self, stream: str, config: ConsumerConfig, *, timeout_s: float = 5.0
    ) -> ConsumerInfo:
        def serve() -> ConsumerInfo:
            self._broker.ensure_consumer(stream, config)
            return ConsumerInfo(config.durable_name, stream, {})

        return await self._bus.ask(serve, timeout_s, stream)

    async def consumer_info(self, stream: str, consumer: str) -> ConsumerInfo:
        def serve() -> ConsumerInfo:
            found = self._broker.consumer(stream, consumer)
            stored = self._broker.stream(stream).stored
            waiting = sum(1 for seq in found.waiting if seq in stored)
            unacked = sum(1 for seq in found.unacked if seq in stored)
            return ConsumerInfo(
                name=consumer,
                stream_name=stream,
                config={},
                delivered=Delivered(stream_seq=found.delivered),
                num_pending=waiting,
                num_ack_pending=unacked,
            )

        return await self._bus.ask(serve, 5.0, consumer)

    async def delete_consumer(self, stream: str, consumer: str) -> bool:
        return await self._bus.ask(
            lambda: self._broker.consumers.pop((stream, consumer), None) is not None, 5.0, consumer
        )
