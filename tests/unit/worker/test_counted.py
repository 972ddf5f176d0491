"""What a worker's life tells of is counted."""

import pytest
from prometheus_client import CollectorRegistry

from headrace.messages import LogLine
from headrace.telemetry import WorkerMetrics
from headrace.worker import broker
from headrace.worker.app import _Metered
from headrace.worker.core import Origin
from support.worker_owner import make_task


@pytest.fixture
def metrics():
    return WorkerMetrics(CollectorRegistry())


def test_what_is_not_run_counts_by_reason(metrics):
    watch = _Metered(None, metrics)  # type: ignore[arg-type]
    watch.received(3)
    watch.dropped("old_epoch", 2)
    watch.dropped("redelivered", 1)
    assert metrics.tasks_received.value() == 3
    assert metrics.tasks_dropped.value("old_epoch") == 2
    assert metrics.tasks_dropped.value("redelivered") == 1


def test_results_count_once_when_sent_and_once_more_each_time(metrics):
    watch = _Metered(None, metrics)  # type: ignore[arg-type]
    watch.sent(3, False)
    watch.sent(3, True)
    watch.refused(1)
    assert metrics.results_sent.value() == 3
    assert metrics.results_resent.value() == 3
    assert metrics.results_refused.value() == 1


def test_a_drain_is_shown(metrics):
    assert metrics.draining.value() == 0
    _Metered(None, metrics).drains()  # type: ignore[arg-type]
    assert metrics.draining.value() == 1


class Away:
    """A bus without a connection."""

    def on_up(self, callback):
        return callback

    def publish(self, subject, payload):
        return False


def test_lines_that_nobody_takes_are_dropped(metrics, monkeypatch):
    monkeypatch.setattr(broker, "LOG_BACKLOG_BYTES_MAX", 300)
    logs = broker.BusLogs(
        Away(),  # type: ignore[arg-type]
        on_dropped=lambda count: metrics.log_lines_dropped.inc(by=count),
    )
    task = make_task(run="default/r")
    for first in range(10):
        logs.write(Origin(0, "default", 1), task, first, [LogLine(1, "stdout", "x" * 90)])
    assert metrics.log_lines_dropped.value() >= 6
    assert 0 < logs.backlog_bytes <= 300
