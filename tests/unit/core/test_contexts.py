"""What expressions see: inputs, env, steps, needs, tasks, loop variables; what workers know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from headrace.coordinator.core.contexts import Contexts
from support.corekit import Kit
from support.plans import choice, group, job, loop, plan, task


def given(**inputs: Any) -> dict[str, Any]:
    """Return a task's options with these inputs."""
    return {"inputs": inputs}


def test_inputs_keep_their_types_and_templates_are_texts() -> None:
    kit = Kit()
    kit.start(
        plan(
            task(
                "a",
                **given(
                    n="${{ inputs.n }}", t="n=${{ inputs.n }}", deep=[{"x": "${{ inputs.l }}"}]
                ),
            )
        ),
        input={"n": 3, "l": [1, 2]},
    )
    assert kit.inputs("a") == {"n": 3, "t": "n=3", "deep": [{"x": [1, 2]}]}


def test_steps_are_seen_inside_their_job_only() -> None:
    kit = Kit()
    kit.start(
        plan(
            job("j", task("a"), task("b", **given(v="${{ steps.a.outputs.n }}"))),
            job("k", task("c", **given(v="${{ steps.a.outputs.n }}")), needs=["j"]),
        )
    )
    kit.complete("j/a", {"n": 1})
    assert kit.inputs("j/b") == {"v": 1}
    kit.complete("j/b")
    assert kit.inputs("k/c") == {"v": None}


def test_needs_are_the_jobs_own_seen_from_its_steps() -> None:
    kit = Kit()
    first = job(
        "first", task("a"), outputs={"v": "${{ steps.a.outputs.n }}", "s": "${{ job.status }}"}
    )
    second = job(
        "second", task("x"), task("y", **given(all="${{ toJSON(needs) }}")), needs=["first"]
    )
    kit.start(plan(first, second))
    kit.complete("first/a", {"n": "7"})
    kit.complete("second/x")
    needs = msgspec.json.decode(kit.inputs("second/y")["all"])
    assert needs == {"first": {"result": "success", "outputs": {"v": "7", "s": "success"}}}


def test_needs_are_seen_through_a_matrix_and_not_confused_with_a_loop_in_the_job() -> None:
    kit = Kit()
    inner = loop("each", task("x", **given(r="${{ needs.first.result }}")), [1])
    kit.start(
        plan(
            task("first"),
            loop("m", job("body", task("s"), inner), {"a": [1]}, kind="matrix", needs=["first"]),
        )
    )
    kit.complete("first")
    kit.complete("m[1]/s")
    assert kit.inputs("m[1]/each[0]") == {"r": "success"}


def test_tasks_have_output_result_and_status() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b", continue_on_error=True),
            task("c", needs=["a", "b"], **given(t="${{ toJSON(tasks) }}")),
        )
    )
    kit.complete("a", {"result": [1]})
    kit.fail("b")
    tasks = msgspec.json.decode(kit.inputs("c")["t"])
    assert tasks["a"] == {
        "outputs": {"result": [1]},
        "output": [1],
        "result": "success",
        "status": "COMPLETED",
    }
    assert (tasks["b"]["result"], tasks["b"]["status"]) == ("success", "FAILED")


def test_a_groups_outputs_see_what_is_in_it() -> None:
    kit = Kit()
    inner = group("g", task("a"), outputs={"v": "${{ tasks.a.outputs.n }}", "raw": "${{ tasks }}"})
    kit.start(plan(inner, task("b", needs=["g"], **given(v="${{ needs.g.outputs.v }}"))))
    kit.complete("g/a", {"n": 5})
    assert kit.inputs("b") == {"v": 5}
    assert kit.output("g")["raw"]["a"]["result"] == "success"


def test_outputs_that_cannot_be_evaluated_fail_the_group() -> None:
    kit = Kit()
    kit.start(plan(group("g", task("a"), outputs={"v": "${{ fromJSON('{') }}"})))
    kit.complete("g/a")
    assert kit.state() == "FAILED"
    assert kit.run().ended_reason.startswith("g: outputs: ")


def test_outputs_have_a_limit() -> None:
    kit = Kit(watch=False)
    kit.start(
        plan(
            task("a"), group("g", task("x"), outputs={"v": "${{ tasks.a.outputs.t }}"}, needs=["a"])
        )
    )
    kit.complete("a", {"t": "x" * 600_000})
    kit.complete("g/x")
    assert kit.state() == "FAILED"
    assert "the limit is" in kit.run().ended_reason
    other = Kit(watch=False)
    other.start(plan(task("a")))
    other.complete("a", {"t": "x" * 600_000})
    assert other.state() == "COMPLETED"
    assert other.run_output() == {}, "too large for the run's own output; the step has it"


