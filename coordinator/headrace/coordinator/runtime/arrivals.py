"""Events from outside: the owner of the system shard reads their stream, and the core decides.

The stream takes messages of any client of the broker; what it has acknowledged is there until it
was read. How far it was read is in the shard's state, so a successor goes on from there. Nothing
here knows what an event begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.bus import Bus, Stored, StreamConfig, Subscription
from headrace.coordinator.core import Machine, Taken, has_room
from headrace.coordinator.runtime.watch import Watch
from headrace.errors import HeadraceError
from headrace.messages import Arrival, subjects

log = logging.getLogger(__name__)

READ_COUNT = 256
READ_BYTES = 1024 * 1024
POLL_S = 1.0
"""The stream is looked at so often although nobody heard of an event."""
SOON_S = 0.05
"""What was heard of a moment ago may not be stored yet: look again."""
HEARD_S = 2.0
"""For so long."""
RETRY_S = 0.5
LOGGED_S = 10.0
"""Longer than that nothing waits for a tick: it was thrown away with its owner's state."""
PURGE_S = 30.0
"""How often the stream's size is looked at."""
_ID_HEADERS = ("ce-id", "Nats-Msg-Id")
"""The first that is there is the event's id."""
_BROKERS = "nats-"
"""Begins the names of headers that are the broker's business."""


class Incoming(Protocol):
    """The stream of events from outside."""

    async def open(self) -> tuple[str, int]:
        """Return when it was made, and the number of the first event in it; make it if needed."""
        ...

    async def read(self, after: int) -> Sequence[Arrival]:
        """Return events behind number *after*, in order; none: there is none, or not yet.

        Raises `HeadraceError` also when the stream was deleted: then `open` makes another one.
        """
        ...

    async def shrink(self, upto: int) -> None:
        """Drop events up to *upto*, if the stream is getting full."""
        ...

    def listen(self, heard: Callable[[], None]) -> Subscription | None:
        """Have *heard* called when an event may have come."""
        ...


class EventOwner(Protocol):
    """The owner of the system shard, as far as it is needed here."""

    machine: Machine | None

    def post_logged(self, apply: Callable[[Machine], None], then: Callable[[], None]) -> None:
        """Run *apply* in a coming tick, and *then* once that is in the log."""
        ...


class IncomingStream:
    """`Incoming` on the broker."""

    def __init__(self, bus: Bus, *, replicas: int, bytes_max: int, age_ms: int) -> None:
        self._bus, self._bytes_max = bus, bytes_max
        self._config = StreamConfig(
            name=subjects.INCOMING_STREAM,
            subjects=(f"{subjects.INCOMING}>",),
            storage="file",
            num_replicas=replicas,
            # Full of what nobody has read, it refuses: what it has acknowledged is not lost.
            discard="new",
            max_bytes=bytes_max,
            max_age_ms=age_ms,
            duplicate_window_ms=min(subjects.INCOMING_DUPLICATES_MS, age_ms),
        )

    async def open(self) -> tuple[str, int]:
        """See `Incoming`. Raises `Unreachable`, `JetStreamError`."""
        info = await self._bus.js.ensure_stream(self._config)
        return info.created, info.state.first_seq

    async def read(self, after: int) -> Sequence[Arrival]:
        """See `Incoming`."""
        found, _ = await self._bus.js.read(
            subjects.INCOMING_STREAM, after + 1, count=READ_COUNT, bytes_max=READ_BYTES
        )
        return [arrival_of(stored) for stored in found]

    async def shrink(self, upto: int) -> None:
        """See `Incoming`."""
        info = await self._bus.js.stream_info(subjects.INCOMING_STREAM)
        if info.state.bytes > self._bytes_max // 2 and info.state.first_seq <= upto:
            everything = f"{subjects.INCOMING}>"
            await self._bus.js.purge(subjects.INCOMING_STREAM, subject=everything, upto=upto)

    def listen(self, heard: Callable[[], None]) -> Subscription | None:
        """See `Incoming`."""
        return self._bus.subscribe(f"{subjects.INCOMING}>", lambda _message: heard())


