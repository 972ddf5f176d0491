"""Loops: matrices by GitHub's rules, for-each, max-parallel, fail-fast; and joins of all kinds."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.coordinator.core import Limits
from headrace.errors import InvalidRequest
from headrace.events import Expanded
from headrace.plan._items import expand_items, matrix_items
from support.corekit import Kit, finish
from support.plans import group, job, join, loop, plan, task, wait

# --- matrices ----------------------------------------------------------------------------------


def test_a_matrix_is_every_combination_last_axis_fastest() -> None:
    assert matrix_items({"os": ["l", "m"], "v": [1, 2]}) == [
        {"os": "l", "v": 1},
        {"os": "l", "v": 2},
        {"os": "m", "v": 1},
        {"os": "m", "v": 2},
    ]


def test_include_by_githubs_own_example() -> None:
    """From GitHub's documentation, "Expanding or adding matrix configurations"."""
    matrix = {
        "fruit": ["apple", "pear"],
        "animal": ["cat", "dog"],
        "include": [
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    }
    assert matrix_items(matrix) == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_exclude_by_githubs_own_example() -> None:
    """Partial matches exclude; `include` comes after `exclude` and may add what it took away."""
    matrix = {
        "os": ["macos-latest", "windows-latest"],
        "version": [12, 14, 16],
        "environment": ["staging", "production"],
        "exclude": [
            {"os": "macos-latest", "version": 12, "environment": "production"},
            {"os": "windows-latest", "version": 16},
        ],
    }
    assert len(matrix_items(matrix)) == 9


def test_only_include() -> None:
    assert matrix_items({"include": [{"a": 1}, {"a": 2, "b": 3}]}) == [{"a": 1}, {"a": 2, "b": 3}]


@pytest.mark.parametrize(
    "matrix",
    [
        [],
        "x",
        {"a": []},
        {"a": "b"},
        {},
        {"a": [1], "exclude": [{"a": 1}]},
        {"a": [1], "include": "x"},
        {"a": [1], "exclude": ["x"]},
        {"a": list(range(257))},
        {str(i): list(range(10)) for i in range(9)},
    ],
)
def test_matrices_that_make_no_sense(matrix: Any) -> None:
    with pytest.raises(InvalidRequest):
        matrix_items(matrix)


def test_labels_are_values_and_never_the_same_twice() -> None:
    node = plan(loop("m", task("x"), {"a": [1]}, kind="matrix")).nodes[1]
    include = [{"a": "x,2"}, {"a": "x"}, {"a": "x"}, {"a": True, "b": "c/d"}]
    _, labels = expand_items(node, {"include": include})  # type: ignore[arg-type]
    assert labels == ["x,2", "x", "x,3", "true,c_d"]


def test_the_legs_of_a_matrix_come_in_the_order_that_was_written() -> None:
    kit = Kit()
    axes = {"version": ["3.12", "3.11"], "os": ["linux", "mac"]}
    kit.start(plan(loop("build", task("x"), axes, kind="matrix")))
    assert kit.dispatched() == [
        "build[3.12,linux]",
        "build[3.12,mac]",
        "build[3.11,linux]",
        "build[3.11,mac]",
    ]


def test_a_matrix_from_an_earlier_step() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("list"),
            loop(
                "build",
                task("x", inputs={"v": "${{ matrix.v }}", "n": "${{ strategy.job-index }}"}),
                {"v": "${{ fromJSON(needs.list.outputs.vs) }}"},
                kind="matrix",
                needs=["list"],
            ),
        )
    )
    kit.complete("list", {"vs": '["3.11","3.12"]'})
    assert kit.dispatched() == ["build[3.11]", "build[3.12]"]
    assert kit.inputs("build[3.12]") == {"v": "3.12", "n": 1}


def test_a_matrix_that_cannot_be_expanded_fails_the_node() -> None:
    kit = Kit()
    kit.start(plan(loop("m", task("x"), "${{ 'none' }}", kind="matrix"), task("y", needs=["m"])))
    assert kit.statuses() == {"m": "FAILED", "y": "SKIPPED"}


def test_a_matrix_merges_its_legs_outputs_the_last_one_wins() -> None:
    kit = Kit()
    body = job("x", task("s"), outputs={"o": "${{ steps.s.outputs.o }}"})
    kit.start(
        plan(
            loop("m", body, {"a": [1, 2]}, kind="matrix"),
            task("z", needs=["m"], inputs={"o": "${{ needs.m.outputs.o }}"}),
        )
    )
    kit.complete("m[2]/s", {"o": "two"})
    kit.complete("m[1]/s", {"o": "one"})
    assert kit.inputs("z") == {"o": "two"}


