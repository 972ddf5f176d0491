"""Trace contexts, and spans in an exporter in memory."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.errors import InvalidConfig
from headrace.messages import (
    ResultStatus,
    StepError,
    StepResult,
    Task,
    TaskOptions,
    child_of,
    is_among,
    is_root,
    is_sampled,
    root_trace,
    trace_id,
    valid_traceparent,
)
from headrace.telemetry import Tracer, current_traceparent
from headrace.worker.traces import Attempts

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        (PARENT, True),
        (PARENT.upper(), False),
        (PARENT + "\n", False),
        ("ff" + PARENT[2:], False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        ("", False),
    ],
)
def test_what_is_a_context(text, fits):
    assert valid_traceparent(text) is fits
    assert trace_id(text) == (TRACE if fits else "")
    assert current_traceparent({"TRACEPARENT": text}) == (text if fits else "")


def test_a_child_is_the_same_whoever_asks_and_in_the_same_trace():
    child = child_of(PARENT, "default/r/one#1")
    assert child == child_of(PARENT, "default/r/one#1")
    assert child != child_of(PARENT, "default/r/one#2")
    assert (trace_id(child), valid_traceparent(child)) == (TRACE, True)


def test_a_trace_that_begins_is_told_from_one_that_goes_on():
    root = root_trace("ns/r1/5")
    assert valid_traceparent(root)
    assert is_sampled(root)
    assert is_root(root)
    assert not is_root(child_of(root, "ns/r1"))
    assert not is_root(PARENT)
    assert trace_id(root) != trace_id(root_trace("ns/r1/6"))


@pytest.mark.parametrize(
    ("trace", "share", "wanted"),
    [
        ("f" * 16 + "0" * 16, 0.0, False),
        ("f" * 16 + "0" * 16, 0.01, True),
        ("0" * 16 + "8" + "0" * 15, 0.5, False),
        ("0" * 16 + "7" + "f" * 15, 0.5, True),
        ("f" * 32, 0.99, False),
        ("f" * 32, 1.0, True),
    ],
)
def test_a_share_of_traces_is_that_of_other_samplers(trace, share, wanted):
    assert is_among(f"00-{trace}-b7ad6b7169203331-01", share) is wanted


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def attempts(exporter):
    return Attempts("w1", Tracer(SimpleSpanProcessor(exporter), "worker"))


def task(traceparent=PARENT):
    options = TaskOptions(workflow="build", traceparent=traceparent)
    return Task("default/r1", 0, "one/two", 2, 7, "shell", b"\x80", options)


def result(status=ResultStatus.COMPLETED, error=None):
    return StepResult("default/r1", 0, 2, 7, status, b"\x80", 1_000, 3_500, error)


def test_an_attempt_is_a_span_and_its_code_is_told_its_context(attempts, exporter):
    attempts.ended(task(), result())
    (span,) = exporter.get_finished_spans()
    assert span.name == "attempt one/two"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert (span.start_time, span.end_time) == (1_000_000_000, 3_500_000_000)
    told = attempts.traceparent(task())
    assert told == f"00-{TRACE}-{span.context.span_id:016x}-01"
    wanted = {
        "cicd.pipeline.name": "build",
        "cicd.pipeline.run.id": "r1",
        "cicd.pipeline.task.name": "one/two",
        "cicd.pipeline.task.run.result": "success",
        "cicd.worker.id": "w1",
        "messaging.system": "nats",
        "headrace.attempt": 2,
    }
    assert wanted.items() <= dict(span.attributes).items()
    assert span.status.is_ok


def test_a_failure_is_an_error(attempts, exporter):
    attempts.ended(task(), result(ResultStatus.FAILED, StepError("timeout", "too long")))
    (span,) = exporter.get_finished_spans()
    assert span.attributes["cicd.pipeline.task.run.result"] == "failure"
    assert (span.status.is_ok, span.status.description) == (False, "timeout")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ("", ResultStatus.COMPLETED),
        ("nonsense", ResultStatus.COMPLETED),
        (PARENT[:-1] + "0", ResultStatus.COMPLETED),
        (PARENT, ResultStatus.RETURNED),
    ],
    ids=["no trace", "no context", "not sampled", "not run"],
)
def test_what_is_no_span(attempts, exporter, given, status):
    attempts.ended(task(given), result(status))
    assert exporter.get_finished_spans() == ()


def test_without_a_tracer_the_context_goes_through():
    plain = Attempts("w1")
    assert plain.traceparent(task()) == PARENT
    plain.ended(task(), result())


def test_no_tracer_unless_asked_for():
    assert Tracer.from_environment("worker", {}) is None
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}
    assert Tracer.from_environment("worker", asked) is None


@pytest.mark.parametrize(
    ("sampler", "ratio", "share"),
    [
        ("", "", 1.0),
        ("always_on", "0.5", 1.0),
        ("parentbased_always_off", "", 0.0),
        ("traceidratio", "0.25", 0.25),
        (" PARENTBASED_TRACEIDRATIO ", " 0.01 ", 0.01),
        ("parentbased_traceidratio", "", 1.0),
    ],
)
def test_the_sampler_says_how_many_traces_begin(sampler, ratio, share):
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    asked |= {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": ratio}
    tracer = Tracer.from_environment("coordinator", asked)
    assert tracer is not None
    tracer.close()
    assert tracer.share == share


@pytest.mark.parametrize(
    ("sampler", "ratio", "told"),
    [
        ("jaeger_remote", "", "OTEL_TRACES_SAMPLER: not a sampler: 'jaeger_remote'"),
        ("traceidratio", "half", "OTEL_TRACES_SAMPLER_ARG: not a ratio from 0 to 1: 'half'"),
        ("traceidratio", "nan", "OTEL_TRACES_SAMPLER_ARG: not a ratio from 0 to 1: 'nan'"),
        ("traceidratio", "1.5", "OTEL_TRACES_SAMPLER_ARG: not a ratio from 0 to 1: '1.5'"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(sampler, ratio, told):
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    asked |= {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": ratio}
    with pytest.raises(InvalidConfig) as caught:
        Tracer.from_environment("coordinator", asked)
    assert told in str(caught.value)
