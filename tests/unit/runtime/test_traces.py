"""Spans of runs, dispatches and appends, in an exporter in memory."""

from types import SimpleNamespace

import msgspec
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from headrace.coordinator.core import Loss, status
from headrace.coordinator.runtime.observe import Observer, ShardObserver
from headrace.coordinator.runtime.watch import Tick
from headrace.coordinator.traces import Sends, StepEnd, Traced, Traces, submitted_in
from headrace.messages import (
    ResultStatus,
    StepResult,
    Task,
    TaskOptions,
    child_of,
    root_trace,
    step_span,
    subjects,
)
from headrace.telemetry import CoordinatorMetrics, Tracer
from support.fakebus import FakeClock

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-1] + "0"
EMPTY = msgspec.Raw(b"\x80")


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def traces(exporter, clock):
    return Traces(Tracer(SimpleSpanProcessor(exporter), "coordinator"), "c0", clock)


@pytest.fixture
def registry():
    return CollectorRegistry()


def run(key="ns/r1", state=status.COMPLETED, given=PARENT):
    labels = {subjects.TRACE_LABEL: given} if given else {}
    return SimpleNamespace(
        key=key, workflow="build", state=state, created_ms=1_000, finished_ms=3_000, labels=labels
    )


def task(step=1, attempt=2, given=PARENT):
    options = TaskOptions(timeout_ms=5, traceparent=given)
    return Task("ns/r1", step, f"s{step}", attempt, 7, "noop", EMPTY, options)


def result(step=1, attempt=2, started_ms=9_500):
    return StepResult("ns/r1", step, attempt, 7, ResultStatus.COMPLETED, EMPTY, started_ms, 9_900)


def ids(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def parent(span):
    return f"00-{span.parent.trace_id:032x}-{span.parent.span_id:016x}-01"


@pytest.mark.parametrize(
    ("state", "told", "error"),
    [
        (status.COMPLETED, "success", False),
        (status.FAILED, "failure", True),
        (status.CANCELLED, "cancellation", False),
    ],
)
def test_a_run_is_a_span_below_its_submitters(traces, exporter, state, told, error):
    traces.ended(run(state=state))
    (span,) = exporter.get_finished_spans()
    assert (ids(span), parent(span)) == (child_of(PARENT, "ns/r1"), PARENT)
    assert (span.start_time, span.end_time) == (1_000_000_000, 3_000_000_000)
    assert (span.name, span.attributes["cicd.pipeline.result"]) == ("run build", told)
    assert span.status.is_ok is not error


def test_a_dispatch_is_a_span_below_its_step_and_so_is_the_attempt(traces, exporter):
    of_step = child_of(child_of(PARENT, "ns/r1"), step_span("s1"))
    sends = Sends(traces, 3)
    (sent,) = sends.begin([task()], "lane", 9_000)
    assert sent.options == TaskOptions(timeout_ms=5, traceparent=of_step)
    assert sends.taken(result(attempt=1)) == "", "another attempt"
    assert sends.taken(result()) == of_step
    assert sends.taken(result()) == "", "once"
    (span,) = exporter.get_finished_spans()
    assert parent(span) == of_step
    assert (span.start_time, span.end_time) == (9_000_000_000, 9_500_000_000)
    assert (span.kind, span.name) == (SpanKind.PRODUCER, "send lane")
    assert span.attributes["headrace.shard"] == 3
    assert span.attributes["messaging.operation.type"] == "send"


def test_what_is_lost_is_told_and_what_another_owner_lost_is_not(traces, exporter):
    sends = Sends(traces, 3)
    sends.begin([task(1), task(2)], "lane", 9_000)
    sends.lost([Loss("ns/r1", 1, 2, "w.1", "worker lost"), Loss("ns/r1", 5, 1, "", "")], 9_700)
    sends.forget()
    sends.lost([Loss("ns/r1", 2, 2, "w.1", "worker lost")], 9_700)
    (span,) = exporter.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "worker lost")
    assert span.end_time == 9_700_000_000


def test_an_append_is_linked_to_all_its_traced_runs(traces, exporter, clock):
    traces.appended(3, [run("ns/a"), run("ns/b"), run("ns/c", given="")], 700, 0.25)
    (span,) = exporter.get_finished_spans()
    assert parent(span) == child_of(PARENT, "ns/a")
    assert [link.context.span_id for link in span.links] == [
        int(child_of(PARENT, "ns/b").split("-")[2], 16)
    ]
    assert (span.name, span.kind) == ("append", SpanKind.INTERNAL)
    assert span.end_time - span.start_time == 250_000_000
    assert span.end_time == clock.now_ms() * 1_000_000
    assert span.attributes["headrace.append.bytes"] == 700


def test_the_span_of_a_run_of_nobodys_trace_begins_it(traces, exporter):
    root = root_trace("ns/r1/5")
    traces.ended(run(given=root))
    (span,) = exporter.get_finished_spans()
    assert ids(span) == child_of(root, "ns/r1")
    assert span.parent is None


@pytest.mark.parametrize("given", ["", "nonsense", UNSAMPLED])
def test_what_is_not_traced_costs_and_makes_nothing(traces, exporter, given):
    sends = Sends(traces, 3)
    asked = [task(given=given), task(2, given="")]
    assert list(sends.begin(asked, "lane", 9_000)) == asked
    assert sends.taken(result()) == ""
    traces.ended(run(given=given))
    traces.appended(3, [run(given=given)], 700, 0.25)
    assert submitted_in(run(given=given).labels) == ""
    assert exporter.get_finished_spans() == ()


def test_ticks_become_spans_and_exemplars(traces, exporter, registry):
    metrics = CoordinatorMetrics(registry)
    observer = ShardObserver(3, metrics, traces)
    assert observer.tracing
    done = run()
    ended = [done, run("ns/other", given="")]
    step = StepEnd("step/a", "a", "task", 1_500, 2_500, "success")
    observer.ticked(Tick({}, [], ended, [700], 0.25, [Traced(done, [step])]))
    observer.flush()
    assert [span.name for span in exporter.get_finished_spans()] == [
        "append",
        "step a",
        "run build",
    ]
    Observer(metrics).results(5, 10, TRACE)
    lines = generate_latest(registry).decode().splitlines()
    told = {line.split("_bucket")[0] for line in lines if f'trace_id="{TRACE}"' in line}
    assert told == {
        "headrace_log_append_seconds",
        "headrace_run_seconds",
        "headrace_step_schedule_to_start_seconds",
        "headrace_step_seconds",
        "headrace_workflow_run_seconds",
    }


def test_without_a_tracer_runs_are_exemplars_all_the_same(registry):
    observer = ShardObserver(3, CoordinatorMetrics(registry))
    assert not observer.tracing
    observer.ticked(Tick({}, [], [run()], [700], 0.25))
    observer.flush()
    assert f'trace_id="{TRACE}"' in generate_latest(registry).decode()
