"""A dispatcher over a bus in plain data, a clock that stands still, and workers that say what the
test says."""

from __future__ import annotations

import asyncio

import msgspec

from headrace.coordinator.core.ready import Lane
from headrace.coordinator.dispatch import Dispatcher, Settings, ShardDispatch
from headrace.coordinator.dispatch.lanes import Lanes
from headrace.messages import (
    Held,
    ResultStatus,
    StepResult,
    Task,
    WorkerHeartbeat,
    decode,
    encode,
    subjects,
)
from support.broker import eventually
from support.fakebus import FakeBus, FakeClock, FakeMessage

LEASE = 3_000
EMPTY = msgspec.Raw(b"\x80")


class World:
    """A dispatcher, shards, and workers that say what the test says."""

    def __init__(self, **settings):
        self.bus, self.clock = FakeBus(), FakeClock()
        self.lanes = Lanes(self.bus, self.clock, new_secret=str)
        settings.setdefault("window_extra", 0)
        self.dispatcher = Dispatcher(
            self.bus, self.clock, self.lanes, Settings(lease_ms=LEASE, **settings)
        )
        self.woken = []
        self.seq = 0
        self.beats = {}

    def shard(self, number=0, epoch=5, dispatched=()):
        shard = ShardDispatch(self.dispatcher, number, lambda: self.woken.append(number))
        shard.adopt(epoch, list(dispatched))
        return shard

    def beat(self, id="w", incarnation="1", *, silent=False, **options):
        """A heartbeat arrives; *silent*: it is only prepared for `pass_ms`."""
        options.setdefault("slots", 4)
        options.setdefault("started_ms", int(incarnation))
        options.setdefault("free", options["slots"])
        beat = WorkerHeartbeat(
            version=1,
            id=id,
            incarnation=incarnation,
            namespace=options.pop("namespace", "default"),
            capabilities=options.pop("capabilities", ["default"]),
            handlers={},
            **options,
        )
        self.beats[id] = beat
        if not silent:
            self.bus.tell(
                FakeMessage(
                    subjects.worker_heartbeat(beat.namespace, id, beat.capabilities), encode(beat)
                )
            )

    def silence(self, id):
        del self.beats[id]

    def pass_ms(self, ms, *, deaf=False):
        """Time goes by, with heartbeats and the upkeep's rounds."""
        for _ in range(ms // 250):
            self.clock.advance(250)
            if self.bus.connected and not deaf and int(self.clock.s * 4) % 4 == 0:
                for id, beat in self.beats.items():
                    self.bus.tell(
                        FakeMessage(
                            subjects.worker_heartbeat(beat.namespace, id, beat.capabilities),
                            encode(beat),
                        )
                    )
            self.bus.deaf = deaf
            self.dispatcher.expire()

    def receipts(self, *, delivered=True):
        """The broker acknowledges task messages, and delivers them."""
        for message in self.bus.sent("headrace.task.>"):
            self.seq += 1
            ack = b'{"stream":"T","seq": %d}' % self.seq
            self.bus.tell(FakeMessage(message.reply, ack))
        if delivered:
            for name in self.bus.js.consumers:
                self.bus.js.consumers[name] = self.seq

    def orders(self, kind):
        found = []
        for message in self.bus.sent("headrace.worker.>"):
            try:
                found.append((message.subject.split(".")[4], decode(kind, message.data)))
            except Exception:
                continue
        return found


def lane(name="l", capabilities=(), length=1_000):
    made = Lane(name, "default", capabilities)
    made.length = length
    return made


def tasks(*steps, attempt=1, run="default/r", inputs=EMPTY):
    return [Task(run, step, f"s{step}", attempt, 100 + step, "noop", inputs) for step in steps]


def holding(*steps, shard=0, attempt=1, **options):
    return {"held": {shard: [Held("default/r", step, attempt) for step in steps]}, **options}


def result(step, attempt=1, status=ResultStatus.COMPLETED, took_ms=10):
    return StepResult("default/r", step, attempt, 100 + step, status, EMPTY, 1_000, 1_000 + took_ms)


def lost(shard):
    return sorted((loss.step, loss.attempt) for loss in shard.lapsed(0))


async def look(world, ms):
    for _ in range(ms // 250):
        world.pass_ms(250)
        await world.dispatcher.look_after()
        await asyncio.sleep(0)


async def started(world, *steps):
    shard = world.shard()
    world.beat(silent=False)
    shard.send(5, lane(), "l", tasks(*steps))
    await eventually(lambda: "default-l" in world.bus.js.consumers)
    world.pass_ms(4_000)
    return shard
