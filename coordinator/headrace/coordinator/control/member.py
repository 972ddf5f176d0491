"""One coordinator's part in the control plane, without an event loop: tick it, feed it messages.

It owns the Raft replica and replaces it when that is beyond help, hears heartbeats and sends its
own, and, while elected, decides and commits. The view that it shows is never older than the last
one shown: a fresh replica replays the past behind the curtain.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from headrace.coordinator.control.controller import Observation, Policy, decide, speaks
from headrace.coordinator.control.heartbeat import (
    HEARTBEAT_VERSION,
    CoordinatorHeartbeat,
    HeartbeatTable,
    check_members,
    decode_heartbeat,
    encode_heartbeat,
    membership_digest,
)
from headrace.coordinator.control.machine import (
    Command,
    Commit,
    TakeControl,
    apply_commit,
    decode_commit,
    encode_commit,
    heal_of,
)
from headrace.coordinator.control.ports import Clock
from headrace.coordinator.control.raft import (
    PAYLOAD_BYTES_MAX,
    RaftTimings,
    Replica,
    StateMachine,
)
from headrace.coordinator.control.registry import refreshed
from headrace.coordinator.control.rivals import Rival
from headrace.coordinator.control.transport import Publish
from headrace.coordinator.control.view import (
    ControlState,
    decode_state,
    encode_state,
    state_hash,
)
from headrace.errors import LimitExceeded
from headrace.messages import UNREADABLE, WorkerHeartbeat, subjects

log = logging.getLogger(__name__)

OnAssignments: TypeAlias = Callable[[dict[int, int], frozenset[int]], None]
"""Called with ({shard: generation} that we own, shards that we keep warm)."""


class Cadence(msgspec.Struct, frozen=True, kw_only=True):
    """How often things happen, in seconds."""

    heartbeat_s: float = 0.15
    decide_s: float = 0.05
    workers_s: float = 0.5
    heal_s: float = 1.0
    """Also what makes the view number advance in a cluster where nothing happens."""
    resend_s: float = 0.5
    """A commit that is not seen by then is given up; the next decision makes a new one."""
    stuck_s: float = 3.0
    """A view number that stands still for so long, while a majority lives, ends the replica."""
    stall_s: float = 0.3
    """A gap between ticks after which every node's silence is counted anew."""


SLACK_S = 0.01
"""A timer that is early by a hair must not put a heartbeat off until the next one."""


class _ViewHost(StateMachine):
    def __init__(self, on_commit: Callable[[Commit], None]) -> None:
        self.state = ControlState()
        self._on_commit = on_commit

    def apply(self, payload: bytes, index: int) -> None:
        try:
            commit = decode_commit(payload)
        except UNREADABLE:
            # A newer release's command: the same gap on every replica that does not know it.
            self.state.number = index
            raise
        apply_commit(self.state, commit, index=index)
        self._on_commit(commit)

    def dump(self) -> bytes:
        return zlib.compress(encode_state(self.state), 1)

    def load(self, data: bytes) -> None:
        self.state = decode_state(zlib.decompress(data))


class _Reign(msgspec.Struct):
    """The time during which we are the controller."""

    term: int
    since_s: float
    confirmed: bool = False
    """Our first command has been applied: so has everything that was committed before."""
    waiting_for: str = ""
    """Request of the commit in flight."""
    sent_s: float = 0.0
    decided_s: float = 0.0
    workers_s: float = 0.0
    healed_s: float = 0.0
    seeded: bool = False