def arrival_of(stored: Stored) -> Arrival:
    """Return the event in a stored message."""
    namespace, _, subject = stored.subject.removeprefix(subjects.INCOMING).partition(".")
    headers = dict(stored.headers)
    return Arrival(
        sequence=stored.seq,
        namespace=namespace,
        subject=subject,
        data=stored.data,
        time=stored.time,
        headers={
            name: value for name, value in headers.items() if not name.lower().startswith(_BROKERS)
        },
        id=next((headers[name] for name in _ID_HEADERS if headers.get(name)), ""),
    )


class Reader:
    """Reads for one ownership of the system shard: ``await reader.run()``, until cancelled."""

    def __init__(self, incoming: Incoming, owner: EventOwner, watch: Watch) -> None:
        self._incoming, self._owner, self._watch = incoming, owner, watch
        self._heard = asyncio.Event()
        self._heard_s = -HEARD_S
        self._logged = 0
        """Number up to which everything is in the log."""
        self._look_s = 0.0
        self._waiting = False

    async def run(self) -> None:
        """Read until cancelled; troubles of the broker pass."""
        listening = self._incoming.listen(self._on_heard)
        try:
            while True:
                try:
                    await self._read_all()
                except HeadraceError as error:
                    level = logging.DEBUG if self._waiting else logging.INFO
                    log.log(level, "events are not read", extra={"error": str(error)})
                    self._waiting = True
                await asyncio.sleep(RETRY_S)
        finally:
            if listening is not None:
                listening.close()

    def _on_heard(self) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        self._heard.set()

    async def _read_all(self) -> None:
        """Read from where the state says, as long as the stream is the same one."""
        stream, first = await self._incoming.open()
        self._waiting = False
        while (machine := self._owner.machine) is not None:
            state = machine.state
            known = state.incoming.behind(stream)
            if known and first > known + 1:
                log.error(
                    "events have left the stream unread: they were too old",
                    extra={"events": first - known - 1},
                )
                self._watch.events_lost(first - known - 1)
            first = 0
            self._heard.clear()
            found = await self._incoming.read(known) if has_room(state) else ()
            if found:
                await self._take(stream, found)
            else:
                await self._pause()
            await self._shrink()

    async def _take(self, stream: str, found: Sequence[Arrival]) -> None:
        logged = asyncio.get_running_loop().create_future()
        taken: list[Taken] = []

        def apply(machine: Machine) -> None:
            taken[:] = [machine.take_events(stream, found)]

        def then() -> None:
            if not logged.done():
                logged.set_result(None)

        self._owner.post_logged(apply, then)
        try:
            async with asyncio.timeout(LOGGED_S):
                await logged
        except TimeoutError:
            return  # a full log, or a state that was thrown away: whatever is logged is known
        self._logged = found[-1].sequence
        self._tell(taken[0])

    def _tell(self, taken: Taken) -> None:
        self._watch.events_taken(taken.begun, taken.held, len(taken.failed), taken.unmatched)
        for arrival, definition, problem in taken.failed:
            log.warning(
                "an event begins no run",
                extra={
                    "definition": definition,
                    "subject": arrival.subject,
                    "event": arrival.id or str(arrival.sequence),
                    "problem": problem,
                },
            )

    async def _pause(self) -> None:
        """Wait for an event, or until it is time to look again."""
        heard_ago_s = asyncio.get_running_loop().time() - self._heard_s
        try:
            async with asyncio.timeout(SOON_S if heard_ago_s < HEARD_S else POLL_S):
                await self._heard.wait()
        except TimeoutError:
            return

    async def _shrink(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._logged and now_s - self._look_s > PURGE_S:
            self._look_s = now_s
            await self._incoming.shrink(self._logged)
