"""Sets the coordinator's gauges, and takes over totals that others add up; a few times a second.

What it looks at must be there at hand: a look costs microseconds for each shard and lane, however
many runs there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from headrace.coordinator.core import Machine
from headrace.coordinator.core.ready import PREFERRED, Lane
from headrace.coordinator.dispatch import Dispatcher
from headrace.coordinator.runtime.observe import Observer
from headrace.telemetry import CoordinatorMetrics, Gauge, lane_label

if TYPE_CHECKING:
    from headrace.coordinator.runtime.leading import Shard
    from headrace.coordinator.runtime.owner import Owner
    from headrace.coordinator.runtime.server import CoordinatorServer

SLOWLY: Final = 4
"""Looks for each one at lanes and the control plane."""
ADOPTED: Final = "adopted"
"""Lane of what a predecessor had sent, and a worker holds."""
RUNS_A_LOOK: Final = 4_000
"""Live runs whose state is looked at in one go, in all shards: some 2 ms, so 1 % of a core."""
RUNS_A_SHARD: Final = 100
"""At least so many of each."""
_LIVE: Final = ("pending", "running", "paused", "waiting", "blocked")


class Survey:
    """One coordinator's. Call `look` a few times a second."""

    def __init__(self, observer: Observer) -> None:
        self._observer, self._metrics = observer, observer.metrics
        self._looks = 0
        self._lanes = LaneSurvey(observer.metrics)
        self._control = ControlSurvey(observer.metrics)

    def look(self, server: CoordinatorServer) -> None:
        """Hand on what was added up, and set the gauges."""
        metrics = self._metrics
        now_s, now_ms = server.clock.monotonic(), server.clock.now_ms()
        sums: Counter[str] = Counter()
        live: Counter[str] = Counter()
        archive_ms = timer_ms = now_ms
        at_most = _runs_a_look(server.shards.values())
        for number, shard in server.shards.items():
            self._shard(number, shard, now_s)
            sums["troubled"] += bool(shard.problem)
            owner = shard.owner
            machine = owner.machine if owner is not None else None
            if owner is None or machine is None:
                continue
            figures = owner.figures()
            sums["owned"] += 1
            sums["inbox"] += figures.inbox_bytes
            sums["waiters"] += figures.waiters
            sums["archive"] += figures.archive_runs
            sums["timers"] += len(machine.timers)
            sums["definitions"] += sum(map(len, machine.state.definitions.values()))
            archive_ms = min(archive_ms, figures.archive_since_ms or archive_ms)
            timer_ms = min(timer_ms, machine.timers.next_ms() or timer_ms)
            live.update(self._observer.shard(number).live(machine.state.runs, at_most))
        metrics.shards_owned.set(sums["owned"])
        metrics.shards_troubled.set(sums["troubled"])
        metrics.inbox_bytes.set(sums["inbox"])
        metrics.waiters.set(sums["waiters"])
        metrics.timers.set(sums["timers"])
        metrics.definitions.set(sums["definitions"])
        metrics.archive_waiting.set(sums["archive"])
        metrics.archive_lag_seconds.set((now_ms - archive_ms) / 1_000)
        metrics.timer_overdue_seconds.set((now_ms - timer_ms) / 1_000)
        for state in _LIVE:
            metrics.runs.set(live[state], state)
        self._answers(server)
        if self._looks % SLOWLY == 0:
            self._lanes.look(server, now_ms)
            self._control.look(server)
        self._looks += 1

    def _answers(self, server: CoordinatorServer) -> None:
        metrics = self._metrics
        metrics.replies.raise_to(server.replies.sent)
        metrics.replies_failed.raise_to(server.replies.failed)
        metrics.replies_kept_bytes.set(server.replies.kept_bytes)
        metrics.questions_open.set(server.questions_open)
        for kind, count in server.asked.items():
            metrics.questions.raise_to(count, kind)

    # -- one shard -----------------------------------------------------------------------------

    def _shard(self, number: int, shard: Shard, now_s: float) -> None:
        metrics, name = self._metrics, str(number)
        observer = self._observer.shard(number)
        observer.flush()
        owner, shard_log = shard.owner, shard.log
        machine = owner.machine if owner is not None else None
        age_s = observer.snapshot_age_s(now_s)
        if owner is None or machine is None or shard_log is None:
            for gauge in (*self._of_owners(), metrics.snapshot_age_seconds):
                gauge.forget(name)
        else:
            self._led(name, owner, machine, shard_log.epoch)
            if age_s is not None:
                metrics.snapshot_age_seconds.set(age_s, name)
        follower = shard.follower
        if follower is not None and follower.state is not None:
            metrics.standby_lag_seconds.set(follower.lag_ms / 1_000, name)
            metrics.standby_position.set(follower.state.batch_position, name)
        else:
            metrics.standby_lag_seconds.forget(name)
            metrics.standby_position.forget(name)

    def _of_owners(self) -> tuple[Gauge, ...]:
        metrics = self._metrics
        return (
            *(metrics.runs_parked, metrics.shard_epoch, metrics.plans, metrics.schedules),
            *(metrics.keys, metrics.cached_results, metrics.cached_result_bytes),
            *(metrics.outbox_messages, metrics.remembered_requests, metrics.tombstones),
            *(metrics.log_bytes, metrics.log_max_bytes, metrics.log_full),
            *(metrics.log_position, metrics.log_tail_entries),
        )

    def _led(self, name: str, owner: Owner, machine: Machine, epoch: int) -> None:
        state, room = machine.state, owner.figures().room
        snapshot = state.snapshots[-1][0] if state.snapshots else 0
        tail = state.batch_position - snapshot if snapshot else state.batch_index
        values = (
            *(len(state.runs.parked), epoch, len(state.plans), len(state.schedules)),
            *(len(state.keys), len(state.kept.by_key), state.kept.size),
            *(len(state.outbox), len(state.requests), len(state.tombstones)),
            *(room.bytes, room.bytes_max, 1.0 if room.full else 0.5 * room.nearly_full),
            *(state.batch_position, tail),
        )
        for gauge, value in zip(self._of_owners(), values, strict=True):
            gauge.set(value, name)


