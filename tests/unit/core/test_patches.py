"""A live run goes on with another plan: what may change, what may not, and what is kept."""

import msgspec
import pytest

from headrace.coordinator.core import Limits, state_hash
from headrace.coordinator.core.renumbering import PATCHES_MAX
from headrace.events import PlanPatched
from headrace.plan import OnFailure, Position
from support.corekit import Kit, finish
from support.patchkit import begun, patched, plain_image, refused
from support.plans import (
    choice,
    group,
    job,
    join,
    key,
    loop,
    plan,
    policy,
    repeat,
    retry,
    sleep,
    task,
    wait,
)

# --- what may change ---------------------------------------------------------------------------


def test_unstarted_nodes_are_replaced_removed_and_added():
    kit = begun(task("a"), task("b", needs=["a"]), task("c", needs=["b"]))
    view = patched(
        kit,
        plan(
            task("first"),
            task("a"),
            task("b", needs=["a"], inputs={"new": 1}),
            task("d", needs=["b", "first"]),
        ),
    )
    assert (view.added, view.removed, view.changed) == (["first", "d"], ["c"], ["b"])
    assert view.begun == 2  # the whole workflow, and a
    (event,) = [e.number for e in kit.history() if e.type == "PlanPatched"]
    assert view.event == event
    assert kit.dispatched() == ["a", "first"]
    kit.complete("a", {"x": 1})
    assert kit.inputs("b") == {"new": 1}
    kit.complete("b")
    kit.complete("first")
    kit.complete("d")
    assert kit.state() == "COMPLETED"
    assert set(kit.statuses()) == {"first", "a", "b", "d"}
    assert kit.output("a") == {"x": 1}


def test_needs_that_have_ended_count_as_met():
    kit = begun(task("a"), task("b"), task("z", needs=["b"]), done=["a"])
    patched(
        kit,
        plan(task("new", needs=["a"]), task("a"), task("b"), task("z", needs=["a"])),
    )
    assert set(kit.dispatched()) == {"b", "z", "new"}


@pytest.mark.parametrize("dialect", ["tasks", "jobs"])
def test_what_failed_before_counts_for_new_nodes(dialect):
    nodes = [task("a"), task("ok"), task("late")]
    kit = begun(*nodes, dialect=dialect)
    kit.fail("a")
    kit.complete("ok")
    patched(
        kit,
        plan(
            *nodes,
            task("after", needs=["a"]),
            task("mend", needs=["a"], condition="failure()"),
            task("any", needs=["a", "ok"], trigger_rule="one_success"),
            task("one-bad", needs=["a", "late"], trigger_rule="one_failed"),
            task("done", needs=["a", "ok"], trigger_rule="all_done"),
            dialect=dialect,
        ),
    )
    assert kit.status("after") == "SKIPPED"
    assert set(kit.dispatched()) == {"late", "mend", "any", "one-bad", "done"}


def test_tolerated_and_skipped_failures_count_as_they_did():
    skip = OnFailure(action="skip")
    nodes = [
        task("soft", continue_on_error=True),
        task("skipped", on_failure=skip),
        task("no", condition="false"),
        task("late"),
    ]
    kit = begun(*nodes)
    kit.fail("soft")
    kit.fail("skipped")
    names = ["soft", "skipped", "no"]
    patched(kit, plan(*nodes, *(task(f"after-{name}", needs=[name]) for name in names)))
    assert kit.status("after-no") == "SKIPPED"
    assert set(kit.dispatched()) == {"late", "after-soft", "after-skipped"}


def test_a_job_that_runs_gets_more_steps_and_keeps_its_worker():
    kit = begun(job("j", task("x"), task("y"), task("z")))
    kit.complete("j/x", worker="w7")
    patched(kit, plan(task("before"), job("j", task("x"), task("y"), task("mid"), task("z"))))
    kit.complete("j/y", worker="w7")
    kit.complete("j/mid", worker="w7")
    assert kit.scheduled()[-1].lane == "@w7"
    kit.complete("j/z", worker="w7")
    assert kit.dispatched() == ["before"]


