"""What a rerun from a step repeats."""

import pytest

from headrace.client._rerun import carried_results, from_step
from headrace.errors import InvalidRequest
from support.corekit import Kit, finish
from support.plans import group, job, loop, plan, policy, repeat, task

PLAN = plan(
    task("a"),
    job("j", task("x"), task("y"), needs=["a"]),
    loop("each", task("do"), items=["p", "q"], needs=["a"]),
    group("g", task("in"), task("beside"), needs=["a"]),
    repeat("r", task("turn"), 2, needs=["a"]),
    task("after-g", needs=["g"]),
    task("last", needs=["after-g", "each"]),
)


@pytest.fixture(scope="module")
def steps():
    kit = Kit()
    kit.start(PLAN)
    assert finish(kit) == "COMPLETED"
    return kit.view().steps


ALL = {
    *("a", "j/x", "j/y", "each[0]", "each[1]", "g/in", "g/beside"),
    *("r[0]", "r[1]", "after-g", "last"),
}


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        ("a", ALL),
        ("last", {"last"}),
        ("j/y", {"j/x", "j/y"}),
        ("each[1]", {"each[1]", "last"}),
        ("each", {"each[0]", "each[1]", "last"}),
        ("g/in", {"g/in", "after-g", "last"}),
        ("g", {"g/in", "g/beside", "after-g", "last"}),
        ("r[1]", {"r[0]", "r[1]"}),
    ],
)
def test_what_comes_after_a_step_runs_again(steps, first, repeated):
    assert {step.path for step in steps if step.kind == "task"} == ALL
    again = from_step(steps, PLAN, first)
    assert ALL - set(carried_results(steps, PLAN, again=again)) == repeated


def test_a_step_that_is_not_there_is_refused(steps):
    with pytest.raises(InvalidRequest, match="no step b "):
        from_step(steps, PLAN, "b")


def test_what_was_undone_is_done_again():
    undo = task("undo")
    workflow = plan(
        task("a", compensate=undo),
        task("b", needs=["a"]),
        task("c", needs=["b"]),
        root={"on_failure": policy("compensate")},
    )
    kit = Kit()
    kit.start(workflow)
    kit.complete("a")
    kit.complete("b")
    kit.fail("c")
    kit.complete("a~compensate")
    assert set(carried_results(kit.view().steps, workflow)) == {"b"}
