"""The control plane of one coordinator process, on its event loop.

Safety never depends on it: a shard's log is fenced, so two controllers that live side by side for
a moment, or a coordinator that acts on an old view, cost a take-over and nothing else. What it
gives is liveness: somebody is elected, and every shard has an owner soon after one is lost.

Changing how many coordinators there are
    Ids are stable ordinals and the list of peers comes from configuration. To go from 1 to 3, 3 to
    5, or back: start those that are new with the new list, then restart the others with it one by
    one, then stop those that are on no list any more. Coordinators with different lists do not
    talk Raft with each other. While both lists have a controller, the one with more living members
    rules, and the coordinators of the other own nothing; so shards move over at one moment, when
    the new list has more members than the old one. Nothing has to be stopped for it. (Two lists
    that share their majority rule one after the other; that a list without a majority of its own
    has no controller is Raft's business.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

import msgspec

from headrace.coordinator.control.controller import Policy
from headrace.coordinator.control.heartbeat import CoordinatorHeartbeat
from headrace.coordinator.control.machine import Command, Commit
from headrace.coordinator.control.member import Cadence, Member, OnAssignments
from headrace.coordinator.control.ports import (
    Clock,
    ControlBus,
    DialledBus,
    IncomingMessage,
    Redial,
    Subscribed,
)
from headrace.coordinator.control.raft import RaftTimings
from headrace.coordinator.control.transport import raft_subject
from headrace.coordinator.control.view import ControlState, state_hash
from headrace.errors import InvalidRequest, Unreachable
from headrace.messages import WorkerHeartbeat, decode, subjects

log = logging.getLogger(__name__)

REDIAL_TIMEOUT_S = 5.0
PROPOSAL_RESEND_S = 0.3


class ControlOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be set about a control plane; the defaults are meant for production."""

    policy: Policy = Policy()
    cadence: Cadence = Cadence()
    timings: RaftTimings | None = None
    """None: by the number of peers."""


class ControlStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Facts for `flowctl cluster status` and for metrics."""

    id: str
    controller: str
    """Who leads, as far as this coordinator knows; empty: nobody known."""
    term: int
    view: int
    view_hash: str
    ruling: bool
    log_entries: int
    rebuilds: dict[str, int]
    """Replicas replaced, by reason."""
    refused: dict[str, int]
    """Raft messages that were not taken, by reason; a new replica counts anew."""
    expected: int
    """Coordinators that are configured."""
    silence_s: float
    """Of the one that was heard least lately, as far as it could have been heard."""


class ControlPlane:
    """Takes part in the election, keeps the view, says which shards are ours.

    `start` it, `stop` it; everything happens on the loop that called `start`. *on_assignments* is
    called synchronously at each change of what this coordinator owns or keeps warm, and must not
    block. *redial* makes a fresh connection for a fresh replica (a connection may be what was
    wrong); a connection that it made is closed by us, the first *bus* never is.
    """

    def __init__(
        self,
        bus: ControlBus,
        *,
        coordinator_id: str,
        peers: Iterable[str],
        incarnation: str,
        clock: Clock,
        shards: Iterable[int] = (0,),
        release: str = "",
        feature_level: int = 0,
        archive: str = "",
        on_assignments: OnAssignments | None = None,
        on_rival: Callable[[], None] = lambda: None,
        options: ControlOptions | None = None,
        redial: Redial | None = None,
    ) -> None:
        options = options or ControlOptions()
        self._bus, self._redial = bus, redial
        self._dialled: DialledBus | None = None
        self._clock = clock
        self._member = Member(
            coordinator_id=coordinator_id,
            peers=peers,
            incarnation=incarnation,
            clock=clock,
            publish=self._publish,
            connected=lambda: self._bus.connected,
            shards=shards,
            release=release,
            feature_level=feature_level,
            archive=archive,
            policy=options.policy,
            cadence=options.cadence,
            timings=options.timings,
            on_assignments=on_assignments,
            on_commit=self._committed,
        )
        self._member.rival.stays = on_rival
        self._subscriptions: list[Subscribed] = []
        self._timer: asyncio.TimerHandle | None = None
        self._kicked: asyncio.Handle | None = None
        self._rebuilding: asyncio.Task[None] | None = None
        self._proposals: dict[str, asyncio.Future[None]] = {}
        self._watchers: set[asyncio.Event] = set()
        self._shown = (-1, False, 0)
        self._running = False

    # -- what is known -------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """This coordinator's id."""
        return self._member.id

    @property
    def view(self) -> ControlState:
        """The view agreed last; a snapshot, do not change it."""
        return self._member.view

    @property
    def number(self) -> int:
        """Number of the view; where several coordinators agree, it rises once a second."""
        return self._member.view.number

    async def newer(self, *, timeout_s: float) -> None:
        """Return when there is a newer view than now; or after *timeout_s*."""
        known = self.number
        with contextlib.suppress(Unreachable):
            await self.wait_until(lambda: self.number != known, timeout_s=timeout_s)

    @property
    def is_controller(self) -> bool:
        """This coordinator decides at the moment; another may think the same for a moment."""
        return self._member.is_controller

    @property
    def owned(self) -> dict[int, int]:
        """{shard: generation} of what we own by the view."""
        return dict(self._member.owned)

    @property
    def standby(self) -> frozenset[int]:
        """Shards that we keep warm."""
        return self._member.standby

    @property
    def drained(self) -> bool:
        """We own nothing any more."""
        return self._member.draining and not self._member.owned

    def status(self) -> ControlStatus:
        """Return the figures."""
        member = self._member
        return ControlStatus(
            id=member.id,
            controller=member.replica.leader,
            term=member.replica.term,
            view=member.view.number,
            view_hash=state_hash(member.view),
            ruling=member.ruling,
            log_entries=member.replica.log_entries,
            rebuilds=dict(member.rebuilds),
            refused=dict(member.replica.transport.refused),
            expected=len(member.members),
            silence_s=max(
                member.coordinators.silence_s(peer, self._clock.monotonic())
                for peer in member.members
            ),
        )

    def living_coordinators(self) -> list[CoordinatorHeartbeat]:
        """Return the latest heartbeats of those that live (backlogs: to split credit by)."""
        expire_s = self._member.policy.registry.coordinator_expire_s
        return list(self._member.coordinators.fresh(self._clock.monotonic(), expire_s))

    async def wait_until(self, reached: Callable[[], bool], *, timeout_s: float) -> None:
        """Return when *reached()* is true; asked after each change of the view or of our part.

        Raises `Unreachable` after *timeout_s*.
        """
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            async with asyncio.timeout(timeout_s):
                while not reached():
                    changed.clear()
                    await changed.wait()
        except TimeoutError as error:
            raise Unreachable(f"the control plane is not there after {timeout_s} s") from error
        finally:
            self._watchers.discard(changed)

    # -- what may be asked ---------------------------------------------------------------------

    def start(self) -> None:
        """Subscribe and begin; returns at once."""
        assert not self._running, "started twice"
        self._running = True
        self._subscribe()
        self._on_timer()

    async def stop(self) -> None:
        """Say good-bye, so that shards move at once, and end. Twice is fine."""
        if not self._running:
            return
        self._running = False
        if self._rebuilding is not None:
            self._rebuilding.cancel()
            await asyncio.gather(self._rebuilding, return_exceptions=True)
        for handle in (self._timer, self._kicked):
            if handle is not None:
                handle.cancel()
        self._member.stopped = True
        self._member.beat()
        self._unsubscribe()
        self._member.close()
        for proposal in self._proposals.values():
            proposal.cancel()
        if self._dialled is not None:
            await self._dialled.close()

    async def drain(self, *, timeout_s: float) -> None:
        """Have our shards moved away; return when we own none.

        Raises `Unreachable` after *timeout_s*, also when there is nobody to take them.
        """
        self._member.draining = True
        self._member.beat()
        await self.wait_until(lambda: self.drained, timeout_s=timeout_s)

    def advertise(self, *, backlog: int, skew_ms: int = 0) -> None:
        """Set what the next heartbeats tell: steps that wait here, own clock minus the broker's."""
        self._member.backlog, self._member.skew_ms = backlog, skew_ms

    def expect_shards(self, shards: Iterable[int]) -> None:
        """Set which shards should have an owner; counts while we are the controller."""
        self._member.expected = frozenset(shards)

    def require_feature_level(self, level: int) -> None:
        """Give no shard to a coordinator below *level*; counts while we are the controller."""
        self._member.require_feature_level(level)

    async def propose(self, command: Command, *, timeout_s: float = 5.0) -> None:
        """Have a command committed; return when it has been applied here.

        Sent again and again under one request id, and applied once. Raises `Unreachable` after
        *timeout_s*: the outcome is unknown then.
        """
        assert self._running, "not started"
        request = self._member.propose(command)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._proposals[request] = done
        try:
            async with asyncio.timeout(timeout_s):
                while not done.done():
                    self._kick()
                    await asyncio.wait([done], timeout=PROPOSAL_RESEND_S)
                    if not done.done():
                        self._member.propose(command, request=request)
            await done
        except TimeoutError as error:
            raise Unreachable(f"not committed within {timeout_s} s") from error
        finally:
            del self._proposals[request]

    # -- messages ------------------------------------------------------------------------------

    def _publish(self, subject: str, payload: bytes, /) -> bool:
        return self._bus.publish(subject, payload)

    def _subscribe(self) -> None:
        for subject, callback in (
            (raft_subject(self.id), self._on_raft),
            (subjects.coordinator_heartbeat("*"), self._on_coordinator),
            (subjects.WORKER_HEARTBEATS, self._on_worker),
        ):
            self._subscriptions.append(self._bus.subscribe(subject, callback))

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions.clear()

    def _on_raft(self, message: IncomingMessage) -> None:
        if self._running and self._member.hear_raft(message.data):
            self._kick()

    def _on_coordinator(self, message: IncomingMessage) -> None:
        self._member.hear_coordinator(message.subject, message.data)

    def _on_worker(self, message: IncomingMessage) -> None:
        try:
            beat = decode(WorkerHeartbeat, message.data)
        except InvalidRequest as error:
            log.warning(
                "heartbeat not understood", extra={"subject": message.subject, "error": str(error)}
            )
            return
        self._member.hear_worker(message.subject, beat)

    # -- time ----------------------------------------------------------------------------------

    def _kick(self) -> None:
        """Let Raft act at once, once for all messages that wait."""
        if self._kicked is None:
            self._kicked = asyncio.get_running_loop().call_soon(self._on_kick)

    def _on_kick(self) -> None:
        self._kicked = None
        if self._running:
            self._act(self._member.tick_raft)

    def _on_timer(self) -> None:
        if not self._running:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._member.tick_s, self._on_timer)
        self._act(self._member.tick)

    def _act(self, tick: Callable[[], None]) -> None:
        try:
            tick()
        except Exception:
            # The ticks must go on: a controller that stands still is worse than one that errs.
            log.exception("control plane tick failed")
        if self._member.sick and self._rebuilding is None:
            self._rebuilding = asyncio.get_running_loop().create_task(
                self._rebuild(self._member.sick), name=f"rebuild {self.id}"
            )
        now = (self._member.view.number, self._member.is_controller, len(self._member.owned))
        if now != self._shown:
            self._shown = now
            for watcher in self._watchers:
                watcher.set()

    async def _rebuild(self, reason: str) -> None:
        try:
            if self._redial is not None:
                await self._reconnect(self._redial)
            self._member.rebuild(reason)
        except Exception:
            log.exception("raft replica not replaced")
        finally:
            self._rebuilding = None

    async def _reconnect(self, redial: Redial) -> None:
        try:
            async with asyncio.timeout(REDIAL_TIMEOUT_S):
                fresh = await redial()
        except (TimeoutError, Unreachable) as error:
            log.warning("no fresh connection", extra={"error": str(error)})
            return
        former = self._dialled
        self._unsubscribe()
        self._bus = self._dialled = fresh
        self._subscribe()
        if former is not None:
            await former.close()

    def _committed(self, commit: Commit) -> None:
        proposal = self._proposals.get(commit.request)
        if proposal is not None and not proposal.done():
            proposal.set_result(None)
