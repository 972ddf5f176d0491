"""A run that is recorded as a whole has the entry in the log, and the state, of the long way."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from headrace.coordinator.core import Fitting, Life, Machine, Refusal, TaskLife, encode_state
from headrace.coordinator.core.limits import Limits
from headrace.coordinator.core.state import ShardState
from headrace.coordinator.core.views import run_view
from headrace.coordinator.core.whole import BYTES_MAX
from headrace.messages import (
    ResultBatch,
    ResultExtra,
    ResultStatus,
    StepRan,
    StepResult,
    StorePlan,
    SubmitRun,
    TurnEnd,
    TurnOutcome,
    TurnReport,
    subjects,
)
from headrace.plan import Cache, Group, Plan, Task, encode_plan, plan_digest
from headrace.retry import RetryPolicy
from headrace.sdk import App, Context
from support.core_settings import TIMEOUT_S, examples

pytestmark = pytest.mark.timeout(TIMEOUT_S)
NOW_MS = 1_767_225_600_000
WORKER, LIFE = "w1", "a"
app = App("whole")


@app.workflow
async def function(ctx: Context, n: int = 0) -> int:
    return n


PLAN = function.plan
names = st.text("abcxyz:#/0123456789", min_size=1, max_size=12)
values = st.recursive(
    st.none() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@st.composite
def steps(draw: st.DrawFn) -> list[StepRan]:
    keys = draw(st.lists(names, unique=True, max_size=6))
    return [
        StepRan(
            key,
            draw(names),
            draw(names),
            NOW_MS + draw(st.integers(0, 1_000)),
            NOW_MS + draw(st.integers(0, 9_000)),
            raw(draw(values)),
        )
        for key in keys
    ]


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(value))


def machine(limits: Limits | None = None, plan: Plan = PLAN) -> Machine:
    state = ShardState(3, frozenset())
    led = Machine(state, chance=lambda: 0.5, home=lambda _key: 3, limits=limits)
    led.begin(NOW_MS)
    reply = led.request("default", StorePlan(plan=encode_plan(plan)))
    assert not isinstance(reply, Refusal)
    led.finish(batch_id="plan", epoch=1)
    led.begin(NOW_MS + 10_000)
    return led


def brief(led: Machine, request: SubmitRun, namespace: str = "default") -> Fitting | None:
    """Ask for a function: its input is encoded already."""
    return led.brief(namespace, request, msgspec.msgpack.encode(request.input))


def the_long_way(led: Machine, request: SubmitRun, ran: list[StepRan], result: object) -> None:
    reply = led.request("default", request)
    assert not isinstance(reply, Refusal), reply
    led.settle()
    (lane,) = led.ready.filled
    (task,) = led.schedule(lane, 1, lane)
    end = TurnEnd(TurnOutcome.COMPLETED, raw(result))
    report = TurnReport(
        1, WORKER, LIFE, task.run, task.step, task.attempt, task.token, 1, 0, list(ran), end, []
    )
    assert not led.turn(report).refused
    led.settle()


def as_a_whole(led: Machine, request: SubmitRun, ran: list[StepRan], result: object) -> None:
    begun = brief(led, request)
    assert begun is not None
    life = Life(f"default/{request.run}", request, begun, f"{WORKER}.{LIFE}", ran, raw(result))
    assert life.fits(led.limits)
    led.record_life(life)
    assert not led.state.agenda
    led.settle()


def left_by(led: Machine) -> tuple[Any, ...]:
    """Return all that a tick has left: its entry, the state, the run, and effects."""
    (entry,) = led.finish(batch_id="run", epoch=1)
    effects = led.effects({})
    (run,) = effects.ended
    assert led.state.runs["default/r1"] is run
    view = run_view(run, steps=True, shard=3, segments=())
    rest = (effects.orders, effects.outgoing, effects.changed, effects.long, effects.wakes)
    assert not led.timers.next_ms()
    return entry, encode_state(led.state), view, rest, led.state.token_last


@examples(150)
@given(
    given_inputs=st.dictionaries(st.sampled_from(["n", "m"]), values),
    labels=st.dictionaries(st.sampled_from(["team", "app"]), st.sampled_from(["a", "b"])),
    priority=st.integers(-3, 3),
    ran=steps(),
    result=values,
)
def test_both_ways_log_and_leave_the_same(given_inputs, labels, priority, ran, result) -> None:
    request = SubmitRun(
        run="r1", request_id="q1", not_after_ms=NOW_MS + 60_000, plan=plan_digest(PLAN),
        input=given_inputs, labels=labels, priority=priority,
    )  # fmt: skip
    outcomes = []
    for way in (the_long_way, as_a_whole):
        led = machine()
        way(led, request, ran, result)
        outcomes.append(left_by(led))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2].state == "COMPLETED"


TASKS = [
    Plan(name="one", nodes=(Group(name="root", size=2), Task(name="s", uses="noop", parent=0))),
    Plan(
        name="more",
        labels={"team": "a"},
        nodes=(
            Group(name="root", size=2, cancel_timeout_ms=5_000),
            Task(
                name="s", uses="test/x", parent=0, title="A step", inputs={"n": [1, {"m": 2}]},
                runs_on=("gpu",), retry=RetryPolicy(max_attempts=3), attempt_timeout_ms=1_000,
                heartbeat_timeout_ms=500, priority=2,
            ),
        ),
    ),
]  # fmt: skip
extras = st.none() | st.builds(
    ResultExtra,
    env=st.dictionaries(st.sampled_from(["A", "B"]), st.text(max_size=4)),
    summary=st.text(max_size=10),
)


@examples(150)
@given(
    plan=st.sampled_from(TASKS),
    labels=st.dictionaries(st.sampled_from(["team", "app"]), st.sampled_from(["a", "b"])),
    priority=st.integers(-3, 3),
    output=st.dictionaries(st.text(max_size=5), values, max_size=3),
    took_ms=st.integers(0, 900),
    extra=extras,
)
def test_a_task_is_recorded_the_same_both_ways(
    plan, labels, priority, output, took_ms, extra
) -> None:
    request = SubmitRun(
        run="r1", request_id="q1", not_after_ms=NOW_MS + 60_000, plan=plan_digest(plan),
        input={"n": 1}, labels=labels, priority=priority,
    )  # fmt: skip
    started_ms = NOW_MS + 9_000
    outcomes = []
    for whole in (False, True):
        led = machine(plan=plan)
        if whole:
            begun = led.brief("default", request)
            assert begun is not None
            result = StepResult(
                "default/r1", 1, 1, 99, ResultStatus.COMPLETED, raw(output), started_ms,
                started_ms + took_ms, None, extra,
            )  # fmt: skip
            life = TaskLife("default/r1", request, begun, f"{WORKER}.{LIFE}", result)
            assert life.fits(led.limits)
            led.record_life(life)
            assert not led.state.agenda
        else:
            assert not isinstance(led.request("default", request), Refusal)
            led.settle()
            (lane,) = led.ready.filled
            (task,) = led.schedule(lane, 1, lane)
            result = StepResult(
                task.run, task.step, task.attempt, task.token, ResultStatus.COMPLETED, raw(output),
                started_ms, started_ms + took_ms, None, extra,
            )  # fmt: skip
            assert not led.results(ResultBatch(1, WORKER, LIFE, [result]))
        led.settle()
        outcomes.append(left_by(led))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][2].state == "COMPLETED"


def test_a_result_of_a_task_that_is_no_map_or_too_large_takes_the_long_way() -> None:
    led = machine(plan=TASKS[0])
    request = SubmitRun(
        run="r", request_id="q", not_after_ms=NOW_MS + 60_000, plan=plan_digest(TASKS[0])
    )
    begun = led.brief("default", request)
    assert begun is not None
    for output, fits in (({}, True), ({"n": 1}, True), ([1, 2], False), ({"n": "x" * 200}, False)):
        result = StepResult("default/r", 1, 1, 9, ResultStatus.COMPLETED, raw(output), 1, 2)
        life = TaskLife("default/r", request, begun, "w.a", result)
        assert life.fits(Limits(output_bytes=100)) is fits


@pytest.mark.parametrize(
    "changed",
    [
        {"needs": (), "continue_on_error": True},
        {"condition": "true"},
        {"inputs": {"n": "${{ inputs.n }}"}},
        {"effect": "at-most-once"},
        {"schedule_timeout_ms": 1_000},
        {"timeout_ms": 1_000},
        {"sticky": "k"},
        {"env": {"A": "b"}},
        {"cache": Cache(key="k", ttl_ms=1_000)},
    ],
    ids=lambda changed: next(reversed(changed)),
)
def test_a_task_that_asks_for_more_takes_the_long_way(changed) -> None:
    root, task = TASKS[0].nodes
    plan = Plan(name="one", nodes=(root, msgspec.structs.replace(task, **changed)))
    led = machine(plan=plan)
    request = SubmitRun(
        run="r", request_id="q", not_after_ms=NOW_MS + 60_000, plan=plan_digest(plan)
    )
    assert not isinstance(led.request("default", request), Refusal)
    assert led.brief("default", msgspec.structs.replace(request, run="r2")) is None


LOW = Limits(output_bytes=100, journal_entries=2, journal_bytes=600)


def lived(limits: Limits = LOW, **changes: object) -> bool:
    ran = [StepRan("a#1", "a", "", 1, 2, raw("x")), StepRan("b#1", "b", "", 1, 2, raw("x"))]
    led = machine(limits)
    request = SubmitRun(
        run="r", request_id="q", not_after_ms=NOW_MS + 60_000, plan=plan_digest(PLAN)
    )
    begun = brief(led, request)
    assert begun is not None
    life = Life("default/r", request, begun, "w.a", ran, raw("x"))
    return life._replace(**changes).fits(limits)


def test_what_passes_a_limit_takes_the_long_way() -> None:
    one = StepRan("a#1", "a", "", 1, 2, raw("x"))
    assert lived()
    assert not lived(result=raw("x" * 100))
    assert not lived(ran=[msgspec.structs.replace(one, value=raw("x" * 100))])
    assert not lived(ran=[msgspec.structs.replace(one, key=f"a#{n}") for n in range(3)])
    assert not lived(ran=[one, one])
    assert not lived(ran=[msgspec.structs.replace(one, key="")])
    assert not lived(ran=[msgspec.structs.replace(one, key="k" * 500)])


def test_what_is_large_takes_the_long_way() -> None:
    one = StepRan("a#1", "a", "", 1, 2, raw("x" * BYTES_MAX))
    assert lived(limits=Limits())
    assert not lived(limits=Limits(), ran=[one])
    assert not lived(limits=Limits(), result=one.value)


@pytest.mark.parametrize(
    "changed",
    [
        msgspec.structs.replace(PLAN, timeout_ms=1_000),
        msgspec.structs.replace(PLAN, run_name="${{ inputs.n }}"),
        msgspec.structs.replace(PLAN, fairness_key="k"),
        msgspec.structs.replace(PLAN, env={"A": "b"}),
        msgspec.structs.replace(
            PLAN, nodes=(PLAN.nodes[0], msgspec.structs.replace(PLAN.nodes[1], priority=1))
        ),
        msgspec.structs.replace(
            PLAN, nodes=(msgspec.structs.replace(PLAN.nodes[0], outputs={"n": 1}), PLAN.nodes[1])
        ),
    ],
)
def test_a_plan_that_asks_for_more_takes_the_long_way(changed) -> None:
    led = machine()
    led.request("default", StorePlan(plan=encode_plan(changed)))
    digest = plan_digest(changed)
    # A first run has the plan compiled.
    first = SubmitRun(run="r0", request_id="q0", not_after_ms=NOW_MS + 60_000, plan=digest)
    assert not isinstance(led.request("default", first), Refusal)
    again = SubmitRun(run="r1", request_id="q1", not_after_ms=NOW_MS + 60_000, plan=digest)
    assert brief(led, again) is None


def test_what_cannot_begin_at_once_takes_the_long_way() -> None:
    def request(**changes: object) -> SubmitRun:
        plain = SubmitRun(
            run="r", request_id="q", not_after_ms=NOW_MS + 60_000, plan=plan_digest(PLAN)
        )
        return msgspec.structs.replace(plain, **changes)

    led = machine()
    assert brief(led, request()) is not None
    assert brief(led, request(plan="unknown")) is None
    assert brief(led, request(), "other") is None
    assert brief(led, request(fairness_key="k")) is None
    assert brief(led, request(labels={subjects.TRACE_LABEL: "00-1-2-01"})) is None
    assert brief(led, request(labels={"": "nameless"})) is None
    assert brief(led, request(input={"n": "x" * 2_000_000})) is None
    led.request("default", request(run="taken"))
    assert brief(led, request(run="taken")) is None
    full = machine(Limits(runs=0))
    assert brief(full, request()) is None
