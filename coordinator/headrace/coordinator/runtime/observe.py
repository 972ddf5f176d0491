"""The only place that fills the coordinator's metric families.

What happens often is added up in plain numbers and handed to the families a few times a second
(`Observer.state`): a tick costs some microseconds, an event less than a tenth of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from headrace.coordinator.core import OutMessage, Run
from headrace.coordinator.core import status as states
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.core.views import conditions
from headrace.coordinator.runtime.watch import Tick, Watch
from headrace.events import (
    StepCancelled,
    StepCompleted,
    StepLost,
    StepReturned,
    StepScheduled,
    StepSkipped,
    StepUnknown,
)
from headrace.messages import (
    CancelRun,
    Claim,
    PatchRun,
    PauseRun,
    ResolveStep,
    ResultBatch,
    ResumeRun,
    SignalRun,
    StorePlan,
    SubmitRun,
)
from headrace.telemetry import CoordinatorMetrics

if TYPE_CHECKING:
    from headrace.coordinator.runtime.blobs import Swept
    from headrace.coordinator.runtime.leading import Shard
    from headrace.coordinator.runtime.server import CoordinatorServer

RUNS_A_LOOK: Final = 5_000
"""Live runs of a shard whose state is looked at in one go."""

_COMMANDS: Final[dict[type, str]] = {
    SubmitRun: "submit",
    SignalRun: "signal",
    CancelRun: "cancel",
    PauseRun: "pause",
    ResolveStep: "resolve",
    PatchRun: "patch",
    ResumeRun: "resume",
    StorePlan: "plan",
    ResultBatch: "result",
    Claim: "claim",
    OutMessage: "peer",
}
"""All others are queries."""
_OUTCOMES: Final[dict[type, str]] = {
    StepCompleted: "completed",
    StepSkipped: "skipped",
    StepCancelled: "cancelled",
    StepUnknown: "unknown",
}
_LIVE: Final = ("pending", "running", "paused", "waiting", "blocked")


class ShardObserver(Watch):
    """Counts what the owners of one shard do on this coordinator."""

    active = True

    def __init__(self, shard: int, metrics: CoordinatorMetrics) -> None:
        self._shard, self._metrics = str(shard), metrics
        self._events: Counter[type] = Counter()
        self._requests: Counter[type] = Counter()
        self._refused: Counter[type] = Counter()
        self._appends = 0
        self._census = RunCensus()
        self.snapshot_s = 0.0
        """Monotonic time of the newest snapshot; 0: none yet."""
        self.snapshot_taken = False

    # -- what the owner tells ------------------------------------------------------------------

    def ticked(self, tick: Tick) -> None:
        """See `Watch`."""
        metrics = self._metrics
        self._events.update(tick.counts)  # adds up
        self._appends += len(tick.sizes)
        metrics.append_seconds.observe(tick.append_s)
        metrics.append_events.observe(sum(tick.counts.values()))
        for size in tick.sizes:
            metrics.append_bytes.observe(size)
        for failure in tick.failed:
            if failure.retry_ms:
                metrics.retries.inc("timeout" if failure.error.type == "timeout" else "error")
            else:
                metrics.steps_ended.inc("failed")
        if tick.ended:
            self._ended(tick.ended)

    def _ended(self, runs: Sequence[Run]) -> None:
        for outcome, count in Counter(states.NAMES[run.state].lower() for run in runs).items():
            self._metrics.runs_ended.inc(outcome, by=count)
        # One of a tick: to put a time into a histogram costs more than all else here.
        first = runs[0]
        took_s = (first.finished_ms - first.created_ms) / 1_000
        self._metrics.run_seconds.observe(took_s, states.NAMES[first.state].lower())

    def request(self, kind: type, *, refused: bool = False) -> None:
        """See `Watch`."""
        self._requests[kind] += 1
        if refused:
            self._refused[kind] += 1

    def result_refused(self, reason: str) -> None:
        """See `Watch`."""
        self._metrics.results_refused.inc(reason)

    def busy(self, count: int = 1) -> None:
        """See `Watch`."""
        self._metrics.inbox_busy.inc(by=count)

    def timers(self, fired: int, late_ms: int) -> None:
        """See `Watch`."""
        self._metrics.timers_fired.inc(by=fired)
        self._metrics.timer_late_seconds.observe(max(late_ms, 0) / 1_000)

    def taken(self, took_s: float) -> None:
        """See `Watch`."""
        self._metrics.takeovers.inc(self._shard)
        self._metrics.takeover_seconds.observe(took_s)

    def fenced(self) -> None:
        """See `Watch`."""
        self._metrics.appends_fenced.inc(self._shard)

    def log_full(self) -> None:
        """See `Watch`."""
        self._metrics.appends_full.inc(self._shard)

    def resolved(self, outcome: str) -> None:
        """See `Watch`."""
        self._metrics.appends_unknown.inc(outcome)

    def events_taken(self, begun: int, held: int, failed: int, unmatched: int) -> None:
        """See `Watch`."""
        counts = {"begun": begun, "held": held, "failed": failed, "unmatched": unmatched}
        for outcome, count in counts.items():
            if count:
                self._metrics.incoming_events.inc(outcome, by=count)

    def events_lost(self, events: int) -> None:
        """See `Watch`."""
        self._metrics.incoming_events.inc("lost", by=events)

    def archived(self, runs: int) -> None:
        """See `Watch`."""
        self._metrics.archive_writes.inc("ok")
        self._metrics.archive_runs.inc(by=runs)

    def not_archived(self) -> None:
        """See `Watch`."""
        self._metrics.archive_writes.inc("failed")

    def snapshot(self, size: int) -> None:
        """See `Watch`."""
        self._metrics.snapshots.inc("ok")
        self._metrics.snapshot_bytes.set(size, self._shard)
        self.snapshot_taken = True

    def no_snapshot(self) -> None:
        """See `Watch`."""
        self._metrics.snapshots.inc("failed")

    # -- what is looked at now and then --------------------------------------------------------

    def flush(self) -> None:
        """Hand what was added up to the families."""
        metrics = self._metrics
        if self._appends:
            metrics.appends.inc(self._shard, by=self._appends)
            self._appends = 0
        for kind, count in self._events.items():
            metrics.events.inc(kind.__name__, by=count)
            if kind in _OUTCOMES:
                metrics.steps_ended.inc(_OUTCOMES[kind], by=count)
        metrics.attempts.inc(by=self._events[StepScheduled])
        metrics.retries.inc("worker_lost", by=self._events[StepLost])
        metrics.retries.inc("returned", by=self._events[StepReturned])
        for kind, count in self._requests.items():
            metrics.commands.inc(_COMMANDS.get(kind, "query"), by=count)
        for kind, count in self._refused.items():
            metrics.commands_refused.inc(_COMMANDS.get(kind, "query"), by=count)
        for counted in (self._events, self._requests, self._refused):
            counted.clear()

    def look(self, shard: Shard, now_s: float) -> None:
        """Set the gauges that belong to this shard alone."""
        if self.snapshot_taken:
            self.snapshot_taken, self.snapshot_s = False, now_s
        if self.snapshot_s:
            self._metrics.snapshot_age_seconds.set(now_s - self.snapshot_s, self._shard)
        machine = shard.owner.machine if shard.owner is not None else None
        if machine is not None:
            self._metrics.runs_parked.set(len(machine.state.runs.parked), self._shard)
        else:
            self._metrics.runs_parked.forget(self._shard)
        follower = shard.follower
        if follower is not None:
            self._metrics.standby_lag_seconds.set(follower.lag_ms / 1_000, self._shard)
        else:
            self._metrics.standby_lag_seconds.forget(self._shard)

    def live(self, runs: Runs[Run]) -> Counter[str]:
        """Return how many live runs are in which state, as of the last whole look."""
        return self._census.look(runs)


class RunCensus:
    """Counts live runs by state, so many at a time: a look at a million would take a second."""

    def __init__(self) -> None:
        self._left: list[str] = []
        self._counting: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def look(self, runs: Runs[Run]) -> Counter[str]:
        """Look at some more of *runs*; return the counts of the last whole look.

        Those that are parked are counted already.
        """
        if not self._left:
            self._left = runs.keys_at_hand()
        some = self._left[-RUNS_A_LOOK:]
        del self._left[-RUNS_A_LOOK:]
        for key in some:
            run = runs.record(key)
            if run is None:
                continue
            if run.state == states.PENDING:
                self._counting["pending"] += 1
            elif not states.is_final(run.state):
                found = conditions(run)
                self._counting[found[0].lower() if found else "running"] += 1
        if not self._left:
            self.counts, self._counting = self._counting + runs.tally, Counter()
        return self.counts


class Observer:
    """Fills the coordinator's metric families."""

    def __init__(self, metrics: CoordinatorMetrics) -> None:
        self.metrics = metrics
        self._shards: dict[int, ShardObserver] = {}
        self._controller = ""
        self._lanes: set[str] = set()

    def shard(self, number: int) -> ShardObserver:
        """Return who counts for a shard: one for all its owners and standbys here."""
        found = self._shards.get(number)
        if found is None:
            found = self._shards[number] = ShardObserver(number, self.metrics)
        return found

    def results(self, waited_ms: int, took_ms: int) -> None:
        """A batch of results came; of one of them: from dispatch to start, from start to end."""
        # Clocks of workers may be off.
        self.metrics.schedule_to_start_seconds.observe(max(waited_ms, 0) / 1_000)
        self.metrics.step_seconds.observe(max(took_ms, 0) / 1_000)

    def lapsed(self, count: int) -> None:
        """So many steps have lost their holder."""
        self.metrics.leases_lapsed.inc(by=count)

    def refused(self, reason: str) -> None:
        """A worker's message was not even looked at."""
        self.metrics.results_refused.inc(reason)

    def stalled(self, late_s: float) -> None:
        """The event loop ran something so late."""
        self.metrics.loop_stall_seconds.observe(max(late_s, 0.0))

    def expired(self, runs: int) -> None:
        """Retention has deleted so many runs."""
        self.metrics.archive_expired.inc(by=runs)

    def swept(self, piece: Swept) -> None:
        """A piece of the bucket of large values was looked through."""
        self.metrics.blob_sweeps.inc("ok")
        self.metrics.blobs_swept.inc(by=piece.dropped)
        self.metrics.blobs_swept_bytes.inc(by=piece.dropped_bytes)

    def not_swept(self) -> None:
        """A piece could not be looked through."""
        self.metrics.blob_sweeps.inc("failed")

    def state(self, server: CoordinatorServer) -> None:
        """Hand on what was added up, and set the gauges; called a few times a second."""
        metrics = self.metrics
        now_s, now_ms = server.clock.monotonic(), server.clock.now_ms()
        owned = timers = dispatched = inbox = 0
        oldest_ms = now_ms
        live: Counter[str] = Counter()
        ready: dict[str, tuple[int, int]] = {}
        for number, shard in server.shards.items():
            observer = self.shard(number)
            observer.flush()
            observer.look(shard, now_s)
            owner = shard.owner
            machine = owner.machine if owner is not None else None
            if owner is None or machine is None:
                continue
            owned += 1
            inbox += owner.inbox_bytes
            timers += len(machine.timers)
            oldest_ms = min(oldest_ms, owner.archive_waits_since_ms or oldest_ms)
            live.update(observer.live(machine.state.runs))
            if shard.dispatch is not None:
                dispatched += len(shard.dispatch.leases.held)
            for name, lane in machine.ready.lanes.items():
                length, since_ms = ready.get(name, (0, now_ms))
                since_ms = min(since_ms, lane.oldest_ms() or now_ms)
                ready[name] = (length + lane.length, since_ms)
        metrics.shards_owned.set(owned)
        metrics.inbox_bytes.set(inbox)
        metrics.timers.set(timers)
        metrics.steps_dispatched.set(dispatched)
        metrics.archive_lag_seconds.set((now_ms - oldest_ms) / 1_000)
        metrics.clock_skew_seconds.set(server.skew.ms / 1_000)
        for state in _LIVE:
            metrics.runs.set(live[state], state)
        for name, (length, since_ms) in ready.items():
            metrics.steps_ready.set(length, name)
            age_s = (now_ms - since_ms) / 1_000 if length else 0.0
            metrics.steps_ready_age_seconds.set(age_s, name)
        for name in self._lanes - ready.keys():
            metrics.steps_ready.forget(name)
            metrics.steps_ready_age_seconds.forget(name)
        self._lanes = set(ready)
        self._cluster(server)

    def _cluster(self, server: CoordinatorServer) -> None:
        metrics = self.metrics
        metrics.controller.set(int(server.control.is_controller))
        controller = server.control.status().controller
        if controller != self._controller:
            self._controller = controller
            metrics.controller_changes.inc()
        view = server.control.view
        nodes: Counter[tuple[str, str]] = Counter()
        nodes.update(("coordinator", record.status) for record in view.coordinators.values())
        nodes.update(("worker", record.status) for record in view.workers.values())
        for kind, known in (
            ("coordinator", ("online", "draining", "offline")),
            ("worker", ("online", "busy", "draining", "offline")),
        ):
            for status in known:
                metrics.nodes.set(nodes[kind, status], kind, status)
