"""A worker's pull on a consumer of the simulated broker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from headrace.bus import JetStreamError
from headrace.errors import HeadraceError
from headrace.messages import subjects
from support.sim.broker import Message
from support.sim.bus import SimBus
from support.sim.net import BROKER

_CHECK_S = 1.0


class SimPull:
    """`LanePull`: asks for `demand` messages at a time, again when half of them have come."""

    def __init__(self, bus: SimBus, consumer: str, on_message: Callable[[Any], None]) -> None:
        self._bus, self._consumer, self._on_message = bus, consumer, on_message
        self._demand = 1
        self._generation = -1
        self._closed = False
        self.asked = 0

    @property
    def stands(self) -> bool:
        """The broker knows of the request: it came over the connection that there is."""
        bus = self._bus
        return not self._closed and bus.connected and self._generation == bus.generation

    @property
    def demand(self) -> int:
        return self._demand

    @demand.setter
    def demand(self, value: int) -> None:
        self._demand = value
        self._refill()

    def start(self) -> None:
        self._bus.on_up(self._begin)
        self._begin()
        self._again()

    def pause(self) -> None:
        self._demand = 0

    async def leave(self) -> None:
        """The broker forgets the request at once; what it has sent still comes."""
        self._demand = self.asked = 0
        with contextlib.suppress(HeadraceError):
            await self._bus.flush()
        self.close()

    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        self._closed = True

    def ack(self, message: Message) -> bool:
        bus = self._bus
        seq = int(message.reply.split(".")[5])
        if not bus.connected or not bus.process.acts():
            return False
        if bus.world.net.parted(bus.name, BROKER) or bus.world.net.lost():
            return True
        broker = bus.broker

        def arrive() -> None:
            found = broker.consumers.get((subjects.TASK_STREAM, self._consumer))
            if found is not None:
                broker.ack(subjects.TASK_STREAM, found, seq)

        bus.world.later(bus.world.net.delay_s(), arrive)
        return True

    def term(self, message: Message) -> bool:
        raise AssertionError(f"task message refused: {message.data!r}")

    # -- the broker's side ---------------------------------------------------------------------

    def send(self, seq: int, subject: str, data: bytes, deliveries: int) -> None:
        """A message is on its way to us."""
        net = self._bus.world.net
        if net.parted(BROKER, self._bus.name) or net.lost():
            return
        stream, consumer = subjects.TASK_STREAM, self._consumer
        reply = f"$JS.ACK.{stream}.{consumer}.{deliveries}.{seq}.{seq}.0.0"
        message = Message(subject, data, reply)
        self._bus.process.call_later(net.delay_s(), self._receive, self._generation, message)

    def _receive(self, generation: int, message: Message) -> None:
        if self._closed or not self._bus.connected or generation != self._bus.generation:
            return
        self._refill()
        self._on_message(message)

    # -- asking --------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._generation = self._bus.generation
        self.asked = 0
        self._refill()

    def _again(self) -> None:
        """Ask again now and then: the consumer may have been made anew."""
        if self._closed:
            return
        self._refill()
        self._bus.process.call_later(_CHECK_S, self._again)

    def _refill(self) -> None:
        bus = self._bus
        if self._closed or not bus.connected or bus.world.net.parted(bus.name, BROKER):
            return
        try:
            consumer = bus.broker.consumer(subjects.TASK_STREAM, self._consumer)
        except JetStreamError:
            self.asked = 0
            return
        if self not in consumer.pulls:
            # The broker tells those who wait at a consumer that is deleted.
            self.asked = 0
            consumer.pulls.append(self)
        if self.asked > self._demand // 2:
            return
        self.asked = max(self.asked, self._demand)
        bus.broker.serve(consumer, bus.broker.streams[subjects.TASK_STREAM])