class Member:
    """See the module. Not thread-safe; belongs to one event loop, or to a simulation."""

    def __init__(
        self,
        *,
        coordinator_id: str,
        peers: Iterable[str],
        incarnation: str,
        clock: Clock,
        publish: Publish,
        connected: Callable[[], bool],
        shards: Iterable[int] = (0,),
        release: str = "",
        feature_level: int = 0,
        archive: str = "",
        policy: Policy | None = None,
        cadence: Cadence | None = None,
        timings: RaftTimings | None = None,
        on_assignments: OnAssignments | None = None,
        on_commit: Callable[[Commit], None] | None = None,
    ) -> None:
        self.id, self.incarnation = coordinator_id, incarnation
        self.members = frozenset(peers)
        check_members(self.members, coordinator_id)
        self.membership = membership_digest(self.members)
        self.policy, self.cadence = policy or Policy(), cadence or Cadence()
        self.expected = frozenset(shards)
        self.coordinators: HeartbeatTable[CoordinatorHeartbeat] = HeartbeatTable()
        self.workers: HeartbeatTable[WorkerHeartbeat] = HeartbeatTable()
        self.view = ControlState()
        self.owned: dict[int, int] = {}
        self.standby: frozenset[int] = frozenset()
        self.ruling = True
        """Our list of peers is the one that rules (see `controller.speaks`)."""
        self.sick = ""
        """Why the replica should be replaced with `rebuild`; empty: it is well."""
        self.rebuilds: dict[str, int] = {}
        self.backlog = self.skew_ms = 0
        self.draining = self.stopped = False
        self._release, self._feature_level = release, feature_level
        self._archive = archive
        self._clock, self._publish, self._connected = clock, publish, connected
        self._timings = timings
        self._on_assignments, self._on_commit = on_assignments, on_commit
        self._rivals: dict[str, float] = {}
        self._requests = 0
        self._reign: _Reign | None = None
        self._birth = 0
        self._view_hash = ""
        self._started_ms = clock.now_ms()
        self.rival = Rival(incarnation, self._started_ms)
        now_s = clock.monotonic()
        self._ticked_s = self._advanced_s = now_s
        self._beat_s = self._looked_s = float("-inf")
        self._number_seen, self._was_up = -1, False
        self._stuck_after_s = 0.0
        self.coordinators.deaf(now_s)
        self.workers.deaf(now_s)
        self._make_replica()

    # -- for the owner -------------------------------------------------------------------------

    @property
    def is_controller(self) -> bool:
        """We are elected, know everything committed before, and our list of peers rules."""
        reign = self._reign
        return (
            self.ruling
            and reign is not None
            and reign.confirmed
            and self.replica.is_leader
            and self.replica.term == reign.term
        )

    @property
    def tick_s(self) -> float:
        """How soon the next tick is due."""
        if len(self.members) > 1 or not self.replica.is_leader:
            return self.replica.timings.tick_s
        reign = self._reign
        rests = reign is not None and reign.confirmed and not reign.waiting_for
        if not rests or self.draining or self.expected - self.owned.keys():
            return RaftTimings().tick_s
        # Nobody can stand against us: nothing is due but our own heartbeats.
        return self.cadence.heartbeat_s + SLACK_S

    def tick(self) -> None:
        """Do what is due."""
        now_s = self._clock.monotonic()
        self._notice_deafness(now_s)
        self.tick_raft()
        if now_s - self._beat_s >= self.cadence.heartbeat_s:
            self._beat_s = now_s
            self.beat()
        if now_s - self._looked_s >= self.cadence.decide_s:
            self._looked_s = now_s
            self._look(now_s)
        self._control(now_s)
        self._check_health(now_s)

    def tick_raft(self) -> None:
        """Let Raft alone act: at once after a message."""
        self.replica.tick()
        if self.replica.failed and not self.sick:
            self.sick = self.replica.failed
        self._show()

    def hear_raft(self, data: bytes) -> bool:
        """Take a Raft message; True when `tick_raft` should follow."""
        return self.replica.receive(data)

    def hear_coordinator(self, subject: str, data: bytes) -> None:
        """Take a coordinator's heartbeat."""
        try:
            beat = decode_heartbeat(data)
        except UNREADABLE as error:
            log.warning("heartbeat not understood", extra={"subject": subject, "error": str(error)})
            return
        if subject != subjects.coordinator_heartbeat(beat.id):
            log.warning("heartbeat under a wrong name", extra={"subject": subject, "node": beat.id})
            return
        if beat.id == self.id and beat.incarnation == self.incarnation:
            return
        now_s = self._clock.monotonic()
        new = self.coordinators.hear(beat, now_s)
        if beat.id == self.id:
            if new:
                log.error("another process runs under our id", extra={"other": beat.incarnation})
            self.rival.heard(beat, now_s)

    def hear_worker(self, subject: str, beat: WorkerHeartbeat) -> None:
        """Take a worker's heartbeat."""
        if subject == beat.subject:
            self.workers.hear(beat, self._clock.monotonic())
        else:
            log.warning("heartbeat under a wrong name", extra={"subject": subject, "node": beat.id})

    def beat(self) -> None:
        """Publish our heartbeat now, and take note of it ourselves."""
        beat = CoordinatorHeartbeat(
            version=HEARTBEAT_VERSION,
            id=self.id,
            incarnation=self.incarnation,
            started_ms=self._started_ms,
            sent_ms=self._clock.now_ms(),
            membership=self.membership,
            members=len(self.members),
            release=self._release,
            feature_level=self._feature_level,
            backlog=self.backlog,
            skew_ms=self.skew_ms,
            view=self.view.number,
            view_hash=self._view_hash,
            controller=self._reign is not None and self._reign.confirmed,
            term=self.replica.term,
            owned=self.owned,
            draining=self.draining,
            stopped=self.stopped,
            own_archive=self._archive == "sqlite",
            archive=self._archive,
        )
        self.coordinators.hear(beat, self._clock.monotonic())
        if self._connected():
            self._publish(subjects.coordinator_heartbeat(self.id), encode_heartbeat(beat))

    def propose(self, *commands: Command, request: str = "") -> str:
        """Ask for commands to be committed; return the request id to look out for.

        May be lost: propose again with the same *request*, it is applied once. Raises
        `LimitExceeded` when too large.
        """
        request = request or self._new_request()
        self.replica.commit(encode_commit(Commit(request=request, commands=commands)))
        return request

    def require_feature_level(self, level: int) -> None:
        """Give no shard to a coordinator whose release knows less than *level*."""
        placement = msgspec.structs.replace(self.policy.placement, feature_level_min=level)
        self.policy = msgspec.structs.replace(self.policy, placement=placement)

    def rebuild(self, reason: str) -> None:
        """Replace the replica with a fresh one; the view that is shown stays as it is."""
        log.warning("raft replica replaced", extra={"reason": reason, "view": self.view.number})
        self.rebuilds[reason] = self.rebuilds.get(reason, 0) + 1
        self.replica.close()
        self._make_replica()

    def close(self) -> None:
        """End the replica."""
        self.replica.close()

    # -- the replica ---------------------------------------------------------------------------

    def _make_replica(self) -> None:
        now_s = self._clock.monotonic()
        self._birth = max(self._birth + 1, self._clock.now_ms())
        self._host = _ViewHost(self._committed)
        self._reign, self.sick = None, ""
        self.replica = Replica(
            me=self.id,
            peers=self.members,
            membership=self.membership,
            birth=self._birth,
            machine=self._host,
            publish=self._publish,
            connected=self._connected,
            monotonic=self._clock.monotonic,
            timings=self._timings,
        )
        self._number_seen = -1
        self._still(now_s + self.replica.timings.mute_s)

    def _still(self, now_s: float) -> None:
        """Start counting anew how long the view stands still."""
        self._advanced_s = now_s
        # Chance keeps replicas that are stuck together from starting anew together.
        self._stuck_after_s = self.cadence.stuck_s * (1 + 0.5 * random.random())

    def _notice_deafness(self, now_s: float) -> None:
        up = self._connected()
        if now_s - self._ticked_s > self.cadence.stall_s or (up and not self._was_up):
            self.coordinators.deaf(now_s)
            self.workers.deaf(now_s)
            self._still(now_s)
        self._ticked_s, self._was_up = now_s, up

    def _check_health(self, now_s: float) -> None:
        if self._host.state.number != self._number_seen:
            self._number_seen = self._host.state.number
            self._still(max(now_s, self._advanced_s))
        if len(self.members) == 1 or self.sick:
            return
        if not self._connected() or not self._majority(now_s):
            self._still(now_s)
        elif now_s - self._advanced_s > self._stuck_after_s:
            self.sick = "stuck"

    def _majority(self, now_s: float) -> bool:
        within_s = self.policy.registry.coordinator_expire_s
        living = sum(
            beat.membership == self.membership and beat.id in self.members
            for beat in self.coordinators.fresh(now_s, within_s)
        )
        return 2 * living > len(self.members)

    # -- the view ------------------------------------------------------------------------------

    def _show(self) -> None:
        state = self._host.state
        if state.number == self.view.number and state.changed == self.view.changed:
            return
        if not state.coordinators or not self.replica.caught_up:
            return
        self.view = state.copy()
        self._view_hash = state_hash(state)
        self._tell_assignments()

    def _tell_assignments(self) -> None:
        owned: dict[int, int] = {}
        if self.ruling:
            owned = self.view.owned_by(self.id, self.incarnation)
            # A controller that learns everything anew says nothing yet of what we hold.
            for shard, generation in self.owned.items():
                if shard in self.expected and shard not in self.view.shards:
                    owned[shard] = generation
        standby = self.view.standby_of(self.id) - owned.keys()
        if (owned, standby) == (self.owned, self.standby):
            return
        self.owned, self.standby = owned, standby
        self._beat_s = float("-inf")  # tell the others with the next tick
        if self._on_assignments is not None:
            try:
                self._on_assignments(dict(owned), standby)
            except Exception:
                log.exception("assignment callback failed", extra={"owned": sorted(owned)})

    def _look(self, now_s: float) -> None:
        own = self.coordinators.get(self.id)
        if own is None or own.beat.incarnation != self.incarnation:
            return
        ruling = speaks(
            self.coordinators,
            own.beat,
            now_s=now_s,
            expire_s=self.policy.registry.coordinator_expire_s,
            rivals=self._rivals,
        )
        if ruling != self.ruling:
            log.warning("rule of our peer list changed", extra={"ruling": ruling})
            self.ruling = ruling
            self._tell_assignments()

    # -- the controller ------------------------------------------------------------------------

    def _control(self, now_s: float) -> None:
        if self.replica.failed or not self.replica.is_leader:
            self._reign = None
            return
        reign = self._reign
        if reign is None or reign.term != self.replica.term:
            reign = self._reign = _Reign(self.replica.term, now_s)
        if reign.waiting_for and now_s - reign.sent_s < self.cadence.resend_s:
            return
        if not reign.confirmed:
            self._commit(reign, [TakeControl(self.id, reign.term)], now_s)
        elif self._seed(reign, now_s) or self._heal(reign, now_s):
            return
        elif self.ruling and now_s - reign.decided_s >= self.cadence.decide_s:
            self._decide(reign, now_s)

    def _decide(self, reign: _Reign, now_s: float) -> None:
        reign.decided_s = now_s
        workers_too = now_s - reign.workers_s >= self.cadence.workers_s
        if workers_too:
            reign.workers_s = now_s
        seen = Observation(
            coordinators=self.coordinators,
            workers=self.workers,
            members=self.members,
            membership=self.membership,
            expected=self.expected,
            since_s=max(reign.since_s, self.coordinators.listening_since_s),
            now_s=now_s,
            now_ms=self._clock.now_ms(),
        )
        commands = decide(self._host.state, seen, self.policy, workers_too=workers_too)
        if commands:
            # There may be more than one commit holds: look again at once.
            reign.workers_s = 0.0
            self._commit(reign, commands, now_s)

    def _seed(self, reign: _Reign, now_s: float) -> bool:
        """Once a reign: start from what we showed last, if all replicas have forgotten it."""
        if reign.seeded:
            return False
        reign.seeded = True
        state = self._host.state
        if state.coordinators or not self.view.coordinators:
            return False
        seed = self.view.copy()
        seed.number, seed.changed = state.number, state.changed
        seed.term, seed.controller = state.term, state.controller
        self._commit(reign, [heal_of(seed)], now_s)
        return True

    def _heal(self, reign: _Reign, now_s: float) -> bool:
        if len(self.members) == 1 or now_s - reign.healed_s < self.cadence.heal_s:
            return False
        reign.healed_s = now_s
        self._commit(reign, [heal_of(refreshed(self._host.state, self.coordinators))], now_s)
        return True

    def _commit(self, reign: _Reign, commands: list[Command], now_s: float) -> None:
        request = self._new_request()
        commit = Commit(request=request, term=reign.term, commands=tuple(commands))
        payload = encode_commit(commit)
        while len(payload) > PAYLOAD_BYTES_MAX and len(commands) > 1:
            # The rest is decided again once these are applied; their order holds.
            commands = commands[: len(commands) // 2]
            payload = encode_commit(msgspec.structs.replace(commit, commands=tuple(commands)))
        reign.waiting_for, reign.sent_s = request, now_s
        try:
            self.replica.commit(payload)
        except LimitExceeded as error:
            log.error("commit too large", extra={"error": str(error)})
        self.tick_raft()

    def _committed(self, commit: Commit) -> None:
        reign = self._reign
        if reign is not None and reign.waiting_for == commit.request:
            reign.waiting_for = ""
            if not reign.confirmed:
                reign.confirmed = True
                log.info("took control", extra={"term": reign.term})
        if self._on_commit is not None:
            self._on_commit(commit)

    def _new_request(self) -> str:
        self._requests += 1
        return f"{self.incarnation}-{self._requests}"
