"""Runs that come in nobody's trace begin one, where they are to."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.messages import (
    Arrival,
    CreateSchedule,
    RegisterDefinition,
    ScheduleSpec,
    child_of,
    is_root,
    is_sampled,
    step_span,
    subjects,
    trace_id,
)
from headrace.plan import EventTrigger, encode_plan
from support.corekit import NAMESPACE, START_MS, Kit
from support.plans import child, plan, task

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOUR_MS = 3_600_000
PLAN = plan(task("a"))


@pytest.fixture
def kit() -> Kit:
    made = Kit(0)
    made.machine.traced = 1.0
    return made


def change(kit: Kit, kind: Any, **options: Any) -> None:
    made = kind(request_id=kit.request_id(), not_after_ms=kit.now_ms + 60_000, **options)
    kit.tick(lambda m: m.request(NAMESPACE, made))


def submitted(kit: Kit) -> None:
    kit.start(PLAN)


def scheduled(kit: Kit) -> None:
    spec = ScheduleSpec(cron="0 * * * *")
    change(kit, CreateSchedule, name="hourly", spec=spec, plan=encode_plan(PLAN))
    kit.now_ms = START_MS // HOUR_MS * HOUR_MS + HOUR_MS
    kit.tick()


def wanted_by_an_event(kit: Kit, **headers: str) -> None:
    found = plan(task("a"), events=(EventTrigger(subject="orders.created"),))
    change(kit, RegisterDefinition, name="order", plan=encode_plan(found))
    event = Arrival(
        namespace=NAMESPACE, subject="orders.created", sequence=1, data=b"{}", headers=headers
    )
    kit.tick(lambda m: m.take_events("2026-01-01T00:00:00Z", [event]))


def trace_of_the_run(kit: Kit) -> str:
    (run,) = kit.machine.state.runs.values()
    return (run.labels or {}).get(subjects.TRACE_LABEL, "")


@pytest.mark.parametrize("begin", [submitted, scheduled, wanted_by_an_event])
def test_a_run_of_nobodys_trace_begins_one_and_its_steps_are_in_it(kit: Kit, begin: Any) -> None:
    begin(kit)
    trace = trace_of_the_run(kit)
    assert is_root(trace)
    assert is_sampled(trace)
    (sent,) = kit.tasks.values()
    assert sent.options is not None
    assert sent.options.traceparent == trace


@pytest.mark.parametrize("begin", [submitted, scheduled, wanted_by_an_event])
def test_where_nobody_wants_traces_none_begins(kit: Kit, begin: Any) -> None:
    kit.machine.traced = 0.0
    begin(kit)
    assert trace_of_the_run(kit) == ""


def test_each_run_has_a_trace_of_its_own(kit: Kit) -> None:
    for run in ("r1", "r2"):
        kit.start(PLAN, run)
    traces = [run.labels[subjects.TRACE_LABEL] for run in kit.machine.state.runs.values()]
    assert len({*map(trace_id, traces)}) == 2


@pytest.mark.parametrize("given", [GIVEN, GIVEN[:-1] + "0"], ids=["sampled", "not sampled"])
def test_who_comes_in_a_trace_stays_in_it(kit: Kit, given: str) -> None:
    kit.start(PLAN, labels={subjects.TRACE_LABEL: given})
    assert trace_of_the_run(kit) == given


def test_an_event_in_a_trace_hands_it_on(kit: Kit) -> None:
    wanted_by_an_event(kit, traceparent=GIVEN)
    assert trace_of_the_run(kit) == GIVEN


def test_a_share_is_taken_by_the_traces_ids(kit: Kit) -> None:
    kit.machine.traced = 0.5
    for number in range(64):
        kit.start(PLAN, f"r{number}")
    found = [run.labels or {} for run in kit.machine.state.runs.values()]
    traces = [labels[subjects.TRACE_LABEL] for labels in found if labels]
    assert 0 < len(traces) < 64
    assert all(int(trace_id(trace)[16:], 16) < 2**63 for trace in traces)


@pytest.mark.parametrize("traced", [0.0, 1.0])
def test_a_child_is_in_its_parents_trace_or_in_none(kit: Kit, traced: float) -> None:
    kit.machine.traced = traced
    kit.start(plan(task("a"), child("call", plan(task("b")), needs=["a"])))
    kit.machine.traced = 1.0
    kit.complete("a")
    parent = kit.run()
    assert parent.family is not None
    begun = kit.run(*parent.family.children.values())
    given = parent.labels.get(subjects.TRACE_LABEL, "") if parent.labels else ""
    below = child_of(child_of(given, parent.key), step_span("call")) if given else ""
    assert (begun.labels or {}).get(subjects.TRACE_LABEL, "") == below
