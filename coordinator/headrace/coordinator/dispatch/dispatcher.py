"""One coordinator's dispatch: who works, which lanes there are, what is lost, who may send.

A worker counts as lost by what was *heard*: an echo of our own tells up to when everything that
the broker had for us has arrived. While it does not come back (no connection, a frozen broker, a
stalled loop of ours), and for one lease after, silence means nothing.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable

from headrace.bus import Bus, Message
from headrace.coordinator.core.ready import PREFERRED, Lane
from headrace.coordinator.dispatch.credit import Claim, Credits, Pool, Settings, tasks_a_message
from headrace.coordinator.dispatch.fleet import Fleet, WorkerRecord
from headrace.coordinator.dispatch.lanes import Lanes
from headrace.coordinator.dispatch.oversized import Oversized
from headrace.coordinator.dispatch.shard import ShardDispatch
from headrace.coordinator.traces import Traces
from headrace.errors import Busy, InvalidRequest
from headrace.messages import LaneOffer, WorkerHeartbeat, decode, encode, subjects
from headrace.telemetry import Clock

__all__ = ["Dispatcher", "Settings", "ShardDispatch"]

log = logging.getLogger(__name__)

UNHELD_MS = 2_200
"""A delivered step that nobody holds for two heartbeats is looked after."""
TOLD_MS = 1_000
"""A heartbeat this long after a delivery lists what was delivered (see `held_since_ms`)."""
LOOK_MS = 300
"""From then on it is worth asking the broker whether it was delivered."""
RETURN_MS = 10_000
"""A lost worker may come back for so long and take its jobs' workspaces up again."""
FORGET_MS = 2 * RETURN_MS
"""A lost worker that nobody wants for so long is forgotten; wanted again, it is waited for anew."""
LANE_KEPT_MS = 10_000
"""A lane unused for so long makes room for another, when the namespace has all it may have."""
DEAF_MS = 1_000
"""An echo that takes longer: we have not heard what there was to hear."""


