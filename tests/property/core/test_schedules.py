"""Schedules under any order of time, takeovers, ends, pauses: each time has at most one run, none
is lost when all are to be caught up, and never do two run at a time when they must not."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.coordinator.core import calendar, status
from headrace.messages import CreateSchedule, ScheduleSpec, subjects
from headrace.plan import encode_plan
from support.corekit import NAMESPACE, START_MS, Kit
from support.plans import plan, task

KEY = f"{NAMESPACE}/s"
CRONS = ("*/10 * * * *", "0 * * * *", "30 2 * * *", "15 1,2,3 * * 0")
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 5 * 3_600_000)),
    st.tuples(st.just("wait"), st.sampled_from([600_000, 3_600_000, 86_400_000])),
    st.tuples(st.just("kill"), st.booleans()),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("jump back"), st.integers(1, 3_600_000)),
)


def live(kit: Kit) -> list[str]:
    return [key for key, run in kit.machine.state.runs.items() if not status.is_final(run.state)]


def step(kit: Kit, kind: str, value: Any) -> None:
    if kind == "wait":
        kit.advance(value)
    elif kind == "kill":
        kit.kill(snapshot=value)
    elif kind == "jump back":
        kit.now_ms = max(kit.now_ms - value, START_MS)
        kit.tick()
    elif tasks := sorted(kit.tasks):
        task_of = kit.tasks[tasks[value % len(tasks)]]
        doomed = task_of.step in kit.machine.state.runs[task_of.run].doomed
        name = task_of.run.partition("/")[2]
        (kit.cancelled if doomed else kit.complete)("a", run=name)


@pytest.mark.parametrize("overlap", ["allow", "skip", "queue", "cancel-previous"])
@settings(max_examples=25, deadline=None)
@given(
    cron=st.sampled_from(CRONS),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    jitter_ms=st.sampled_from([0, 30_000, 900_000]),
    start_ms=st.sampled_from([START_MS, 1_774_739_000_000, 1_792_880_000_000]),
    script=st.lists(STEPS, min_size=4, max_size=16),
)
def test_each_time_has_one_run(
    overlap: Any, cron: str, zone: str, jitter_ms: int, start_ms: int, script: list[Any]
) -> None:
    kit = Kit(0, now_ms=start_ms)
    spec = ScheduleSpec(
        cron=cron,
        timezone=zone,
        catch_up="all",
        overlap=overlap,
        jitter_ms=jitter_ms,
        window_ms=366 * 86_400_000,
    )
    request = CreateSchedule(
        name="s",
        spec=spec,
        plan=encode_plan(plan(task("a"))),
        request_id="q",
        not_after_ms=start_ms,
    )
    kit.tick(lambda m: m.request(NAMESPACE, request))
    for kind, value in script:
        step(kit, kind, value)
        if overlap != "allow":
            assert len(live(kit)) <= 1, "two at a time"
    # What is left of times that have come, with their jitter and the pauses between catching up.
    kit.now_ms = max(kit.now_ms, kit.machine.state.now_ms)
    for _ in range(50):
        kit.advance(jitter_ms + 1_000)
        assert overlap == "allow" or len(live(kit)) <= 1, "two at a time"
    now_ms = kit.machine.state.now_ms
    schedule = kit.machine.state.schedules[KEY]
    assert schedule.next_ms > now_ms - jitter_ms - 60_000
    times = calendar.times_after(cron, zone, start_ms, until_ms=schedule.next_ms - 1, limit=10_000)
    wanted = {subjects.scheduled_run(KEY, when_ms) for when_ms in times}
    runs = set(kit.machine.state.runs)
    assert runs <= wanted
    if overlap == "allow":
        assert runs == wanted, "a time was lost"
    elif overlap == "queue":
        waiting = {subjects.scheduled_run(KEY, when_ms) for when_ms in schedule.queue}
        assert runs | waiting == wanted, "a time was lost"
        assert not runs & waiting