def test_env_from_the_outside_in() -> None:
    kit = Kit()
    kit.start(
        plan(
            group(
                "g",
                task("a", env={"C": "${{ env.B }}!", "A": 1}),
                env={"B": "${{ inputs.x }}", "A": "group"},
            ),
            env={"A": "plan", "D": True},
        ),
        input={"x": "in"},
    )
    options = kit.task("g/a").options
    assert options is not None
    assert options.env == {"A": "1", "B": "in", "C": "in!", "D": "true"}


def test_about_the_run() -> None:
    kit = Kit()
    kit.start(
        plan(task("a", **given(v="${{ run.id }} ${{ run.namespace }} ${{ github.workflow }}"))),
        "x7",
    )
    assert kit.inputs("a", "x7") == {"v": "x7 default test"}


def test_a_title_may_hold_expressions() -> None:
    kit = Kit()
    kit.start(plan(job("j", task("a", title="build ${{ inputs.v }}"))), input={"v": 3})
    options = kit.task("j/a").options
    assert options is not None
    assert options.title == "build 3"


# --- what only workers know --------------------------------------------------------------------


def test_secrets_travel_unevaluated_with_what_they_need() -> None:
    kit = Kit()
    kit.start(
        plan(
            job(
                "j",
                task(
                    "a",
                    **given(
                        url="https://${{ inputs.host }}/${{ secrets.T }}",
                        plain="${{ inputs.host }}",
                    ),
                ),
                env={"E": "${{ secrets.T }}-${{ inputs.host }}"},
            )
        ),
        input={"host": "${{ secrets.OTHER }}"},
    )
    found = kit.inputs("j/a")
    assert found["url"] == "https://${{ inputs.host }}/${{ secrets.T }}"
    options = kit.task("j/a").options
    assert options is not None
    assert options.deferred["inputs"] == {"host": "${{ secrets.OTHER }}"}
    assert options.deferred["$at"] == [["inputs", "url"]]
    assert options.deferred["$env"] == [[{}, {"E": "${{ secrets.T }}-${{ inputs.host }}"}]]
    assert "E" not in options.env
    assert found["plain"] == "${{ secrets.OTHER }}", "data, and named in no place: never evaluated"


def test_an_unknown_context_beside_a_secret_fails_the_step_and_not_the_shard() -> None:
    kit = Kit()
    kit.start(plan(task("a", **given(v="${{ foo.bar }}${{ secrets.T }}"))))
    assert kit.state() == "FAILED"
    assert "foo" in kit.run().ended_reason


@pytest.mark.parametrize("name", ["steps", "tasks", "needs", "env", "github", "job", "strategy"])
def test_whole_contexts_can_be_handed_on(name: str) -> None:
    """Lazily made ones too: they are plain data on the wire."""
    kit = Kit()
    kit.start(
        plan(
            task("z"), job("j", task("a"), task("b", **given(v=f"${{{{ {name} }}}}")), needs=["z"])
        )
    )
    kit.complete("z")
    kit.complete("j/a", {"n": 1})
    assert isinstance(kit.inputs("j/b")["v"], dict)


def test_contexts_know_their_names() -> None:
    kit = Kit()
    kit.start(plan(loop("l", task("x"), [1], variable="file")))
    contexts = Contexts(kit.run(), kit.instance("l[0]"))
    assert "file" in set(contexts)
    assert len(contexts) == len(set(contexts))
    with pytest.raises(KeyError):
        contexts["nothing"]


def test_scripts_of_the_tasks_dialect_read_the_results_of_their_needs() -> None:
    kit = Kit()
    kit.start(
        plan(
            task("a"),
            task("b"),
            task("one", uses="script", needs=["a"]),
            task("two", uses="script", needs=["a", "b"]),
        )
    )
    kit.complete("a", {"result": "text"})
    assert kit.inputs("one") == {"input_data": "text"}
    kit.complete("b", {"json": {"n": 1}})
    assert kit.inputs("two") == {"input_data": '{"a":"text","b":{"n":1}}'}


def test_a_step_inside_a_branch_is_seen_behind_it() -> None:
    kit = Kit()
    kit.start(
        plan(
            choice(
                "pick",
                group("case-1", task("one"), condition="false", kind="pipeline"),
                group("else", task("two"), kind="pipeline"),
            ),
            task(
                "after",
                needs=["pick"],
                inputs={
                    "all": "${{ tasks.pick.outputs.n }}",
                    "one": "${{ tasks.one.output.n }}",
                    "two": "${{ steps.two.outputs.n }}",
                },
            ),
        )
    )
    kit.complete("pick/else/two", {"n": 2})
    assert kit.inputs("after") == {"all": 2, "one": None, "two": 2}


def test_a_step_inside_a_loop_or_another_job_is_not() -> None:
    kit = Kit()
    kit.start(
        plan(
            loop("each", task("x"), [1]),
            job("j", task("y"), needs=["each"]),
            task("after", needs=["j"], inputs={"s": "${{ tasks.y.output.n || tasks.x.output }}"}),
        )
    )
    kit.complete("each[0]", {"n": 1})
    kit.complete("j/y", {"n": 1})
    assert kit.inputs("after") == {"s": None}
