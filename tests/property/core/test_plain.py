"""The short way of plain tasks decides what the long way decides: the same entries in the log."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.coordinator.core.program import Program
from headrace.messages import ResultStatus, StepError
from headrace.plan import Group, Plan, Task
from support.core_plans import whole_plans
from support.core_settings import TIMEOUT_S, examples
from support.corekit import Kit

pytestmark = pytest.mark.timeout(TIMEOUT_S)
WORDS = ("ok", "ok", "ok", "ok", "ok", "fail", "back", "lose", "pause", "resume", "signal", "wait")
scripts = st.lists(
    st.tuples(st.sampled_from((*WORDS, "cancel", "kill")), st.integers(0, 7)), min_size=8
)


@st.composite
def graphs(draw: st.DrawFn) -> Plan:
    """Tasks that need each other, most of them plain."""
    count = draw(st.integers(2, 6))
    tasks = [
        Task(
            name=f"t{number}",
            uses="noop",
            parent=0,
            needs=tuple(sorted(draw(st.sets(st.integers(1, number), max_size=2))))
            if number
            else (),
            condition=draw(st.sampled_from(["", "", "", "always()", "failure()"])),
            continue_on_error=draw(st.booleans()),
            priority=draw(st.integers(0, 1)),
        )
        for number in range(count)
    ]
    return Plan(name="graph", nodes=(Group(name="root", size=count + 1), *tasks))


def play(plan: Plan, script: list[tuple[str, int]]) -> tuple[list[object], int]:
    """Return what a script has put into the log, and how many steps took the short way."""
    kit = Kit()
    kit.submit(plan)
    for word, number in script:
        tasks = sorted(kit.tasks.values(), key=lambda task: task.token)
        if word in ("ok", "fail", "back", "lose"):
            if not tasks:
                continue
            task = tasks[number % len(tasks)]
            if word == "ok":
                kit.report(kit.result(task, ResultStatus.COMPLETED, output={"n": number}))
            elif word == "fail":
                error = StepError("boom", "no", number % 2 == 0)
                kit.report(kit.result(task, ResultStatus.FAILED, error=error))
            elif word == "back":
                kit.report(kit.result(task, ResultStatus.RETURNED))
            else:
                kit.lose(task.path)
        elif word == "signal":
            kit.signal("s1", {"n": number})
        elif word == "wait":
            kit.advance(10 ** (number % 6))
        elif word == "kill":
            kit.kill()
        else:
            getattr(kit, word)()
    run = kit.machine.state.runs["default/r"]
    return kit.log, sum(found is not None for found in run.program.plain)


@examples(150)
@given(plan=st.one_of(graphs(), whole_plans()), script=scripts)
def test_both_ways_log_the_same(plan: Plan, script: list[tuple[str, int]]) -> None:
    short, plain = play(plan, script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "_plain_task", lambda *_: None)
        long, none = play(plan, script)
    assert none == 0
    assert short == long, f"{plain} plain tasks"
