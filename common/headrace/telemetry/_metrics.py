"""All metric families of all processes: the only place that names one.

Names begin with ``headrace_``, hold base units (seconds, bytes), and end in ``_total`` for
counters only. Label values are bounded (see `Label`). Families are counted from events in one
place each, by whoever is handed the set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client import Gauge as _RawGauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from headrace.telemetry._family import PREFIX, Counter, Gauge, Histogram, Label

_SHARD = Label("shard", limit=1_024)
_LANE = Label("lane", limit=512)
_EVENT = Label("type", limit=128)
_LIVE = Label("state", ("pending", "running", "paused", "waiting", "blocked"))
_ENDED = Label("state", ("completed", "failed", "cancelled"))
_STEP_OUTCOME = Label("outcome", ("completed", "failed", "skipped", "cancelled", "unknown"))
_ATTEMPT_OUTCOME = Label("outcome", ("completed", "failed", "cancelled", "returned", "skipped"))
_RETRY = Label("reason", ("error", "timeout", "worker_lost", "returned"))
_UNKNOWN = Label("resolution", ("stored", "absent", "fenced"))
_REFUSED = Label("reason", ("stale_attempt", "stale_token", "run_ended", "not_owner", "malformed"))
_WRITE = Label("outcome", ("ok", "failed"))
_INCOMING = Label("outcome", ("begun", "held", "failed", "unmatched", "lost"))
_KIND = Label("kind", ("coordinator", "worker"))
_STATUS = Label("status", ("online", "busy", "draining", "offline"))
_COMMAND = Label(
    "kind",
    ("submit", "signal", "cancel", "pause", "resume", "plan", "query", "result", "claim", "peer"),
)
_DROPPED = Label("reason", ("old_epoch", "duplicate", "malformed", "redelivered"))
_STREAM = Label("stream", ("stdout", "stderr", "system"))
_REQUEST = Label("outcome", ("ok", "timeout", "no_responders", "disconnected", "error"))

_FAST: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: appends, requests, queueing."""
_SLOW: Final = (0.005, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 86_400.0)
"""Seconds: what users' code takes."""
_COUNTS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
_BYTES: Final = (256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)


def new_registry(*, release: str = "", role: str = "") -> CollectorRegistry:
    """Return a registry with the process's own figures and ``headrace_build_info``."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    info = _RawGauge(PREFIX + "build_info", "Always 1.", ["release", "role"], registry=registry)
    info.labels(release, role).set(1)
    return registry


class CoordinatorMetrics:
    """What a coordinator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._log(registry)
        self._runs(registry)
        self._steps(registry)
        self._keeping(registry)
        self._cluster(registry)

    def _log(self, to: CollectorRegistry) -> None:
        self.appends = Counter(to, "log_appends_total", "Batches appended.", _SHARD)
        self.append_seconds = Histogram(
            to,
            "log_append_seconds",
            "From the first batch of a tick to the last acknowledgement.",
            buckets=_FAST,
        )
        self.append_events = Histogram(
            to, "log_append_events", "Events of a tick, all its batches together.", buckets=_COUNTS
        )
        self.append_bytes = Histogram(to, "log_append_bytes", "Size of a batch.", buckets=_BYTES)
        self.appends_unknown = Counter(
            to, "log_appends_unknown_total", "Unknown outcomes, by what was found.", _UNKNOWN
        )
        self.appends_fenced = Counter(
            to, "log_appends_fenced_total", "Appends refused: another owner.", _SHARD
        )
        self.appends_full = Counter(
            to, "log_appends_full_total", "Appends refused for want of space.", _SHARD
        )
        self.events = Counter(to, "events_total", "Events recorded.", _EVENT)

    def _runs(self, to: CollectorRegistry) -> None:
        self.runs = Gauge(
            to, "runs", "Live runs by state or condition; of many runs some seconds old.", _LIVE
        )
        self.runs_parked = Gauge(
            to, "runs_parked", "Of them, those that only wait and are held as bytes.", _SHARD
        )
        self.runs_ended = Counter(to, "runs_ended_total", "Runs ended.", _ENDED)
        self.run_seconds = Histogram(
            to, "run_seconds", "From submit to end, of one run in each tick.", _ENDED, buckets=_SLOW
        )
        self.commands = Counter(to, "commands_total", "Requests taken.", _COMMAND)
        self.commands_refused = Counter(
            to, "commands_refused_total", "Requests answered by an error.", _COMMAND
        )
        self.incoming_events = Counter(
            to,
            "incoming_events_total",
            "Events from outside, by what became of them; one that begins two runs counts twice.",
            _INCOMING,
        )
        self.inbox_bytes = Gauge(to, "inbox_bytes", "Requests waiting.")
        self.inbox_busy = Counter(to, "inbox_busy_total", "Requests answered `busy`.")

    def _steps(self, to: CollectorRegistry) -> None:
        self.steps_ended = Counter(
            to,
            "steps_ended_total",
            "Steps ended; skipped and cancelled ones with the groups around them.",
            _STEP_OUTCOME,
        )
        self.attempts = Counter(to, "step_attempts_total", "Attempts dispatched.")
        self.retries = Counter(to, "step_retries_total", "Attempts after the first.", _RETRY)
        self.steps_ready = Gauge(to, "steps_ready", "Steps waiting for a worker.", _LANE)
        self.steps_ready_age_seconds = Gauge(
            to, "steps_ready_age_seconds", "Age of the oldest step waiting for a worker.", _LANE
        )
        self.steps_dispatched = Gauge(to, "steps_dispatched", "Steps handed out, not answered.")
        self.schedule_to_start_seconds = Histogram(
            to,
            "step_schedule_to_start_seconds",
            "From dispatch to start, of one attempt in each batch of results.",
            buckets=_FAST,
        )
        self.step_seconds = Histogram(
            to,
            "step_seconds",
            "From start to end, of one attempt in each batch of results.",
            buckets=_SLOW,
        )
        self.leases_lapsed = Counter(to, "leases_lapsed_total", "Steps whose holder was lost.")
        self.results_refused = Counter(
            to, "results_refused_total", "Results that changed nothing.", _REFUSED
        )
        self.timers = Gauge(to, "timers", "Timers that are set.")
        self.timers_fired = Counter(to, "timers_fired_total", "Timers that fired.")
        self.timer_late_seconds = Histogram(
            to, "timer_late_seconds", "From due to fired.", buckets=_FAST
        )

    def _keeping(self, to: CollectorRegistry) -> None:
        self.archive_writes = Counter(
            to, "archive_writes_total", "Groups of runs or segments written.", _WRITE
        )
        self.archive_runs = Counter(to, "archive_runs_total", "Closed runs archived.")
        self.archive_expired = Counter(to, "archive_expired_total", "Runs deleted by retention.")
        self.blobs_swept = Counter(
            to, "blobs_swept_total", "Large values deleted, of runs that are no more."
        )
        self.blobs_swept_bytes = Counter(to, "blobs_swept_bytes_total", "Bytes of these.")
        self.blob_sweeps = Counter(
            to, "blob_sweeps_total", "Pieces of the bucket of large values looked through.", _WRITE
        )
        self.archive_lag_seconds = Gauge(
            to, "archive_lag_seconds", "Age of the oldest closed run that is not archived yet."
        )
        self.snapshots = Counter(to, "snapshots_total", "Snapshots taken.", _WRITE)
        self.snapshot_age_seconds = Gauge(
            to, "snapshot_age_seconds", "Age of the newest registered snapshot.", _SHARD
        )
        self.snapshot_bytes = Gauge(
            to, "snapshot_bytes", "Size of the newest registered snapshot.", _SHARD
        )

    def _cluster(self, to: CollectorRegistry) -> None:
        self.shards_owned = Gauge(to, "shards_owned", "Shards that this coordinator owns.")
        self.takeovers = Counter(to, "shard_takeovers_total", "Shards taken.", _SHARD)
        self.takeover_seconds = Histogram(
            to, "shard_takeover_seconds", "From beginning to take a shard to ready.", buckets=_FAST
        )
        self.standby_lag_seconds = Gauge(
            to,
            "standby_lag_seconds",
            "From the time of the newest entry to its folding by the standby here.",
            _SHARD,
        )
        self.clock_skew_seconds = Gauge(
            to, "clock_skew_seconds", "This coordinator's clock minus the broker's."
        )
        self.controller = Gauge(to, "controller", "1: this coordinator is the controller.")
        self.controller_changes = Counter(
            to, "controller_changes_total", "Changes of controller that were seen."
        )
        self.nodes = Gauge(to, "nodes", "Nodes in the registry.", _KIND, _STATUS)
        self.loop_stall_seconds = Histogram(
            to, "loop_stall_seconds", "How late the event loop ran a callback.", buckets=_FAST
        )


