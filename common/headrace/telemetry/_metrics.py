"""All metric families of all processes, put together from where each is declared.

Names begin with ``headrace_``, hold base units (seconds, bytes), and end in ``_total`` for
counters only. Label values are bounded (see `Label`). Families are counted from events in one
place each, by whoever is handed the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client import Gauge as _RawGauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from headrace.telemetry._control import ControlMetrics
from headrace.telemetry._dispatch import DispatchMetrics
from headrace.telemetry._engine import EngineMetrics
from headrace.telemetry._family import PREFIX, Counter, Gauge, Histogram, Label
from headrace.telemetry._labels import FAST, SLOW
from headrace.telemetry._storage import StorageMetrics

_ATTEMPT_OUTCOME = Label("outcome", ("completed", "failed", "cancelled", "returned", "skipped"))
_DROPPED = Label("reason", ("old_epoch", "duplicate", "malformed", "redelivered"))
_STREAM = Label("stream", ("stdout", "stderr", "system"))
_ORDER = Label("kind", ("lane", "cancel", "drain", "epoch"))
_REQUEST = Label("outcome", ("ok", "timeout", "no_responders", "disconnected", "error"))
_LEVEL = Label("level", ("debug", "info", "warning", "error", "critical"))
_PATH = Label("path", ("/metrics", "/healthz", "/readyz"))
_CODE = Label("code", limit=10)


def new_registry(*, release: str = "", role: str = "") -> CollectorRegistry:
    """Return a registry with the process's own figures and ``headrace_build_info``."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    info = _RawGauge(PREFIX + "build_info", "Always 1.", ["release", "role"], registry=registry)
    info.labels(release, role).set(1)
    return registry


class CoordinatorMetrics(EngineMetrics, StorageMetrics, DispatchMetrics, ControlMetrics):
    """What a coordinator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        EngineMetrics.__init__(self, registry)
        StorageMetrics.__init__(self, registry)
        DispatchMetrics.__init__(self, registry)
        ControlMetrics.__init__(self, registry)


class WorkerMetrics:
    """What a worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._steps(registry)
        self._results(registry)
        self._life(registry)

    def _steps(self, to: CollectorRegistry) -> None:
        self.slots = Gauge(to, "worker_slots", "Steps that may run at the same time.")
        self.slots_used = Gauge(to, "worker_slots_used", "Slots that hold a step.")
        self.steps_running = Gauge(to, "worker_steps_running", "Steps that run.")
        self.steps_queued = Gauge(to, "worker_steps_queued", "Steps received that wait for a slot.")
        self.credit = Gauge(
            to, "worker_credit_steps", "Steps that it could take on top of those that it has."
        )
        self.parked_functions = Gauge(
            to, "worker_parked_functions", "Workflow functions that wait, and are kept."
        )
        self.parked_bytes = Gauge(to, "worker_parked_bytes", "Memory of these, about.")
        self.tasks_received = Counter(to, "worker_tasks_received_total", "Steps received.")
        self.task_messages = Counter(
            to, "worker_task_messages_total", "Messages that these came in."
        )
        self.tasks_dropped = Counter(
            to, "worker_tasks_dropped_total", "Steps received and not run.", _DROPPED
        )
        self.steps_ended = Counter(
            to, "worker_attempts_ended_total", "Attempts ended.", _ATTEMPT_OUTCOME
        )
        self.step_seconds = Histogram(
            to, "worker_attempt_seconds", "Duration of an attempt.", buckets=SLOW
        )

    def _results(self, to: CollectorRegistry) -> None:
        self.results_sent = Counter(to, "worker_results_sent_total", "Results sent first.")
        self.results_resent = Counter(to, "worker_results_resent_total", "Results sent again.")
        self.results_refused = Counter(to, "worker_results_refused_total", "Results refused.")
        self.outbox_bytes = Gauge(to, "worker_outbox_bytes", "Results waiting for their owner.")
        self.outbox_results = Gauge(to, "worker_outbox_results", "How many these are.")
        self.blobs_stored = Counter(
            to, "worker_blobs_stored_total", "Large values put into the object store."
        )
        self.blobs_stored_bytes = Counter(to, "worker_blobs_stored_bytes_total", "Bytes of these.")
        self.blobs_fetched = Counter(
            to, "worker_blobs_fetched_total", "Large values read from the object store."
        )
        self.blobs_fetched_bytes = Counter(
            to, "worker_blobs_fetched_bytes_total", "Bytes of these."
        )
        self.log_lines = Counter(to, "worker_log_lines_total", "Lines of steps' output.", _STREAM)
        self.log_lines_dropped = Counter(
            to, "worker_log_lines_dropped_total", "Lines dropped: nobody took them in time."
        )
        self.log_backlog_bytes = Gauge(
            to, "worker_log_backlog_bytes", "Lines that the broker has not taken yet."
        )

    def _life(self, to: CollectorRegistry) -> None:
        self.lanes = Gauge(to, "worker_lanes", "Lanes that it pulls from.")
        self.handlers = Gauge(
            to, "worker_handlers", "Handlers that it offers beside the built-in ones."
        )
        self.plugin_problems = Gauge(
            to, "worker_plugin_problems", "Plug-in files that cannot be used."
        )
        self.heartbeats = Counter(to, "worker_heartbeats_sent_total", "Heartbeats sent.")
        self.stalls = Counter(
            to, "worker_stalls_total", "Times that it stood still for as long as a lease."
        )
        self.orders = Counter(to, "worker_orders_total", "Orders of coordinators.", _ORDER)
        self.draining = Gauge(to, "worker_draining", "1: takes no more steps.")


