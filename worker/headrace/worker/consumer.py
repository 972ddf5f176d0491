"""Pulls task messages from the lanes that this worker can serve, no more than it has slots for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from headrace.errors import HeadraceError
from headrace.messages import LaneOffer, TaskBatch, decode, subjects
from headrace.worker.core import Assignments, Credit, Identity, Origin, Outbox
from headrace.worker.executor import Executor

log = logging.getLogger(__name__)

VERSION: Final = 1
LANES_MAX: Final = 1_000


class LanePull(Protocol):
    """One pull on one durable consumer: `headrace.bus.Pull`."""

    @property
    def demand(self) -> int:
        """Messages asked for at a time, at least 1."""
        ...

    @demand.setter
    def demand(self, value: int) -> None: ...

    def pause(self) -> None:
        """Ask for no more, until `demand` is set; what was asked for may still arrive."""
        ...

    async def leave(self) -> None:
        """Ask for nothing more; return, closed, when nothing is on its way any more."""
        ...

    def start(self) -> None:
        """Begin."""
        ...

    def ack(self, message: Any) -> bool:
        """Confirm a message."""
        ...

    def term(self, message: Any) -> bool:
        """Refuse a message for ever."""
        ...

    def healthy(self) -> bool:
        """A pull has succeeded recently."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


OpenPull = Callable[[str, Callable[[Any], None]], LanePull]
"""Makes the pull for a consumer's name and a callback."""


class Consumer:
    """Lanes, demand, and the way from a message to the executor."""

    def __init__(
        self,
        *,
        identity: Identity,
        executor: Executor,
        outbox: Outbox,
        credit: Credit,
        open_pull: OpenPull,
        handlers: Iterable[str] = (),
        on_dropped: Callable[[str, int], None] = lambda _reason, _count: None,
        on_received: Callable[[int], None] = lambda _count: None,
        holds_back: Callable[[], bool] = lambda: False,
    ) -> None:
        """*holds_back*: what comes now may be somebody else's already: nothing of it is begun."""
        self._identity = identity
        self._executor = executor
        self._assignments: Assignments = executor.assignments
        self._outbox = outbox
        self._credit = credit
        self._open_pull = open_pull
        self._on_dropped, self._on_received = on_dropped, on_received
        self._holds_back = holds_back
        self._own_lane = subjects.pinned_lane(identity.id, identity.incarnation)
        self._pulls: dict[str, LanePull] = {}
        self._needed: dict[str, LaneOffer] = {}
        self._stopped = False
        self.messages = 0
        """Task messages that came."""
        self._offered: frozenset[str] = frozenset()
        self.offer_handlers(handlers)

    def offer_handlers(self, names: Iterable[str]) -> None:
        """Serve the handlers *names* beside the built-in ones; leave lanes that need others."""
        # A handler that is not built in is a capability too, see the coordinator's lanes.
        labels = (*self._identity.capabilities, *(f"uses:{name}" for name in names))
        self._offered = frozenset(label.lower() for label in labels)
        for lane, offer in list(self._needed.items()):
            if not self._serves(offer):
                del self._needed[lane]
                self._pulls.pop(lane).close()

    @property
    def lanes(self) -> list[str]:
        """Lanes that it pulls from."""
        return list(self._pulls)

    @property
    def ready(self) -> bool:
        """Every lane has answered recently; without lanes there is nothing that could fail."""
        return all(pull.healthy() for pull in self._pulls.values())

    def offer(self, offer: LaneOffer) -> bool:
        """Pull from the lane if this worker can serve it; repeated offers are fine.

        The lane's consumer may have another name now: the stream was lost with the broker's memory.
        """
        known = self._needed.get(offer.lane)
        if self._stopped or not self._serves(offer):
            return False
        if known is not None and known.consumer == offer.consumer:
            return False
        if known is not None:
            self._pulls.pop(offer.lane).close()
        elif len(self._pulls) >= LANES_MAX:
            log.error("too many lanes", extra={"lane": offer.lane, "limit": LANES_MAX})
            return False
        pinned = offer.lane == self._own_lane
        pull = self._open_pull(
            offer.consumer, lambda message: self._receive(offer.lane, pinned, message)
        )
        self._pulls[offer.lane], self._needed[offer.lane] = pull, offer
        pull.start()
        self.adjust()
        return True

    def adjust(self) -> None:
        """Set the demand of all lanes; after each message, and when room was made."""
        if self._stopped:
            return
        wanted = self._wanted()
        for pull in self._pulls.values():
            if wanted == 0:
                pull.pause()
            elif pull.demand != wanted:
                pull.demand = wanted

    def stop(self) -> None:
        """Pull no more, for good; what is on its way still comes, and goes back."""
        self._stopped = True
        for pull in self._pulls.values():
            pull.pause()

    async def leave(self) -> None:
        """`stop`, and return when nothing can come any more."""
        self.stop()
        await asyncio.gather(*(pull.leave() for pull in self._pulls.values()))

    def close(self) -> None:
        """Drop the pulls."""
        self.stop()
        for pull in self._pulls.values():
            pull.close()

    def _serves(self, offer: LaneOffer) -> bool:
        if offer.lane.startswith("@"):
            return offer.lane == self._own_lane
        return self._offered.issuperset(capability.lower() for capability in offer.capabilities)

    def _wanted(self) -> int:
        assignments = self._assignments
        return self._credit.wanted(
            held=assignments.running + assignments.queued,
            lanes=len(self._pulls),
            outbox_full=self._outbox.full,
        )

    def _receive(self, lane: str, pinned: bool, message: Any) -> None:
        pull = self._pulls.get(lane)
        if pull is None:
            return  # left a moment ago: the broker gives it to another
        try:
            batch = decode(TaskBatch, message.data)
            if batch.version != VERSION:
                raise HeadraceError(f"version {batch.version} of a task message")
        except HeadraceError as error:
            log.error("task message not understood", extra={"lane": lane, "error": str(error)})
            self._on_dropped("malformed", 1)
            pull.term(message)
            return
        self.messages += 1
        pull.ack(message)
        if deliveries(message.reply) > 1:
            # Its first receiver is gone, or slow: whether the steps were lost is for their owner
            # to say, who then dispatches them again under new attempts.
            self._on_dropped("redelivered", len(batch.tasks))
            return
        self._on_received(len(batch.tasks))
        if not self._assignments.note_epoch(batch.shard, batch.epoch, batch.round):
            self._on_dropped("old_epoch", len(batch.tasks))
            return
        self._credit.observe(len(batch.tasks))
        route = (batch.namespace, batch.shard)
        tasks = self._outbox.unanswered(route, batch.tasks)
        if len(tasks) < len(batch.tasks):
            self._on_dropped("duplicate", len(batch.tasks) - len(tasks))
        origin = Origin(batch.shard, batch.namespace, batch.epoch, pinned)
        self._executor.submit(origin, tasks)
        if self._stopped or self._holds_back():
            # It was on its way when the drain, or the freeze, began.
            self._executor.hand_back()
        self.adjust()


def deliveries(reply: str) -> int:
    """Return how often a JetStream message was delivered, by its acknowledgement subject.

    ``$JS.ACK.<stream>.<consumer>.<deliveries>.…``, with domain and account in front of the stream
    where there is one (ADR-15 of NATS).
    """
    tokens = reply.split(".")
    place = 4 if len(tokens) == 9 else 6
    return int(tokens[place]) if len(tokens) > place and tokens[place].isdigit() else 1
