"""Spans of steps, from when they could begin; and the trace of runs that runs begin."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.coordinator.runtime.steptimes import StepTimes
from headrace.coordinator.traces import Traces
from headrace.messages import (
    ChildBegun,
    SleepBegun,
    StepRan,
    TurnEnd,
    TurnOutcome,
    child_of,
    entry_span,
    step_span,
    subjects,
)
from headrace.plan import encode_plan
from headrace.telemetry import Tracer
from support.codekit import CodeKit, code_plan, raw
from support.corekit import Kit, finish
from support.fakebus import FakeClock
from support.plans import child, plan, retry, task, wait

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
IN_TRACE = {subjects.TRACE_LABEL: PARENT}
OF_RUN = child_of(PARENT, "default/r")
INNER = plan(task("x"), name="inner")


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def watched(exporter):
    """Return what has a kit's ticks tell of steps, as an owner's do."""
    traces = Traces(Tracer(SimpleSpanProcessor(exporter), "coordinator"), "c0", FakeClock())
    times = StepTimes()

    def watch(kit):
        machine = kit.machine
        finish_tick = machine.finish

        def told(**options):
            for run, steps in times.take(machine):
                for step in steps:
                    traces.stepped(run, step)
            return finish_tick(**options)

        machine.finish = told
        return kit

    return watch


def spans(exporter):
    """Return (name, ms from its beginning to its end, result) of each span, and forget them."""
    found = [
        (
            span.name,
            (span.end_time - span.start_time) // 1_000_000,
            span.attributes["cicd.pipeline.task.run.result"],
        )
        for span in exporter.get_finished_spans()
    ]
    exporter.clear()
    return found


def names(kit):
    """Return (id, run) of all runs."""
    return [(key.partition("/")[2], run) for key, run in kit.machine.state.runs.items()]


def context(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_a_step_is_a_span_from_when_it_could_begin_with_all_its_attempts(watched, exporter):
    kit = watched(Kit())
    kit.closed = lambda _lane: True
    kit.start(
        plan(task("a", retry=retry(initial_ms=1_000)), task("b", needs=["a"])), labels=IN_TRACE
    )
    kit.advance(5_000)
    kit.closed = lambda _lane: False
    kit.tick()
    kit.advance(100)
    kit.fail("a", retryable=True)
    assert spans(exporter) == []
    kit.advance(1_000)
    kit.advance(100)
    kit.complete("a")
    (span,) = exporter.get_finished_spans()
    assert context(span) == child_of(OF_RUN, step_span("a"))
    assert f"{span.parent.span_id:016x}" == OF_RUN.split("-")[2]
    assert (span.attributes["headrace.attempt"], span.attributes["cicd.worker.id"]) == (2, "w")
    assert spans(exporter) == [("step a", 6_200, "success")]
    kit.advance(7)
    kit.fail("b")
    assert spans(exporter) == [("step b", 7, "failure")]


def test_a_successor_reads_from_the_history_since_when_a_step_could_begin(watched, exporter):
    kit = watched(Kit())
    kit.start(plan(task("a"), task("b", needs=["a"])), labels=IN_TRACE)
    kit.advance(50)
    kit.complete("a")
    kit.advance(50)
    exporter.clear()
    kit.kill(snapshot=True)
    watched(kit)
    kit.complete("b")
    assert spans(exporter) == [("step b", 51, "success")]


def test_waits_are_steps_too_and_what_is_not_traced_makes_none(watched, exporter):
    kit = watched(Kit())
    kit.start(plan(wait("w", "go"), task("a", needs=["w"])), labels=IN_TRACE)
    kit.start(plan(task("a")), "other")
    kit.complete("a", run="other")
    kit.advance(300)
    kit.signal("go")
    assert spans(exporter) == [("step w", 300, "success")]


def test_a_child_is_below_its_parents_step_and_so_on(watched, exporter):
    kit = watched(Kit())
    middle = plan(child("d", INNER, detached=True), name="middle")
    kit.start(plan(child("c", middle)), labels=IN_TRACE)
    found = {run.workflow: name for name, run in names(kit)}
    of_step = child_of(OF_RUN, step_span("c"))
    assert kit.run(found["middle"]).labels == {subjects.TRACE_LABEL: of_step}
    below = child_of(child_of(of_step, f"default/{found['middle']}"), step_span("d"))
    assert kit.run(found["inner"]).labels == {subjects.TRACE_LABEL: below}
    finish(kit, found["inner"])
    assert ("step c", 0, "success") in spans(exporter)


def test_a_child_of_what_is_in_no_trace_is_in_none():
    kit = Kit()
    kit.start(plan(child("c", INNER)), labels={subjects.TRACE_LABEL: "nonsense"})
    kit.start(plan(child("c", INNER)), "two")
    assert [run.labels for _, run in names(kit) if run.workflow == "inner"] == [{}, {}]


def test_what_a_function_does_is_below_its_run_and_so_are_its_children(watched, exporter):
    kit = watched(CodeKit())
    kit.start(code_plan(), labels=IN_TRACE)
    begun = ChildBegun("c#1", "child", "", encode_plan(INNER), raw({}))
    ran = StepRan("pay#1", "pay", "", kit.now_ms + 5, kit.now_ms + 25, raw(None))
    sleep = SleepBegun("s#1", kit.now_ms + 400)
    kit.tell([ran, sleep, begun], end=TurnEnd(TurnOutcome.WAITING))
    assert spans(exporter) == [("step pay", 20, "success")]
    (name,) = (name for name, _ in names(kit) if name != "r")
    of_entry = child_of(OF_RUN, entry_span(0, "c#1"))
    assert kit.run(name).labels == {subjects.TRACE_LABEL: of_entry}
    kit.advance(400)
    finish(kit, name)
    told = {context(span) for span in exporter.get_finished_spans()}
    assert of_entry in told
    assert ("step sleep", 400, "success") in spans(exporter)


def test_a_patch_renumbers_steps_and_the_history_tells_them(watched, exporter):
    kit = watched(Kit())
    kit.start(plan(task("a"), task("b", needs=["a"])), labels=IN_TRACE)
    kit.advance(10)
    kit.complete("a")
    exporter.clear()
    kit.patch(plan(task("a"), task("n", needs=["a"]), task("b", needs=["a"])))
    kit.advance(10)
    kit.complete("b")
    kit.complete("n")
    assert [name for name, _, _ in spans(exporter)] == ["step b", "step n"]
