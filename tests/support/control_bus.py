"""An in-memory broker for control planes on a real event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from headrace.messages import subjects


@dataclass(frozen=True)
class Note:
    subject: str
    data: bytes


class MemoryBroker:
    def __init__(self) -> None:
        self.up = True
        self.buses: list[MemoryBus] = []

    def connect(self) -> MemoryBus:
        bus = MemoryBus(self)
        self.buses.append(bus)
        return bus


class MemoryBus:
    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self.up = True
        self.closed = False
        self.subscriptions: list[MemorySubscription] = []

    @property
    def connected(self) -> bool:
        return self.up and self._broker.up and not self.closed

    def publish(self, subject: str, payload: bytes, /) -> bool:
        if not self.connected:
            return False
        loop = asyncio.get_running_loop()
        for bus in self._broker.buses:
            for subscription in bus.subscriptions:
                if subscription.matches(subject):
                    loop.call_soon(bus.deliver, subscription, Note(subject, payload))
        return True

    def subscribe(self, subject: str, callback: Callable[[Note], None], /) -> MemorySubscription:
        subscription = MemorySubscription(self, subject, callback)
        self.subscriptions.append(subscription)
        return subscription

    def deliver(self, subscription: MemorySubscription, note: Note) -> None:
        if self.connected and subscription in self.subscriptions:
            subscription.callback(note)

    async def close(self) -> None:
        self.closed = True


class MemorySubscription:
    def __init__(self, bus: MemoryBus, subject: str, callback: Callable[[Note], None]) -> None:
        self._bus, self._subject, self.callback = bus, subject, callback

    def matches(self, subject: str) -> bool:
        return subjects.matches(self._subject.split("."), subject.split("."))

    def close(self) -> None:
        if self in self._bus.subscriptions:
            self._bus.subscriptions.remove(self)