# --- for-each ----------------------------------------------------------------------------------


def test_for_each_gives_each_iteration_its_item() -> None:
    kit = Kit()
    kit.start(
        plan(
            loop(
                "l",
                task("x", inputs={"i": "${{ file.name }}", "n": "${{ loop.index }}"}),
                [{"name": "a"}, {"name": "b"}],
                variable="file",
            )
        )
    )
    assert kit.inputs("l[1]") == {"i": "b", "n": 1}
    kit.complete("l[1]", {"r": 2})
    kit.complete("l[0]", {"r": 1})
    assert kit.run_output() == {"l": {"results": [{"r": 1}, {"r": 2}]}}


def test_for_each_over_a_mapping_gives_keys_and_values() -> None:
    kit = Kit()
    kit.start(
        plan(loop("l", task("x", inputs={"k": "${{ item.key }}"}), "${{ inputs.m }}")),
        input={"m": {"a": 1, "b": 2}},
    )
    assert [kit.inputs(f"l[{i}]")["k"] for i in range(2)] == ["a", "b"]


def test_for_each_over_nothing_is_done() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), []), task("y", needs=["l"])))
    assert kit.statuses() == {"l": "COMPLETED", "y": "DISPATCHED"}


def test_for_each_over_a_lazy_context_is_plain_data() -> None:
    """`tasks` is made when asked for; what is logged must be data all the same."""
    kit = Kit()
    kit.start(plan(task("a"), loop("l", task("x"), ["${{ tasks }}"], needs=["a"])))
    kit.complete("a", {"n": 1})
    (event,) = kit.all_events(kind=Expanded)
    assert event.items[0]["a"]["outputs"] == {"n": 1}


def test_max_parallel_lets_in_one_for_each_that_ends() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), list(range(5)), max_parallel=2)))
    assert kit.dispatched() == ["l[0]", "l[1]"]
    kit.complete("l[1]")
    assert kit.dispatched() == ["l[0]", "l[2]"]
    kit.kill(snapshot=True)
    assert kit.dispatched() == ["l[0]", "l[2]"], "a new leader keeps to it"
    assert finish(kit) == "COMPLETED"


@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5", "NaN"])
def test_max_parallel_that_makes_no_sense_fails_the_node(value: str) -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), [1], max_parallel="${{ inputs.n }}")), input={"n": value})
    assert kit.state() == "FAILED"
    assert "max-parallel" in kit.run().ended_reason


def test_explain_does_not_promise_a_worker_to_what_waits_for_its_turn() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), [1, 2, 3], max_parallel=1)))
    assert [reason.path for reason in kit.explain().reasons] == ["l[0]"]


def test_fail_fast_cancels_the_rest() -> None:
    kit = Kit()
    kit.start(
        plan(
            loop("l", task("x"), list(range(4)), fail_fast=True, max_parallel=2),
            task("after", needs=["l"], condition="always()"),
        )
    )
    kit.fail("l[0]")
    assert kit.status("l") == "FAILED"
    assert [kit.status(f"l[{i}]") for i in range(4)] == [
        "FAILED",
        "DISPATCHED",
        "CANCELLED",
        "CANCELLED",
    ]
    assert [order.cancel.step for order in kit.orders] == [kit.instance("l[1]")]
    kit.complete("after")
    assert kit.state() == "RUNNING", "a step still runs on a worker"
    kit.cancelled("l[1]")
    assert kit.status("l[1]") == "CANCELLED"
    assert kit.state() == "FAILED"


def test_without_fail_fast_every_iteration_runs() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), [1, 2, 3])))
    kit.fail("l[0]")
    kit.complete("l[1]")
    assert kit.status("l") == "RUNNING"
    kit.complete("l[2]")
    assert kit.status("l") == "FAILED"


def test_a_tolerated_failure_does_not_fail_fast() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x", continue_on_error=True), [1, 2], fail_fast=True)))
    kit.fail("l[0]")
    kit.complete("l[1]")
    assert kit.state() == "COMPLETED"


