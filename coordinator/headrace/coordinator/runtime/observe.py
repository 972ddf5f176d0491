"""Counts what happens on a coordinator; what there is at a time is `survey`'s to look at.

What happens often is added up in plain numbers and handed to the families a few times a second
(see `survey`): a tick costs some microseconds, an event less than a tenth of one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from headrace.coordinator.core import OutMessage, Run
from headrace.coordinator.core import status as states
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.core.views import counted_as
from headrace.coordinator.runtime.watch import Tick, Watch
from headrace.coordinator.traces import Traces, submitted_in
from headrace.events import (
    RunCreated,
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
    QueryRun,
    ResolveStep,
    ResultBatch,
    ResumeRun,
    SignalRun,
    StorePlan,
    SubmitRun,
    TurnReport,
    UnblockRun,
    UpdateRun,
    trace_id,
)
from headrace.telemetry import CoordinatorMetrics

if TYPE_CHECKING:
    from headrace.coordinator.runtime.blobs import Swept

_COMMANDS: Final[dict[type, str]] = {
    SubmitRun: "submit",
    SignalRun: "signal",
    CancelRun: "cancel",
    PauseRun: "pause",
    ResolveStep: "resolve",
    UpdateRun: "update",
    QueryRun: "query",
    UnblockRun: "unblock",
    TurnReport: "turn",
    PatchRun: "patch",
    ResumeRun: "resume",
    StorePlan: "plan",
    ResultBatch: "result",
    Claim: "claim",
    OutMessage: "peer",
}
"""All others are queries."""
_ENDED: Final = ("completed", "failed", "cancelled")
_OUTCOMES: Final[dict[type, str]] = {
    StepCompleted: "completed",
    StepSkipped: "skipped",
    StepCancelled: "cancelled",
    StepUnknown: "unknown",
}


class ShardObserver(Watch):
    """Counts what the owners of one shard do on this coordinator."""

    active = True

    def __init__(
        self, shard: int, metrics: CoordinatorMetrics, traces: Traces | None = None
    ) -> None:
        self._shard, self._metrics = str(shard), metrics
        self._number, self._traces = shard, traces
        self.tracing = traces is not None
        self._events: Counter[type] = Counter()
        self._requests: Counter[type] = Counter()
        self._refused: Counter[type] = Counter()
        self._appends = self._appended_bytes = self._fed = 0
        self._ends: Counter[tuple[str, str, int, int]] = Counter()
        """(namespace, workflow, state, ms) -> runs that ended so."""
        self._examples: dict[tuple[str, str, int], tuple[float, str]] = {}
        """(namespace, workflow, state) -> seconds and trace of the last one that ended so."""
        self._tick_seconds: Counter[float] = Counter()
        self._tick_items: Counter[float] = Counter()
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
        self._appended_bytes += sum(tick.sizes)
        trace = ""
        if tick.traced and self._traces is not None:
            runs = [traced.run for traced in tick.traced]
            trace = trace_id(submitted_in(runs[0].labels))
            self._traces.appended(self._number, runs, sum(tick.sizes), tick.append_s)
            for run, steps in tick.traced:
                for step in steps:
                    self._traces.stepped(run, step)
        metrics.append_seconds.observe(tick.append_s, trace=trace)
        metrics.append_events.observe(sum(tick.counts.values()))
        for size in tick.sizes:
            metrics.append_bytes.observe(size)
        for failure in tick.failed:
            if failure.retry_ms:
                metrics.retries.inc("timeout" if failure.error.type == "timeout" else "error")
            else:
                metrics.steps_ended.inc("failed")
        for run in tick.ended:
            took_ms = run.finished_ms - run.created_ms
            namespace = run.key.partition("/")[0]
            self._ends[namespace, run.workflow, run.state, took_ms] += 1
            if run.labels and (given := submitted_in(run.labels)):
                example = (took_ms / 1_000, trace_id(given))
                self._examples[namespace, run.workflow, run.state] = example
                if self._traces is not None:
                    self._traces.ended(run)

    def concluded(self, items: int, took_s: float) -> None:
        """See `Watch`."""
        self._tick_items[items] += 1
        # To a tenth of a millisecond: equal ones are handed on as one.
        self._tick_seconds[round(took_s, 4)] += 1

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

    def taken(self, took_s: float, entries: int) -> None:
        """See `Watch`."""
        self._metrics.takeovers.inc(self._shard)
        self._metrics.takeover_seconds.observe(took_s)
        self._metrics.takeover_entries.inc(self._shard, by=entries)
        self.snapshot_taken = True

    def rebuilt(self) -> None:
        """See `Watch`."""
        self._metrics.shard_rebuilds.inc(self._shard)

    def fed(self, entries: int) -> None:
        """See `Watch`."""
        self._fed += entries

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

    def archived(self, runs: int, took_s: float) -> None:
        """See `Watch`."""
        self._metrics.archive_write_seconds.observe(took_s)
        self._metrics.archive_writes.inc("ok")
        self._metrics.archive_runs.inc(by=runs)

    def not_archived(self) -> None:
        """See `Watch`."""
        self._metrics.archive_writes.inc("failed")

    def snapshot(self, size: int, took_s: float) -> None:
        """See `Watch`."""
        self._metrics.snapshot_seconds.observe(took_s)
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
            metrics.appended_bytes.inc(self._shard, by=self._appended_bytes)
            self._appends = self._appended_bytes = 0
        if self._fed:
            metrics.feed_entries.inc(self._shard, by=self._fed)
            self._fed = 0
        if self._tick_items:
            metrics.tick_items.observe_many(self._tick_items)
            metrics.tick_seconds.observe_many(self._tick_seconds)
        if self._ends:
            self._flush_ends()
        for kind, count in self._events.items():
            metrics.events.inc(kind.__name__, by=count)
            if kind in _OUTCOMES:
                metrics.steps_ended.inc(_OUTCOMES[kind], by=count)
        metrics.runs_created.inc(by=self._events[RunCreated])
        metrics.attempts.inc(by=self._events[StepScheduled])
        metrics.retries.inc("worker_lost", by=self._events[StepLost])
        metrics.retries.inc("returned", by=self._events[StepReturned])
        for kind, count in self._requests.items():
            metrics.commands.inc(_COMMANDS.get(kind, "query"), by=count)
        for kind, count in self._refused.items():
            metrics.commands_refused.inc(_COMMANDS.get(kind, "query"), by=count)
        for counted in (self._events, self._requests, self._refused):
            counted.clear()
        self._tick_items.clear()
        self._tick_seconds.clear()

    def _flush_ends(self) -> None:
        metrics = self._metrics
        by_workflow: dict[tuple[str, str], Counter[float]] = {}
        by_state: dict[str, Counter[float]] = {}
        for (namespace, workflow, number, took_ms), count in self._ends.items():
            state, took_s = states.NAMES[number].lower(), took_ms / 1_000
            metrics.runs_ended.inc(state, by=count)
            metrics.workflow_runs_ended.inc(namespace, workflow, state, by=count)
            by_workflow.setdefault((namespace, workflow), Counter())[took_s] += count
            by_state.setdefault(state, Counter())[took_s] += count
        for labels, seconds in by_workflow.items():
            for state in _ENDED:
                # A rate of failures is zero, and not unknown, before the first one.
                metrics.workflow_runs_ended.inc(*labels, state, by=0)
            metrics.workflow_run_seconds.observe_many(seconds, *labels)
        for state, seconds in by_state.items():
            metrics.run_seconds.observe_many(seconds, state)
        for (namespace, workflow, number), (took_s, trace) in self._examples.items():
            metrics.workflow_run_seconds.exemplify(took_s, trace, namespace, workflow)
            metrics.run_seconds.exemplify(took_s, trace, states.NAMES[number].lower())
        self._ends.clear()
        self._examples.clear()

    def snapshot_age_s(self, now_s: float) -> float | None:
        """Return the age of the newest snapshot that is known of; None: there is none."""
        if self.snapshot_taken:
            self.snapshot_taken, self.snapshot_s = False, now_s
        return now_s - self.snapshot_s if self.snapshot_s else None

    def live(self, runs: Runs[Run], at_most: int) -> Counter[str]:
        """Return how many live runs are in which state; see `RunCensus`."""
        return self._census.look(runs, at_most)


class RunCensus:
    """Counts live runs by state, so many at a time: a look at a million would take a second."""

    def __init__(self) -> None:
        self._left: list[str] = []
        self._counting: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def look(self, runs: Runs[Run], at_most: int) -> Counter[str]:
        """Look at *at_most* more of *runs*; return the counts of the last whole look.

        Those that are parked are counted already.
        """
        if not self._left:
            self._left = runs.keys_at_hand()
        some = self._left[-at_most:]
        del self._left[-at_most:]
        counting = self._counting
        for key in some:
            run = runs.record(key)
            if run is not None and not states.is_final(run.state):
                counting[counted_as(run)] += 1
        if not self._left:
            self.counts, self._counting = self._counting + runs.tally, Counter()
        return self.counts


class Observer:
    """Counts what happens on a coordinator beside its shards."""

    def __init__(self, metrics: CoordinatorMetrics, traces: Traces | None = None) -> None:
        self.metrics, self._traces = metrics, traces
        self._shards: dict[int, ShardObserver] = {}

    def shard(self, number: int) -> ShardObserver:
        """Return who counts for a shard: one for all its owners and standbys here."""
        found = self._shards.get(number)
        if found is None:
            found = self._shards[number] = ShardObserver(number, self.metrics, self._traces)
        return found

    def results(self, waited_ms: int, took_ms: int, trace: str = "") -> None:
        """A batch of results came; of one of them: from dispatch to start, from start to end.

        *trace*: the id of its trace.
        """
        # Clocks of workers may be off.
        self.metrics.schedule_to_start_seconds.observe(max(waited_ms, 0) / 1_000, trace=trace)
        self.metrics.step_seconds.observe(max(took_ms, 0) / 1_000, trace=trace)

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