def test_a_sequence_that_has_failed_skips_what_comes_new():
    kit = begun(job("j", task("x"), task("y"), task("last", condition="always()")))
    kit.fail("j/x")
    assert kit.dispatched() == ["j/last"]
    patched(
        kit,
        plan(
            job(
                "j",
                task("x"),
                task("y"),
                task("last", condition="always()"),
                task("new"),
                task("bye", condition="failure()"),
            )
        ),
    )
    kit.complete("j/last")
    assert kit.status("j/new") == "SKIPPED"
    assert kit.dispatched() == ["j/bye"]


def test_removing_what_was_left_ends_the_run():
    kit = begun(task("a"), task("b", needs=["a"]), task("c"), done=["a", "c"])
    kit2 = begun(task("a"), wait("w", needs=["a"]), sleep("s", 5_000, needs=["w"]), done=["a"])
    assert "b" in kit.dispatched()
    message = refused(kit, plan(task("a"), task("c")))
    assert "b has begun (DISPATCHED) and is not in the new definition" in message
    assert "w has begun (WAITING)" in refused(kit2, plan(task("a")))
    patched(kit2, plan(task("a"), wait("w", needs=["a"])))
    kit2.signal("w")
    assert kit2.state() == "COMPLETED"


def test_joins_count_their_new_children():
    kit = begun(group("g", task("a"), task("b"), task("c"), join=join("percent", 50)))
    assert kit.run().counts[1].needed == 2
    more = [task(name) for name in "abcdefg"]
    patched(kit, plan(group("g", *more, join=join("percent", 50))))
    assert (kit.run().counts[1].total, kit.run().counts[1].needed) == (7, 4)
    for name in "abc":
        kit.complete(f"g/{name}")
    assert kit.state() == "RUNNING"
    kit.complete("g/g")
    assert kit.status("g") == "COMPLETED"


def test_loops_keep_their_instances_and_get_new_steps():
    body = group("do", task("x"), task("y", needs=["x"]))
    kit = begun(loop("each", body, ["p", "q"]), task("end", needs=["each"]))
    kit.complete("each[0]/x", {"n": 0})
    more = group("do", task("new"), task("x"), task("y", needs=["x", "new"], inputs={"v": 2}))
    # y of the first iteration is out.
    assert "each[0]/y has begun" in refused(kit, plan(loop("each", more, ["p", "q"])))
    more = group("do", task("new"), task("x"), task("y", needs=["x"]), task("z", needs=["y"]))
    patched(kit, plan(task("front"), loop("each", more, ["p", "q"]), task("end", needs=["each"])))
    expected = {f"each[{n}]/new" for n in (0, 1)} | {"front", "each[0]/y", "each[1]/x"}
    assert set(kit.dispatched()) == expected
    kit.kill(snapshot=True)
    assert finish(kit) == "COMPLETED"
    assert kit.output("each[0]/x") == {"n": 0}
    assert {"each[0]/z", "each[1]/z"} <= set(kit.statuses())


def test_a_loop_that_has_not_begun_may_become_anything():
    kit = begun(task("a"), loop("each", task("x"), "${{ tasks.a.outputs.l }}", needs=["a"]))
    patched(kit, plan(task("a"), group("each", task("x"), needs=["a"])))
    kit.complete("a")
    assert kit.dispatched() == ["each/x"]
    kit = begun(task("a"), group("each", task("x"), needs=["a"]))
    patched(kit, plan(task("a"), loop("each", task("x"), [1, 2], needs=["a"])))
    kit.complete("a")
    assert kit.dispatched() == ["each[0]", "each[1]"]