class WorkerMetrics:
    """What a worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        to = registry
        self.slots = Gauge(to, "worker_slots", "Steps that may run at the same time.")
        self.slots_used = Gauge(to, "worker_slots_used", "Slots that hold a step.")
        self.steps_running = Gauge(to, "worker_steps_running", "Steps that run.")
        self.tasks_received = Counter(to, "worker_tasks_received_total", "Steps received.")
        self.tasks_dropped = Counter(
            to, "worker_tasks_dropped_total", "Steps received and not run.", _DROPPED
        )
        self.steps_ended = Counter(
            to, "worker_attempts_ended_total", "Attempts ended.", _ATTEMPT_OUTCOME
        )
        self.step_seconds = Histogram(
            to, "worker_attempt_seconds", "Duration of an attempt.", buckets=_SLOW
        )
        self.results_sent = Counter(to, "worker_results_sent_total", "Results sent first.")
        self.results_resent = Counter(to, "worker_results_resent_total", "Results sent again.")
        self.results_refused = Counter(to, "worker_results_refused_total", "Results refused.")
        self.outbox_bytes = Gauge(to, "worker_outbox_bytes", "Results waiting for their owner.")
        self.lanes = Gauge(to, "worker_lanes", "Lanes that it pulls from.")
        self.log_lines = Counter(to, "worker_log_lines_total", "Lines of steps' output.", _STREAM)
        self.log_lines_dropped = Counter(
            to, "worker_log_lines_dropped_total", "Lines dropped: nobody took them in time."
        )
        self.draining = Gauge(to, "worker_draining", "1: takes no more steps.")


class BusMetrics:
    """What any process counts at its connection to the broker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        to = registry
        self.connected = Gauge(to, "bus_connected", "1: connected to a broker.")
        self.reconnects = Counter(to, "bus_reconnects_total", "Connections after the first.")
        self.requests = Counter(to, "bus_requests_total", "Requests by outcome.", _REQUEST)
        self.request_seconds = Histogram(
            to, "bus_request_seconds", "From request to reply.", buckets=_FAST
        )
        self.errors = Counter(to, "bus_errors_total", "Errors that the broker reported.")


class _WithoutCreated(Collector):
    """Leaves out the ``_created`` gauge that the library adds to each counter and histogram."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


def render(registry: CollectorRegistry) -> bytes:
    """Return all families in the Prometheus text format (version 0.0.4)."""
    return generate_latest(_WithoutCreated(registry))
