"""Dispatches of traced runs, as the shard's side of the dispatch tells them."""

from __future__ import annotations

import msgspec
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headrace.coordinator.traces import Traces
from headrace.messages import TaskBatch, TaskOptions, child_of, decode, step_span, trace_id
from headrace.telemetry import Tracer
from support.dispatchkit import holding, lane, lost, result, tasks

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OF_STEP = child_of(child_of(PARENT, "default/r"), step_span("s1"))


@pytest.fixture
def exporter(world):
    made = InMemorySpanExporter()
    tracer = Tracer(SimpleSpanProcessor(made), "coordinator")
    world.dispatcher.traces = Traces(tracer, "c0", world.clock)
    return made


def traced(*steps):
    options = TaskOptions(traceparent=PARENT)
    return [msgspec.structs.replace(task, options=options) for task in tasks(*steps)]


async def test_what_is_sent_is_below_its_steps_span_until_it_was_taken(world, exporter):
    shard = world.shard()
    told = []
    world.dispatcher.on_results = lambda _waited_ms, _took_ms, trace: told.append(trace)
    world.beat()
    shard.send(5, lane(), "l", [*traced(1), *tasks(2)])
    sent = [t for m in world.bus.sent("headrace.task.>") for t in decode(TaskBatch, m.data).tasks]
    assert [task.options and task.options.traceparent for task in sent] == [OF_STEP, None]
    shard.recorded([result(1), result(2)])
    (span,) = exporter.get_finished_spans()
    assert span.attributes["cicd.pipeline.task.name"] == "s1"
    assert told == [trace_id(PARENT)]


async def test_what_is_lost_is_told_with_the_reason(world, exporter):
    shard = world.shard()
    world.beat()
    shard.send(5, lane(), "l", traced(1))
    world.beat(**holding(1))
    world.beat(incarnation="2")
    assert lost(shard) == [(1, 1)]
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok
    assert span.status.description
    shard.recorded([result(1)])
    assert len(exporter.get_finished_spans()) == 1, "once"