class BusMetrics:
    """What any process counts at its connection to the broker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        to = registry
        self.connected = Gauge(to, "bus_connected", "1: connected to a broker.")
        self.disconnects = Counter(to, "bus_disconnects_total", "Connections lost.")
        self.reconnects = Counter(to, "bus_reconnects_total", "Connections after the first.")
        self.requests = Counter(to, "bus_requests_total", "Requests by outcome.", _REQUEST)
        self.request_seconds = Histogram(
            to, "bus_request_seconds", "From request to reply.", buckets=FAST
        )
        self.requests_open = Gauge(to, "bus_requests_open", "Requests without a reply yet.")
        self.errors = Counter(to, "bus_errors_total", "Errors that the broker reported.")
        self.sent_messages = Counter(to, "bus_sent_messages_total", "Messages sent.")
        self.sent_bytes = Counter(to, "bus_sent_bytes_total", "Bytes sent.")
        self.received_messages = Counter(to, "bus_received_messages_total", "Messages received.")
        self.received_bytes = Counter(to, "bus_received_bytes_total", "Bytes received.")
        self.subscriptions = Gauge(to, "bus_subscriptions", "Subscriptions.")
        self.backlog_bytes = Gauge(
            to, "bus_backlog_bytes", "Bytes that the broker has not taken yet, about."
        )


class ProcessMetrics:
    """What any process counts of itself, beside `process_*` and `python_gc_*`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        to = registry
        self.log_records = Counter(
            to, "log_records_total", "Lines that the process logged, by level.", _LEVEL
        )
        self.status_requests = Counter(
            to, "status_requests_total", "Requests to the metrics port.", _PATH, _CODE
        )
        self.tasks = Gauge(to, "process_tasks", "Tasks of the event loop.")


class _WithoutCreated(Collector):
    """Leaves out the ``_created`` gauge that the library adds to each counter and histogram."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


def render(registry: CollectorRegistry, *, openmetrics: bool = False) -> bytes:
    """Return all families in the Prometheus text format (version 0.0.4), or as OpenMetrics 1.0.0.

    Exemplars stand in the latter only.
    """
    everything = _WithoutCreated(registry)
    write: Callable[[Collector], bytes] = generate_openmetrics if openmetrics else generate_latest
    return write(everything)