def test_loops_in_loops() -> None:
    kit = Kit()
    inner = loop(
        "in", task("x", inputs={"p": "${{ format('{0}{1}', a, b) }}"}), [1, 2], variable="b"
    )
    kit.start(plan(loop("out", group("body", inner), ["u", "v"], variable="a")))
    paths = [f"out[{i}]/in[{j}]" for i in range(2) for j in range(2)]
    assert kit.dispatched() == paths
    assert [kit.inputs(path)["p"] for path in paths] == ["u1", "u2", "v1", "v2"]
    assert finish(kit) == "COMPLETED"


def test_a_run_has_a_limit_of_instances() -> None:
    kit = Kit(limits=Limits(nodes=50))
    kit.start(plan(loop("l", group("g", task("x"), task("y")), list(range(20)))))
    assert kit.state() == "FAILED"
    assert "a run has at most 50" in kit.run().ended_reason


def test_items_have_a_limit_of_bytes() -> None:
    kit = Kit(watch=False)
    large = "x" * 100_000
    kit.start(plan(loop("l", task("x"), {"a": [large], "b": list(range(200))}, kind="matrix")))
    assert kit.state() == "FAILED"
    assert "the limit is" in kit.run().ended_reason


# --- joins -------------------------------------------------------------------------------------


def joined(policy: Any, children: int = 3, **options: Any) -> Kit:
    kit = Kit()
    kit.start(
        plan(
            group("g", *(task(f"t{i}") for i in range(children)), join=policy, **options),
            task("after", needs=["g"]),
        )
    )
    return kit


def test_any_with_losers_cancelled() -> None:
    kit = joined(join("any"))
    kit.complete("g/t1")
    assert kit.status("g") == "COMPLETED"
    assert kit.dispatched() == ["g/t0", "g/t2", "after"]
    assert kit.run().doomed == {kit.instance("g/t0"), kit.instance("g/t2")}
    kit.complete("after")
    assert kit.state() == "RUNNING"
    kit.complete("g/t0")
    assert kit.status("g/t0") == "COMPLETED", "it was faster than the order to stop"
    kit.lose("g/t2")
    assert kit.status("g/t2") == "CANCELLED"
    assert kit.state() == "COMPLETED"


def test_any_with_losers_detached() -> None:
    kit = joined(join("any", losers="detach"))
    kit.complete("g/t1")
    assert kit.status("g") == "COMPLETED"
    assert not kit.run().doomed
    kit.complete("after")
    assert kit.state() == "RUNNING", "the run waits for what is detached"
    kit.fail("g/t0")
    kit.kill()
    kit.complete("g/t2")
    assert kit.state() == "COMPLETED"


def test_any_with_losers_awaited() -> None:
    kit = joined(join("any", losers="await"))
    kit.complete("g/t1")
    assert kit.status("g") == "RUNNING"
    kit.fail("g/t0")
    kit.complete("g/t2")
    assert kit.status("g") == "COMPLETED"
    assert kit.dispatched() == ["after"]


@pytest.mark.parametrize(("kind", "value", "needed"), [("count", 2, 2), ("percent", 34, 2)])
def test_count_and_percent_round_up(kind: str, value: int, needed: int) -> None:
    kit = joined(join(kind, value))
    for index in range(needed):
        assert kit.status("g") == "RUNNING"
        kit.complete(f"g/t{index}")
    assert kit.status("g") == "COMPLETED"


def test_a_join_fails_as_soon_as_it_cannot_succeed() -> None:
    kit = joined(join("count", 2))
    kit.fail("g/t0")
    assert kit.status("g") == "RUNNING"
    kit.fail("g/t1")
    assert kit.status("g") == "FAILED"
    kit.cancelled("g/t2")
    assert kit.status("after") == "SKIPPED"
    assert kit.state() == "FAILED"


def test_a_join_of_skipped_children_says_why_it_failed() -> None:
    kit = Kit()
    kit.start(plan(group("g", task("a", condition="false"), join=join("any"))))
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason == "g: join: 0 of 1 succeeded, 1 were needed"


def test_detached_below_a_cancelled_group_does_not_hold_the_run() -> None:
    kit = Kit()
    inner = group("i", task("x"), wait("never"), join=join("any", losers="detach"))
    kit.start(plan(group("o", inner, task("y"), join=join("any"))))
    kit.complete("o/i/x")
    assert kit.status("o") == "COMPLETED"
    kit.cancelled("o/y")
    assert kit.status("o/i/never") == "CANCELLED"
    assert kit.state() == "COMPLETED"
