"""What a process tells about itself: log lines, metrics, health, and the clock it reads.

No globals: a process makes one registry, hands the metric sets to their users, and owns one
`StatusServer`. Nothing here is imported by pure code.
"""

from headrace.telemetry._clock import Clock, SystemClock
from headrace.telemetry._family import OTHER, Counter, Gauge, Histogram, Label
from headrace.telemetry._http import StatusServer, status_server
from headrace.telemetry._labels import lane_label
from headrace.telemetry._log import JsonFormatter, TextFormatter, log_about, setup_logging
from headrace.telemetry._metrics import (
    BusMetrics,
    CoordinatorMetrics,
    ProcessMetrics,
    WorkerMetrics,
    new_registry,
    render,
)
from headrace.telemetry._reference import describe, families
from headrace.telemetry._trace import Tracer, attempt_fields, current_traceparent

__all__ = [
    "OTHER",
    "BusMetrics",
    "Clock",
    "CoordinatorMetrics",
    "Counter",
    "Gauge",
    "Histogram",
    "JsonFormatter",
    "Label",
    "ProcessMetrics",
    "StatusServer",
    "SystemClock",
    "TextFormatter",
    "Tracer",
    "WorkerMetrics",
    "attempt_fields",
    "current_traceparent",
    "describe",
    "families",
    "lane_label",
    "log_about",
    "new_registry",
    "render",
    "setup_logging",
    "status_server",
]