class Dispatcher:
    """Workers, as one coordinator process sees them. Times are ms of the monotonic clock."""

    def __init__(self, bus: Bus, clock: Clock, lanes: Lanes, settings: Settings) -> None:
        self.bus, self.clock, self.lanes, self.settings = bus, clock, lanes, settings
        self.fleet = Fleet(settings.lease_ms)
        self.credits = Credits(settings)
        self.oversized = Oversized(bus)
        self.shards: dict[int, ShardDispatch] = {}
        self.share: Callable[[], float] = lambda: 1.0
        """Part of the workers' slots that is ours (set by the control plane)."""
        self.traces: Traces | None = None
        """Wants to know of dispatches of traced runs."""
        self.on_results: Callable[[int, int, str], None] = lambda _waited_ms, _took_ms, _trace: None
        """Told of a step of each batch of results: until its start, until its end; its trace."""
        self.on_lapsed: Callable[[int], None] = lambda _count: None
        """Told of steps whose holder is lost."""
        self.message_tasks_seen: Counter[float] = Counter()
        """Steps in a message -> messages with so many; whoever counts them clears it."""
        self.heartbeats = self.workers_lost = self.unheld = 0
        """Heartbeats heard, workers fallen silent, steps delivered to nobody. They only grow."""
        self.lane_capabilities: dict[tuple[str, str], tuple[str, ...]] = {}
        """(namespace, wire lane) -> capabilities of lanes in use."""
        self._used_ms: dict[tuple[str, str], int] = {}
        self._absent_since: dict[str, int] = {}
        self._wanted_ms: dict[str, int] = {}
        """Absent worker -> when it was wanted last."""
        self.missing_since: dict[str, int] = {}
        """Capability -> since when (wall clock) nobody offers it."""
        self._pools: dict[str, Pool] = {}
        self._pools_version = -1
        self._dead_lanes: list[tuple[str, str]] = []
        self._delivered: dict[str, deque[tuple[int, int]]] = {}
        """Wire lane -> (when looked, everything sent before that time was delivered)."""
        self._started_ms = self.heard_upto_ms = self.now_ms()
        """Whatever the broker had for us then has been heard."""
        self._echo = bus.new_inbox()
        self._subscriptions = [
            bus.subscribe(subjects.WORKER_HEARTBEATS, self._heard),
            bus.subscribe(self._echo, self._echoed),
        ]
        self._up = bus.on_up(self._reconnected)
        lanes.on_stream_lost = self._stream_lost

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            subscription.close()
        self._up()
        self.oversized.close()
        self.lanes.close()

    def now_ms(self) -> int:
        """Return the time by the monotonic clock."""
        return int(self.clock.monotonic() * 1_000)

    def wall_ms(self, monotonic_ms: int) -> int:
        """Return what the wall clock showed at a time of the monotonic clock."""
        return self.clock.now_ms() - (self.now_ms() - monotonic_ms)

    def has(self, shard: ShardDispatch) -> bool:
        """Tell whether a shard is still ours, in this ownership."""
        return self.shards.get(shard.shard) is shard

    def leave(self, shard: ShardDispatch) -> None:
        """A shard is not ours any more."""
        if self.shards.get(shard.shard) is shard:
            del self.shards[shard.shard]
            self.credits.forget(shard.shard)
            self.lanes.drop_shard(shard.shard)

    # -- heartbeats ---------------------------------------------------------------------------

    def _heard(self, message: Message) -> None:
        try:
            heartbeat = decode(WorkerHeartbeat, message.data)
        except InvalidRequest as error:
            log.warning("heartbeat not understood", extra={"error": str(error)})
            return
        if message.subject != heartbeat.subject:
            # Permissions on subjects mean something only if the payload agrees.
            log.warning(
                "heartbeat refused: wrong subject",
                extra={"worker": heartbeat.id, "subject": message.subject},
            )
            return
        self.heard(heartbeat)

    def heard(self, heartbeat: WorkerHeartbeat) -> None:
        """Take a heartbeat: who lives, what it holds, which lanes it lacks."""
        self.heartbeats += 1
        now_ms = self.now_ms()
        version = self.fleet.version
        before = self.fleet.workers.get(heartbeat.id)
        if not self.fleet.heard(heartbeat, now_ms):
            return
        if before is not None and self.fleet.workers.get(heartbeat.id) is not before:
            self._forget_life(before.heartbeat)
        self._absent_since.pop(heartbeat.id, None)
        self._wanted_ms.pop(heartbeat.id, None)
        for shard in self.shards.values():
            shard.heard(heartbeat, now_ms)
        if not heartbeat.stopped and not heartbeat.draining:
            self._offer_lanes(heartbeat)
        if self.fleet.version != version:
            self._forget_missing()
            for shard in self.shards.values():
                shard.wake()

    def _forget_missing(self) -> None:
        for label in list(self.missing_since):
            if any(label.lower() in record.capabilities for record in self.fleet.workers.values()):
                del self.missing_since[label]

    def _echoed(self, message: Message) -> None:
        sent_ms = int(message.data)
        if sent_ms - self.heard_upto_ms > DEAF_MS:
            self.fleet.blind_until(sent_ms)
        self.heard_upto_ms = max(self.heard_upto_ms, sent_ms)

    # -- lanes --------------------------------------------------------------------------------

    def _offer_lanes(self, heartbeat: WorkerHeartbeat) -> None:
        record = self.fleet.workers.get(heartbeat.id)
        if record is None:
            return
        own = subjects.pinned_lane(heartbeat.id, heartbeat.incarnation)
        for (namespace, lane), needed in list(self.lane_capabilities.items()):
            if namespace != heartbeat.namespace or lane in heartbeat.lanes:
                continue
            mine = lane == own if lane.startswith("@") else record.offers(needed)
            if mine:
                # The consumer may have gone (idle for long, broker restarted): look again.
                self.lanes.forget(namespace, lane)
                self.offer(namespace, lane, needed)

    def use(self, namespace: str, lane: str, needed: tuple[str, ...]) -> None:
        """Something was sent to a lane: there must be a consumer, and workers that know of it."""
        key = (namespace, lane)
        self._used_ms[key] = self.now_ms()
        if key not in self.lane_capabilities:
            if lane.startswith("@"):
                # Whatever the steps need: the lane is this worker's.
                needed = ()
            self.lane_capabilities[key] = needed
            self.offer(namespace, lane, needed)

    def offer(self, namespace: str, lane: str, needed: tuple[str, ...]) -> None:
        """Make the lane's consumer if need be, and offer it to the workers that can serve it."""

        def tell() -> None:
            order = encode(LaneOffer(lane, self.lanes.consumer(namespace, lane), list(needed)))
            for record in self._serving(namespace, lane, needed):
                self._order(record, order)

        self.lanes.ensure(namespace, lane, tell)

    def _serving(self, namespace: str, lane: str, needed: tuple[str, ...]) -> list[WorkerRecord]:
        if not lane.startswith("@"):
            return self.fleet.able(namespace, needed)
        worker, _, incarnation = lane[1:].rpartition("-")
        record = self.fleet.workers.get(worker)
        return [record] if record and record.heartbeat.incarnation == incarnation else []

    def _order(self, record: WorkerRecord, order: bytes) -> None:
        heartbeat = record.heartbeat
        try:
            self.bus.publish(heartbeat.orders, order)
        except Busy as error:
            # All orders are given again.
            log.debug("order not sent", extra={"worker": heartbeat.id, "error": str(error)})

    def broadcast(self, namespace: str, order: bytes, *, worker: str = "") -> None:
        """Send an order to one worker (``<id>.<incarnation>``), or to all of a namespace."""
        if worker:
            record = self.fleet.workers.get(worker.partition(".")[0])
            if record is not None and record.name == worker:
                self._order(record, order)
            return
        for record in self.fleet.workers.values():
            if not namespace or record.heartbeat.namespace == namespace:
                self._order(record, order)

    # -- losses -------------------------------------------------------------------------------

    def _reconnected(self) -> None:
        self.fleet.blind_until(self.now_ms())

    def _stream_lost(self) -> None:
        for shard in self.shards.values():
            shard.stream_lost()

    def expire(self) -> None:
        """Note the dead, repeat orders; call it several times a second."""
        now_ms = self.now_ms()
        try:
            sent = self.bus.publish(self._echo, b"%d" % now_ms)
        except Busy:
            sent = False
        if not sent or now_ms - self.heard_upto_ms > DEAF_MS:
            self._deaf(now_ms)
            return
        for record in self.fleet.expire(self.heard_upto_ms):
            heartbeat = record.heartbeat
            self.workers_lost += 1
            log.warning("worker lost", extra={"worker": heartbeat.id})
            self._forget_life(heartbeat)
        for shard in self.shards.values():
            shard.repeat_orders(now_ms)

    def _deaf(self, now_ms: int) -> None:
        self.fleet.blind_until(now_ms)
        # Who was wanted may have come back meanwhile.
        self._absent_since = dict.fromkeys(self._absent_since, now_ms)

    def _forget_life(self, heartbeat: WorkerHeartbeat) -> None:
        """A life of a worker is over: nobody reads its own lane any more."""
        lane = subjects.pinned_lane(heartbeat.id, heartbeat.incarnation)
        self._drop_lane((heartbeat.namespace, lane))
        # Now, for the life may be heard of again before anybody looks whether it lives.
        for shard in self.shards.values():
            shard.drop_unheld([lane], self.now_ms() + 1)

    def _drop_lane(self, key: tuple[str, str]) -> None:
        self._used_ms.pop(key, None)
        if self.lane_capabilities.pop(key, None) is not None:
            self._dead_lanes.append(key)

    async def look_after(self) -> None:
        """Repeat unacknowledged publishes; look for dispatched steps that nobody has.

        Raises nothing but `HeadraceError`; call it about twice a second.
        """
        self.lanes.repeat()
        if not self.bus.connected:
            return
        if self.lanes.doubtful:
            await self.lanes.start()
        for (namespace, lane), needed in list(self.lane_capabilities.items()):
            # Lost with the stream, idle for too long, or never made: workers that pull from it
            # still list it, so that no heartbeat would tell.
            if not self.lanes.is_made(namespace, lane):
                self.offer(namespace, lane, needed)
        await self._look_for_unheld()
        while self._dead_lanes:
            key = self._dead_lanes[0]
            if key not in self.lane_capabilities:
                await self.lanes.remove(*key)
            self._dead_lanes.remove(key)

    async def _look_for_unheld(self) -> None:
        if self.fleet.is_blind(self.heard_upto_ms):
            # What we heard before says nothing about who holds what now.
            self._delivered.clear()
            return
        before_ms = self.now_ms() - LOOK_MS
        suspects: set[str] = set()
        for shard in self.shards.values():
            suspects |= shard.leases.suspects(before_ms=before_ms)
        for lane in [lane for lane in self._delivered if lane not in suspects]:
            del self._delivered[lane]
        for namespace, lane in list(self.lane_capabilities):
            if lane in suspects:
                await self._look_at_lane(namespace, lane)

    async def _look_at_lane(self, namespace: str, lane: str) -> None:
        """Lose what was delivered two heartbeats ago and is held by nobody."""
        if self._is_deserted(namespace, lane):
            # Orders cannot reach what waits there, and it would run before whatever is more urgent.
            await self.lanes.recall(namespace, lane, list(self.shards))
        upto_ms = await self.lanes.delivered_upto(namespace, lane)
        now_ms = self.now_ms()
        seen = self._delivered.setdefault(lane, deque())
        seen.append((now_ms, upto_ms))
        records = [r for r in self.fleet.workers.values() if r.heartbeat.namespace == namespace]
        # Whoever may have it has said since then what it holds: a silent one keeps it until its
        # lease lapses. Or it was delivered before any of them was heard of: to the dead, then.
        told_ms = min((record.last_seen_ms for record in records), default=now_ms) - TOLD_MS
        newest_ms = min((record.first_seen_ms for record in records), default=0)
        settled_ms = 0
        while seen and (seen[0][0] <= min(now_ms - UNHELD_MS, told_ms) or seen[0][0] < newest_ms):
            settled_ms = seen.popleft()[1]
        if settled_ms:
            for shard in list(self.shards.values()):
                shard.drop_unheld([lane], settled_ms)

    def _is_deserted(self, namespace: str, lane: str) -> bool:
        """Tell whether nobody serves a lane, and steps have waited there for more than a lease."""
        if self._serving(namespace, lane, self.lane_capabilities[namespace, lane]):
            return False
        before_ms = self.heard_upto_ms - self.settings.lease_ms
        return any(
            lane in shard.leases.suspects(before_ms=before_ms) for shard in self.shards.values()
        )

    def members(
        self, namespace: str, capabilities: tuple[str, ...]
    ) -> list[tuple[str, str]] | None:
        """Return (id, incarnation) of the live workers of a group; None: not known for sure.

        Whoever has just begun to listen, or was cut off, may not have heard of all of them.
        """
        now_ms = self.now_ms()
        deaf = now_ms - self.heard_upto_ms > DEAF_MS
        if deaf or self.fleet.is_blind(now_ms) or not self.known_everybody():
            return None
        found = self.fleet.able(namespace, capabilities)
        if not found:
            for label in self.fleet.missing(namespace, capabilities):
                self.missing_since.setdefault(label, self.clock.now_ms())
        return [(record.heartbeat.id, record.heartbeat.incarnation) for record in found]

    def known_everybody(self) -> bool:
        """Tell whether we have listened for one lease: every live worker was heard by now."""
        return self.heard_upto_ms - self._started_ms > self.settings.lease_ms

    def absent(self, worker: str) -> None:
        """Somebody wants *worker*, and it is not there."""
        self._wanted_ms[worker] = self.now_ms()
        self._absent_since.setdefault(worker, self.now_ms())

    def gone(self) -> list[str]:
        """Return workers that have been wanted and absent too long to come back."""
        if self.fleet.is_blind(self.heard_upto_ms):
            return []
        forget_ms = self.now_ms() - FORGET_MS
        for worker, since_ms in list(self._absent_since.items()):
            if max(since_ms, self._wanted_ms[worker]) < forget_ms:
                del self._wanted_ms[worker], self._absent_since[worker]
        limit_ms = self.heard_upto_ms - RETURN_MS
        return [worker for worker, since in self._absent_since.items() if since < limit_ms]

    # -- credit -------------------------------------------------------------------------------

    def credit(self, shard: ShardDispatch, lane: Lane) -> tuple[int, str]:
        """Return (steps of a shard that may go out now, wire lane)."""
        if self.lanes.congested:
            return 0, lane.name
        if lane.name.startswith("@"):
            if PREFERRED in lane.name:
                return self._preferred_credit(lane)
            return self._pinned_credit(lane)
        pool = self._pool(lane.namespace, lane.name, lane.capabilities)
        if not pool.slots:
            for label in self.fleet.missing(lane.namespace, lane.capabilities):
                self.missing_since.setdefault(label, self.clock.now_ms())
            return 0, lane.name
        if not self._has_room(lane):
            return 0, lane.name
        window = self.credits.window(lane.name, pool.total, self.share())
        count = self.credits.grant(
            (shard.shard, lane.name),
            lane.length,
            window,
            self._used(lane, pool),
            pool,
            self._pools.get,
            now_ms=self.now_ms(),
            wake=shard.wake,
        )
        return count, lane.name

    def stands_idle(self, lane: Lane) -> bool:
        """Tell whether at least half of the slots that serve *lane* are free, as was last heard."""
        if lane.name.startswith("@") or (lane.namespace, lane.name) not in self.lane_capabilities:
            return False
        able = [record.heartbeat for record in self.fleet.able(lane.namespace, lane.capabilities)]
        return 0 < sum(beat.slots for beat in able) <= 2 * sum(beat.free for beat in able)

    def _has_room(self, lane: Lane) -> bool:
        """Tell whether the namespace may have this lane: each is a consumer at the broker."""
        if (lane.namespace, lane.name) in self.lane_capabilities:
            return True
        own = [
            key
            for key in self.lane_capabilities
            if key[0] == lane.namespace and not key[1].startswith("@")
        ]
        if len(own) < self.settings.lanes_max:
            return True
        oldest = min(own, key=lambda key: self._used_ms.get(key, 0))
        idle = self._used_ms.get(oldest, 0) < self.now_ms() - LANE_KEPT_MS
        if idle and not any(shard.leases.uses(oldest[1]) for shard in self.shards.values()):
            self._drop_lane(oldest)
            return True
        return False

    def _pool(self, namespace: str, lane: str, needed: tuple[str, ...]) -> Pool:
        if self._pools_version != self.fleet.version:
            self._pools_version = self.fleet.version
            self._pools.clear()
        found = self._pools.get(lane)
        if found is None:
            slots = {r.heartbeat.id: r.heartbeat.slots for r in self.fleet.able(namespace, needed)}
            found = self._pools[lane] = Pool(slots, sum(slots.values()))
        return found

    def _used(self, lane: Lane, pool: Pool) -> dict[Claim, float]:
        """Return dispatched steps that take these workers' slots, other lanes' in part."""
        used: dict[Claim, float] = {}
        for number, shard in self.shards.items():
            for other, count in shard.leases.outstanding.items():
                if other == lane.name:
                    used[number, other] = count
                elif other.startswith("@"):
                    if other[1:].partition(PREFERRED)[0] in pool.slots:
                        used[number, other] = count
                else:
                    needed = self.lane_capabilities.get((lane.namespace, other))
                    if needed is None:
                        continue
                    part = self._pool(lane.namespace, other, needed).part_in(pool)
                    if part:
                        used[number, other] = count * part
        return used

    def _pinned_credit(self, lane: Lane) -> tuple[int, str]:
        worker = lane.name[1:]
        record = self.fleet.workers.get(worker)
        if record is None:
            self.absent(worker)
            return 0, lane.name
        heartbeat = record.heartbeat
        if heartbeat.draining:
            # It is about to go, and may still be busy: it is missed from then on.
            return 0, lane.name
        wire = subjects.pinned_lane(worker, heartbeat.incarnation)
        out = sum(s.leases.outstanding.get(lane.name, 0) for s in self.shards.values())
        return heartbeat.slots + self.settings.window_extra - out, wire

    def _preferred_credit(self, lane: Lane) -> tuple[int, str]:
        """Return how many steps a worker can begin at once: others may run them in a moment."""
        worker = lane.name[1:].partition(PREFERRED)[0]
        record = self.fleet.workers.get(worker)
        if record is None or record.heartbeat.draining or not record.offers(lane.capabilities):
            return 0, lane.name
        heartbeat = record.heartbeat
        if heartbeat.namespace != lane.namespace:
            return 0, lane.name
        own = (f"@{worker}", f"@{worker}{PREFERRED}")
        out = sum(
            count
            for shard in self.shards.values()
            for name, count in shard.leases.outstanding.items()
            if name == own[0] or name.startswith(own[1])
        )
        wire = subjects.pinned_lane(worker, heartbeat.incarnation)
        return max(min(heartbeat.free, heartbeat.slots - out), 0), wire

    def message_tasks(self, lane: Lane, wire_lane: str, count: int) -> int:
        """Return how many of *count* tasks go into one message."""
        workers = self._serving(lane.namespace, wire_lane, lane.capabilities)
        slots = [record.heartbeat.slots for record in workers]
        step_ms = self.credits.rate(lane.name).step_ms
        return tasks_a_message(self.settings, slots, count, step_ms)
