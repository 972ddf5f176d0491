"""Families of the engine: runs, steps, requests, timers, and what the state holds."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.telemetry._family import Counter, Gauge, Histogram, Label
from headrace.telemetry._labels import COUNTS, FAST, NAMESPACE, SHARD, SLOW, WORKFLOW

_EVENT = Label("type", limit=128)
_LIVE = Label("state", ("pending", "running", "paused", "waiting", "blocked"))
_ENDED = Label("state", ("completed", "failed", "cancelled"))
_STEP_OUTCOME = Label("outcome", ("completed", "failed", "skipped", "cancelled", "unknown"))
_RETRY = Label("reason", ("error", "timeout", "worker_lost", "returned"))
_REFUSED = Label("reason", ("stale_attempt", "stale_token", "run_ended", "not_owner", "malformed"))
_INCOMING = Label("outcome", ("begun", "held", "failed", "unmatched", "lost"))
_QUESTION = Label("kind", ("info", "archive"))
_COMMAND = Label(
    "kind",
    (
        *("submit", "signal", "cancel", "pause", "resume", "resolve", "patch", "plan", "query"),
        *("result", "claim", "peer"),
    ),
)


class EngineMetrics:
    """What the owners of shards decide, and what their states hold."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs(registry)
        self._steps(registry)
        self._requests(registry)
        self._ticks(registry)
        self._state(registry)

    def _runs(self, to: CollectorRegistry) -> None:
        self.events = Counter(to, "events_total", "Events recorded.", _EVENT)
        self.runs = Gauge(
            to, "runs", "Live runs by state or condition; of 100,000 at hand 6 s old.", _LIVE
        )
        self.runs_parked = Gauge(
            to, "runs_parked", "Of them, those that only wait and are held as bytes.", SHARD
        )
        self.runs_created = Counter(to, "runs_created_total", "Runs begun.")
        self.runs_ended = Counter(to, "runs_ended_total", "Runs ended.", _ENDED)
        self.run_seconds = Histogram(to, "run_seconds", "From submit to end.", _ENDED, buckets=SLOW)
        self.workflow_runs_ended = Counter(
            to, "workflow_runs_ended_total", "Runs ended.", NAMESPACE, WORKFLOW, _ENDED
        )
        self.workflow_run_seconds = Histogram(
            to, "workflow_run_seconds", "From submit to end.", NAMESPACE, WORKFLOW, buckets=SLOW
        )

    def _steps(self, to: CollectorRegistry) -> None:
        self.steps_ended = Counter(
            to,
            "steps_ended_total",
            "Steps ended; skipped and cancelled ones with the groups around them.",
            _STEP_OUTCOME,
        )
        self.attempts = Counter(to, "step_attempts_total", "Attempts dispatched.")
        self.retries = Counter(to, "step_retries_total", "Attempts after the first.", _RETRY)
        self.results_refused = Counter(
            to, "results_refused_total", "Results that changed nothing.", _REFUSED
        )
        self.schedule_to_start_seconds = Histogram(
            to,
            "step_schedule_to_start_seconds",
            "From dispatch to start, of one attempt in each batch of results.",
            buckets=FAST,
        )
        self.step_seconds = Histogram(
            to,
            "step_seconds",
            "From start to end, of one attempt in each batch of results.",
            buckets=SLOW,
        )
        self.timers = Gauge(to, "timers", "Timers that are set.")
        self.timer_overdue_seconds = Gauge(
            to, "timer_overdue_seconds", "How long the earliest timer is due and has not fired."
        )
        self.timers_fired = Counter(to, "timers_fired_total", "Timers that fired.")
        self.timer_late_seconds = Histogram(
            to, "timer_late_seconds", "From due to fired.", buckets=FAST
        )

    def _requests(self, to: CollectorRegistry) -> None:
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
        self.waiters = Gauge(to, "waiters", "Runs whose end, or whose change, somebody waits for.")
        self.questions = Counter(
            to, "questions_total", "Questions about the cluster, and to the archive.", _QUESTION
        )
        self.questions_open = Gauge(to, "questions_open", "Of them, not answered yet.")
        self.replies = Counter(to, "replies_total", "Answers sent.")
        self.replies_kept_bytes = Gauge(
            to, "replies_kept_bytes", "Answers too large for a message, until they are fetched."
        )
        self.replies_failed = Counter(
            to, "replies_failed_total", "Answers that the connection did not take."
        )

    def _ticks(self, to: CollectorRegistry) -> None:
        self.tick_seconds = Histogram(
            to, "tick_seconds", "From the beginning of a tick to its last answer.", buckets=FAST
        )
        self.tick_items = Histogram(
            to, "tick_items", "Requests, results and own work of a tick.", buckets=COUNTS
        )

    def _state(self, to: CollectorRegistry) -> None:
        self.plans = Gauge(to, "plans", "Compiled plans that are stored.", SHARD)
        self.definitions = Gauge(to, "definitions", "Registered workflows.")
        self.schedules = Gauge(to, "schedules", "Schedules.", SHARD)
        self.keys = Gauge(to, "keys", "Concurrency keys, locks and rate limits in use.", SHARD)
        self.cached_results = Gauge(to, "cached_results", "Results kept for other runs.", SHARD)
        self.cached_result_bytes = Gauge(to, "cached_result_bytes", "Their size, with keys.", SHARD)
        self.outbox_messages = Gauge(
            to, "outbox_messages", "Messages to other shards that have not arrived.", SHARD
        )
        self.remembered_requests = Gauge(
            to,
            "remembered_requests",
            "Requests known by their id, so that none counts twice.",
            SHARD,
        )
        self.tombstones = Gauge(
            to, "tombstones", "Runs that have left the state and are known by their id.", SHARD
        )
