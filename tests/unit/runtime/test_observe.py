"""What is counted of a shard's work."""

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from headrace.coordinator.core import OutMessage, status
from headrace.coordinator.core.runs import Runs
from headrace.coordinator.runtime.observe import Observer, RunCensus, ShardObserver
from headrace.coordinator.runtime.watch import Tick, refusal_reason
from headrace.events import (
    RunCreated,
    StepCompleted,
    StepFailed,
    StepLost,
    StepReturned,
    StepScheduled,
    StepSkipped,
)
from headrace.messages import GetRun, ResultBatch, StepError, SubmitRun
from headrace.telemetry import CoordinatorMetrics


@pytest.fixture
def metrics():
    return CoordinatorMetrics(CollectorRegistry())


@pytest.fixture
def observer(metrics):
    return ShardObserver(3, metrics)


def failed(type, retry_ms):
    return StepFailed(1, 1, "w", 0, 0, StepError(type, ""), retry_ms)


def test_events_are_counted_by_type_and_meaning(observer, metrics):
    counts = {RunCreated: 2, StepScheduled: 5, StepCompleted: 3, StepSkipped: 1, StepFailed: 3}
    counts |= {StepLost: 1, StepReturned: 2}
    failures = [failed("timeout", 5), failed("exit-code", 5), failed("exit-code", 0)]
    for _ in range(2):
        observer.ticked(Tick(counts, failures, [], [100, 200], 0.001))
    observer.flush()
    observer.flush()
    assert metrics.events.value("StepCompleted") == 6
    assert metrics.events.value("StepFailed") == 6
    assert metrics.attempts.value() == 10
    outcomes = ("completed", "failed", "skipped", "cancelled", "unknown")
    assert [metrics.steps_ended.value(o) for o in outcomes] == [6, 2, 2, 0, 0]
    reasons = ("error", "timeout", "worker_lost", "returned")
    assert [metrics.retries.value(reason) for reason in reasons] == [2, 2, 2, 4]
    assert metrics.appends.value("3") == 4
    assert metrics.append_bytes.count() == 4
    assert metrics.append_events.count() == 2


def test_ended_runs(observer, metrics):
    runs = [
        SimpleNamespace(
            key="ns/run",
            workflow="build",
            state=state,
            created_ms=1_000,
            finished_ms=3_000,
            labels={},
        )
        for state in (status.COMPLETED, status.COMPLETED, status.FAILED)
    ]
    observer.ticked(Tick({}, [], runs, [1], 0.0))
    observer.flush()
    observer.flush()
    assert metrics.runs_ended.value("completed") == 2
    assert metrics.runs_ended.value("failed") == 1
    assert metrics.run_seconds.count("completed") == 2, "every run, not one of a tick"
    assert metrics.workflow_runs_ended.value("ns", "build", "completed") == 2
    assert metrics.workflow_run_seconds.count("ns", "build") == 3


def test_requests(observer, metrics):
    for kind in (SubmitRun, SubmitRun, GetRun, ResultBatch, OutMessage):
        observer.request(kind)
    observer.request(SubmitRun, refused=True)
    observer.flush()
    kinds = ("submit", "query", "result", "peer", "signal")
    assert [metrics.commands.value(kind) for kind in kinds] == [3, 1, 1, 1, 0]
    assert metrics.commands_refused.value("submit") == 1


def test_why_a_result_was_refused():
    run = SimpleNamespace(attempt=[0, 2], instance=lambda wire: wire if wire < 2 else -1)
    assert refusal_reason(None, 1, 1) == "run_ended"
    assert refusal_reason(run, 7, 1) == "run_ended"
    assert refusal_reason(run, 1, 1) == "stale_attempt"
    assert refusal_reason(run, 1, 2) == "stale_token"


def test_live_runs_are_counted_some_at_a_time():
    fields = {"quarantined": "", "journal": None, "paused": False, "active": 1, "status": b""}
    runs: Runs[Any] = Runs()
    for number, state in enumerate([status.PENDING] * 2 + [status.RUNNING] * 3):
        runs[str(number)] = SimpleNamespace(state=state, **fields)
    runs["p"] = SimpleNamespace(state=status.RUNNING, **{**fields, "paused": True})
    runs["end"] = SimpleNamespace(state=status.COMPLETED, **fields)
    census = RunCensus()
    for _ in range(3):
        assert not census.look(runs, 2)
    assert census.look(runs, 2) == {"pending": 2, "running": 3, "paused": 1}
    runs.clear()
    runs.park("far", b"", "waiting")
    assert census.look(runs, 2) == {"waiting": 1}, "what is parked counts, too"


def test_what_happens_seldom_is_counted_at_once(observer, metrics):
    observer.busy()
    observer.log_full()
    observer.fenced()
    observer.rebuilt()
    observer.taken(0.1, 5)
    observer.resolved("absent")
    observer.result_refused("stale_token")
    observer.not_archived()
    assert metrics.inbox_busy.value() == 1
    assert metrics.appends_full.value("3") == 1
    assert metrics.appends_fenced.value("3") == 1
    assert metrics.shard_rebuilds.value("3") == 1
    assert metrics.takeover_entries.value("3") == 5
    assert metrics.appends_unknown.value("absent") == 1
    assert metrics.results_refused.value("stale_token") == 1
    assert metrics.archive_writes.value("failed") == 1


def test_what_is_deleted_is_counted(metrics):
    observer = Observer(metrics)
    observer.expired(4)
    observer.swept(SimpleNamespace(dropped=2, dropped_bytes=700))
    observer.not_swept()
    assert metrics.archive_expired.value() == 4
    assert metrics.blobs_swept.value() == 2
    assert metrics.blobs_swept_bytes.value() == 700
    assert [metrics.blob_sweeps.value(outcome) for outcome in ("ok", "failed")] == [1, 1]