def test_a_repetition_goes_on_with_new_steps_in_its_later_iterations():
    kit = begun(repeat("r", group("turn", task("x"), task("y", needs=["x"])), 3))
    later = group("turn", task("x"), task("y", needs=["x"]), task("z", needs=["y"]))
    patched(kit, plan(repeat("r", later, 3)))
    assert finish(kit) == "COMPLETED"
    assert {f"r[{n}]/z" for n in range(3)} <= set(kit.statuses())


def saga(*more, front=()):
    return plan(
        *front,
        group(
            "g",
            task("pay", compensate=task("refund")),
            task("ship", needs=["pay"]),
            *more,
            on_failure=policy("compensate"),
        ),
        task("late"),
    )


def test_what_can_be_undone_moves_along():
    kit = Kit()
    kit.start(saga())
    kit.complete("g/pay", {"id": 7})
    patched(kit, saga(task("new", needs=["pay"]), front=[task("front")]))
    kit.complete("g/new")
    kit.complete("front")
    kit.fail("g/ship")
    assert kit.dispatched() == ["late", "g/pay~compensate"], kit.explain()
    again = saga(task("new", needs=["pay"]), task("more"), front=[task("front")])
    assert "g/more is new, but g is being compensated: nothing can be added" in refused(kit, again)
    kit.kill(snapshot=True)
    patched(kit, saga(task("new", needs=["pay"]), front=[task("front"), task("beside")]))
    assert "beside" in kit.dispatched()
    for path in ("g/pay~compensate", "late", "beside"):
        kit.complete(path)
    assert kit.state() == "FAILED"
    assert "g/ship" in kit.view().reason


# --- what may not ------------------------------------------------------------------------------


def test_every_conflict_is_told_with_its_place():
    def at(line, column=5):
        return Position(line=line, column=column)

    kit = begun(
        task("a", position=at(3)), task("b", position=at(4)), task("c", position=at(5)), done=["a"]
    )
    new = plan(
        task("a", position=at(13), inputs={"x": 1}, needs=["d"]),
        task("c", position=at(14)),
        task("d", position=at(15)),
        name="other",
        file="order.yaml",
    )
    assert refused(kit, new).splitlines() == [
        "run r cannot go on with this definition; nothing was changed",
        "order.yaml: `name` of the workflow is another; a patch replaces nodes only",
        "order.yaml:13:5: a has ended (COMPLETED) and cannot change: inputs, needs",
        "b has begun (DISPATCHED) and is not in the new definition (it stands at "
        "the old definition:4:5)",
    ]


def test_only_nodes_can_be_replaced():
    kit = begun(task("a"), task("b", needs=["a"]))
    for options in (
        {"env": {"A": "1"}},
        {"vars": {"v": 1}},
        {"timeout_ms": 5_000},
        {"concurrency": key("k")},
        {"run_name": "x"},
    ):
        (name,) = options
        assert f"`{name}` of the workflow is another" in refused(
            kit, plan(task("a"), task("b", needs=["a"]), **options)
        )
    nodes = [task("a"), task("b", needs=["a"])]
    patched(kit, plan(*nodes, description="d", version="2", labels={"a": "b"}))
    assert kit.run().labels == {}


def test_below_what_has_ended_nothing_changes():
    kit = begun(
        group("g", task("x"), group("skipped", task("s"), condition="false")),
        choice("c", task("yes", condition="true"), task("no")),
        task("late"),
        done=["g/x"],
    )

    def other(g=(), skipped=(), c=(), s=None):
        return plan(
            group(
                "g", task("x"), group("skipped", s or task("s"), *skipped, condition="false"), *g
            ),
            choice("c", task("yes", condition="true"), task("no"), *c),
            task("late"),
        )

    assert "g/new is new, but g has ended (COMPLETED)" in refused(kit, other(g=[task("new")]))
    message = refused(kit, other(skipped=[task("new")]))
    assert "g/skipped/new is new, but g/skipped has ended (SKIPPED)" in message
    changed = refused(kit, other(s=task("s", inputs={"v": 1})))
    assert "g/skipped/s has begun (PENDING) and cannot change: inputs" in changed
    assert "c has chosen its branch" in refused(kit, other(c=[task("third", condition="true")]))
    patched(kit, other())


