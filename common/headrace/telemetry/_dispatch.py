"""Families of dispatch: lanes, what is on its way to workers, and the workers themselves."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from headrace.telemetry._family import Counter, Gauge, Histogram
from headrace.telemetry._labels import COUNTS, LANE, NAMESPACE


class DispatchMetrics:
    """Lanes and workers, as this coordinator sees them.

    Ready and dispatched steps are those of the shards that it owns: add them up over coordinators.
    Workers and slots are the same everywhere: take the largest.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lanes(registry)
        self._sending(registry)
        self._workers(registry)

    def _lanes(self, to: CollectorRegistry) -> None:
        lane = (NAMESPACE, LANE)
        self.lane_ready_steps = Gauge(
            to, "lane_ready_steps", "Steps that wait to be sent to a worker.", *lane
        )
        self.lane_oldest_ready_seconds = Gauge(
            to, "lane_oldest_ready_seconds", "Age of the oldest of them.", *lane
        )
        self.lane_dispatched_steps = Gauge(
            to, "lane_dispatched_steps", "Steps sent, not answered.", *lane
        )
        self.lane_workers = Gauge(to, "lane_workers", "Workers that take such steps.", *lane)
        self.lane_slots = Gauge(to, "lane_slots", "Their slots.", *lane)
        self.lane_free_slots = Gauge(to, "lane_free_slots", "Of these, free ones.", *lane)
        self.lane_window_steps = Gauge(
            to,
            "lane_window_steps",
            "Credit: how many of this coordinator's steps may be on their way at a time.",
            *lane,
        )
        self.lane_step_seconds = Gauge(
            to, "lane_step_seconds", "What a step takes lately, a moving average.", *lane
        )
        self.lanes = Gauge(to, "lanes", "Lanes with a consumer at the broker.")
        self.missing_capabilities = Gauge(
            to, "missing_capabilities", "Capabilities that steps need and no worker offers."
        )

    def _sending(self, to: CollectorRegistry) -> None:
        self.steps_dispatched = Gauge(to, "steps_dispatched", "Steps handed out, not answered.")
        self.oldest_dispatched_seconds = Gauge(
            to, "steps_dispatched_oldest_seconds", "Age of the oldest of them."
        )
        self.task_messages = Counter(
            to, "dispatch_messages_total", "Task messages sent; without repeats."
        )
        self.task_bytes = Counter(to, "dispatch_bytes_total", "Bytes of task messages.")
        self.message_tasks = Histogram(
            to, "dispatch_message_tasks", "Steps in a task message.", buckets=COUNTS
        )
        self.task_repeats = Counter(
            to, "dispatch_repeats_total", "Task messages sent again: the broker had not answered."
        )
        self.task_refusals = Counter(
            to, "dispatch_refusals_total", "Task messages that the broker refused; they are kept."
        )
        self.task_pending_bytes = Gauge(
            to, "dispatch_pending_bytes", "Task messages that the broker has not confirmed."
        )
        self.stream_losses = Counter(
            to, "task_stream_losses_total", "Times the broker had lost its memory of tasks."
        )
        self.oversized = Counter(
            to, "dispatch_oversized_total", "Steps whose inputs went through the object store."
        )
        self.credit_share = Gauge(
            to, "credit_share_ratio", "Part of all workers' slots that this coordinator may fill."
        )
        self.leases_lapsed = Counter(to, "leases_lapsed_total", "Steps whose holder was lost.")
        self.steps_unheld = Counter(
            to, "steps_unheld_total", "Steps delivered, held by nobody: placed again."
        )

    def _workers(self, to: CollectorRegistry) -> None:
        self.fleet_workers = Gauge(to, "fleet_workers", "Live workers.", NAMESPACE)
        self.fleet_slots = Gauge(to, "fleet_slots", "Their slots.", NAMESPACE)
        self.fleet_free_slots = Gauge(to, "fleet_free_slots", "Of these, free ones.", NAMESPACE)
        self.workers_lost = Counter(
            to, "workers_lost_total", "Workers that fell silent without a goodbye."
        )
        self.worker_heartbeats = Counter(
            to, "worker_heartbeats_total", "Heartbeats of workers heard."
        )
        self.worker_silence_seconds = Gauge(
            to, "worker_silence_seconds", "Since the last heartbeat of the most silent live worker."
        )
        self.hearing_lag_seconds = Gauge(
            to, "hearing_lag_seconds", "How far back this coordinator knows what was sent to it."
        )