def _runs_a_look(shards: Iterable[Shard]) -> int:
    """Return how many runs of each shard that is led here are looked at in one go."""
    led = sum(shard.owner is not None for shard in shards)
    return max(RUNS_A_LOOK // max(led, 1), RUNS_A_SHARD)


class _LaneFigures:
    __slots__ = ("capabilities", "dispatched", "name", "ready", "since_ms")

    def __init__(self, lane: Lane | None) -> None:
        self.name = lane.name if lane is not None else ""
        self.capabilities = lane.capabilities if lane is not None else ()
        self.ready = self.dispatched = self.since_ms = 0


class LaneSurvey:
    """Lanes, what is sent to them, and the workers that serve them."""

    def __init__(self, metrics: CoordinatorMetrics) -> None:
        self._metrics = metrics
        self._shown: set[tuple[str, str]] = set()
        self._namespaces: set[str] = set()

    def look(self, server: CoordinatorServer, now_ms: int) -> None:
        """Set the gauges of dispatch."""
        dispatcher = server.dispatcher
        if dispatcher is None:
            return
        lanes = self._gather(server)
        for key, lane in lanes.items():
            self._set(dispatcher, key, lane, now_ms)
        for key in self._shown - lanes.keys():
            for gauge in (*self._all(), *self._of_pools()):
                gauge.forget(*key)
        self._shown = set(lanes)
        self._sending(dispatcher, server)
        self._workers(dispatcher)

    def _gather(self, server: CoordinatorServer) -> dict[tuple[str, str], _LaneFigures]:
        found: dict[tuple[str, str], _LaneFigures] = {}
        for shard in server.shards.values():
            machine = shard.owner.machine if shard.owner is not None else None
            if machine is None:
                continue
            known = machine.ready.lanes
            for lane in known.values():
                figures = found.setdefault((lane.namespace, _label(lane)), _LaneFigures(lane))
                figures.ready += lane.length
                since_ms = lane.oldest_ms()
                if since_ms and (not figures.since_ms or since_ms < figures.since_ms):
                    figures.since_ms = since_ms
            for name, count in shard.dispatch.leases.outstanding.items() if shard.dispatch else ():
                sent = known.get(name)
                key = ("", ADOPTED) if sent is None else (sent.namespace, _label(sent))
                found.setdefault(key, _LaneFigures(sent)).dispatched += count
        return found

    def _all(self) -> tuple[Gauge, ...]:
        metrics = self._metrics
        return (
            *(metrics.lane_ready_steps, metrics.lane_oldest_ready_seconds),
            metrics.lane_dispatched_steps,
        )

    def _of_pools(self) -> tuple[Gauge, ...]:
        """Gauges of lanes that a group of workers serves."""
        metrics = self._metrics
        return (
            *(metrics.lane_workers, metrics.lane_slots, metrics.lane_free_slots),
            *(metrics.lane_window_steps, metrics.lane_step_seconds),
        )

    def _set(
        self, dispatcher: Dispatcher, key: tuple[str, str], lane: _LaneFigures, now_ms: int
    ) -> None:
        age_s = max(now_ms - lane.since_ms, 0) / 1_000 if lane.ready and lane.since_ms else 0.0
        for gauge, value in zip(self._all(), (lane.ready, age_s, lane.dispatched), strict=True):
            gauge.set(value, *key)
        if not lane.name or lane.name.startswith("@"):
            return  # one worker's, or nobody knows
        workers = [record.heartbeat for record in dispatcher.fleet.able(key[0], lane.capabilities)]
        slots = sum(worker.slots for worker in workers)
        window = dispatcher.credits.window(lane.name, slots, dispatcher.share()) if slots else 0
        values = (
            *(len(workers), slots, sum(max(worker.free, 0) for worker in workers)),
            *(window, dispatcher.credits.rate(lane.name).step_ms / 1_000),
        )
        for gauge, value in zip(self._of_pools(), values, strict=True):
            gauge.set(value, *key)

    def _sending(self, dispatcher: Dispatcher, server: CoordinatorServer) -> None:
        metrics, lanes = self._metrics, dispatcher.lanes
        leases = [shard.leases for shard in dispatcher.shards.values()]
        metrics.steps_dispatched.set(sum(len(each.held) for each in leases))
        sent_ms = min((ms for each in leases if (ms := each.oldest_ms())), default=0)
        age_ms = dispatcher.now_ms() - sent_ms if sent_ms else 0
        metrics.oldest_dispatched_seconds.set(age_ms / 1_000)
        metrics.lanes.set(len(dispatcher.lane_capabilities))
        metrics.missing_capabilities.set(len(dispatcher.missing_since))
        metrics.task_messages.raise_to(lanes.messages)
        metrics.task_bytes.raise_to(lanes.message_bytes)
        metrics.task_repeats.raise_to(lanes.repeats)
        metrics.task_refusals.raise_to(lanes.refusals)
        metrics.task_pending_bytes.set(lanes.pending_bytes)
        metrics.stream_losses.raise_to(lanes.losses)
        metrics.oversized.raise_to(dispatcher.oversized.stored)
        metrics.steps_unheld.raise_to(dispatcher.unheld)
        metrics.credit_share.set(dispatcher.share())
        metrics.message_tasks.observe_many(dispatcher.message_tasks_seen)
        dispatcher.message_tasks_seen.clear()
        metrics.hearing_lag_seconds.set(
            max(dispatcher.now_ms() - dispatcher.heard_upto_ms, 0) / 1_000
        )

    def _workers(self, dispatcher: Dispatcher) -> None:
        metrics = self._metrics
        metrics.workers_lost.raise_to(dispatcher.workers_lost)
        metrics.worker_heartbeats.raise_to(dispatcher.heartbeats)
        workers: Counter[str] = Counter()
        slots: Counter[str] = Counter()
        free: Counter[str] = Counter()
        silent_ms = now_ms = dispatcher.now_ms()
        for record in dispatcher.fleet.workers.values():
            heartbeat = record.heartbeat
            workers[heartbeat.namespace] += 1
            slots[heartbeat.namespace] += heartbeat.slots
            free[heartbeat.namespace] += max(heartbeat.free, 0)
            silent_ms = min(silent_ms, record.last_seen_ms)
        for namespace in self._namespaces | workers.keys():
            metrics.fleet_workers.set(workers[namespace], namespace)
            metrics.fleet_slots.set(slots[namespace], namespace)
            metrics.fleet_free_slots.set(free[namespace], namespace)
        self._namespaces |= workers.keys()
        metrics.worker_silence_seconds.set((now_ms - silent_ms) / 1_000)


def _label(lane: Lane) -> str:
    pinned = lane.name.startswith("@") and PREFERRED not in lane.name
    return lane_label(lane.capabilities, pinned=pinned)


class ControlSurvey:
    """The control plane: who is elected, who is there, who owns what."""

    def __init__(self, metrics: CoordinatorMetrics) -> None:
        self._metrics = metrics
        self._controller = ""
        self._owners: dict[int, str] = {}
        self._refused: Counter[str] = Counter()

    def look(self, server: CoordinatorServer) -> None:
        """Set the gauges of the control plane."""
        self._election(server)
        self._ownership(server)
        metrics = self._metrics
        metrics.clock_skew_seconds.set(server.skew.ms / 1_000)
        metrics.clock_skew_max_seconds.set(server.config.coordinator.clock_skew_ms_max / 1_000)
        metrics.log_synced.set(int(server.synced))
        metrics.feature_level.set(server.common_level())

    def _election(self, server: CoordinatorServer) -> None:
        metrics, status = self._metrics, server.control.status()
        metrics.controller.set(int(server.control.is_controller))
        metrics.controller_known.set(int(bool(status.controller)))
        if status.controller != self._controller:
            self._controller = status.controller
            metrics.controller_changes.inc()
        metrics.control_term.set(status.term)
        metrics.control_view.set(status.view)
        metrics.control_ruling.set(int(status.ruling))
        metrics.control_log_entries.set(status.log_entries)
        for reason, count in status.rebuilds.items():
            metrics.control_rebuilds.raise_to(count, reason)
        for reason, count in status.refused.items():
            before = self._refused[reason]
            # A replica that was replaced begins at nothing.
            metrics.control_refused.inc(reason, by=count - before if count >= before else count)
            self._refused[reason] = count
        metrics.coordinators_expected.set(status.expected)
        metrics.coordinators_living.set(len(server.control.living_coordinators()))
        metrics.coordinator_silence_seconds.set(status.silence_s)

    def _ownership(self, server: CoordinatorServer) -> None:
        metrics, view = self._metrics, server.control.view
        nodes: Counter[tuple[str, str]] = Counter()
        nodes.update(("coordinator", record.status) for record in view.coordinators.values())
        nodes.update(("worker", record.status) for record in view.workers.values())
        for kind, known in (
            ("coordinator", ("online", "draining", "offline")),
            ("worker", ("online", "busy", "draining", "offline")),
        ):
            for status in known:
                metrics.nodes.set(nodes[kind, status], kind, status)
        there = {name for name, one in view.coordinators.items() if one.status != "offline"}
        owners = {
            number: assignment.owner
            for number, assignment in view.shards.items()
            if assignment.owner in there
        }
        expected = server.layout.shards
        metrics.shards_expected.set(len(expected))
        metrics.shards_standby.set(len(server.control.standby))
        metrics.shards_unassigned.set(sum(number not in owners for number in expected))
        moved = [n for n, owner in owners.items() if self._owners.get(n, owner) != owner]
        metrics.shard_moves.inc(by=len(moved))
        self._owners |= owners