def test_a_step_that_has_been_out_before_must_stay():
    kit = begun(task("a", retry=retry(3)), task("b"))
    kit.lose("a")
    assert kit.status("a") == "DISPATCHED"
    kit = begun(task("a"))
    kit.pause()
    kit.hand_back("a")
    assert kit.status("a") == "PENDING"
    assert "a has begun (PENDING)" in refused(kit, plan(task("a", inputs={"v": 1})))


def test_ended_cancelled_and_unknown_runs_are_refused():
    kit = begun(task("a"), done=["a"])
    assert "it cannot be patched any more" in refused(kit, plan(task("b")))
    kit = begun(task("a"))
    kit.cancel()
    assert "is being cancelled" in refused(kit, plan(task("a"), task("b")))
    assert kit.patch(plan(task("a")), "nobody").code == "not-found"
    assert kit.patch("0" * 32).code == "unknown-plan"


def test_limits():
    kit = Kit(limits=Limits(nodes=6))
    kit.start(plan(loop("each", group("do", task("x")), [1])))
    more = group("do", task("x"), task("y"))
    assert refused(kit, plan(loop("each", more, [1])), "limit-exceeded")
    kit = begun(task("a"))
    same = kit.store(plan(task("a")))
    for _ in range(PATCHES_MAX):
        patched(kit, same)
    assert kit.patch(same).code == "limit-exceeded"


def test_a_race_with_a_step_is_decided_by_who_came_first():
    kit = begun(task("a"), task("b", needs=["a"]))
    new = kit.store(plan(task("a"), task("b", needs=["a"], inputs={"v": 2})))
    kit.complete("a")
    assert "b has begun (DISPATCHED) and cannot change: inputs" in kit.patch(new).message


# --- requests ----------------------------------------------------------------------------------


def test_a_patch_sent_twice_is_one():
    kit = begun(task("a"))
    new = kit.store(plan(task("a"), task("b")))
    first = patched(kit, new, request_id="p", not_after_ms=kit.now_ms + 1_000)
    again = patched(kit, new, request_id="p", not_after_ms=kit.now_ms + 1_000)
    assert again == msgspec.structs.replace(first, begun=0)
    assert len(kit.all_events(kind=PlanPatched)) == 1
    kit.advance(2_000)
    assert kit.patch(new, request_id="q", not_after_ms=kit.now_ms - 1).code == "too-late"
    kit.complete("a")
    kit.complete("b")
    assert patched(kit, new, request_id="p", not_after_ms=kit.now_ms + 1_000).event == first.event


def test_a_dry_run_changes_nothing():
    kit = begun(task("a"))
    new = kit.store(plan(task("a"), task("b")))
    before = state_hash(kit.folder.state)
    view = patched(kit, new, dry_run=True)
    assert (view.added, view.event) == (["b"], 0)
    assert state_hash(kit.folder.state) == before
    assert "and cannot change" in refused(kit, plan(task("a", inputs={"v": 1})), dry_run=True)


def test_the_same_plan_changes_nothing_but_for_the_event():
    specs = [
        task("a", retry=retry(3)),
        loop("each", group("do", task("x"), task("y", needs=["x"])), [1, 2], max_parallel=1),
        job("j", task("s"), task("t"), concurrency=key("k")),
        wait("w", timeout_ms=50_000),
        task("q", schedule_timeout_ms=9_000, needs=["a"]),
        task("gpu", schedule_timeout_ms=9_000, runs_on=("gpu",)),
    ]
    kit = begun(*specs)
    kit.fail("a")
    kit.complete("each[0]/x")
    before, timers = plain_image(kit.run()), kit.machine.timers.next_ms()
    patched(kit, plan(*specs))
    assert plain_image(kit.run()) == before
    assert kit.machine.timers.next_ms() == timers
