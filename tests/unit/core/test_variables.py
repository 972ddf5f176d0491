"""Variables of a namespace: set in the system shard, pinned by each run, read as `vars`."""

import pytest

from headrace.coordinator.core import Refusal
from headrace.coordinator.core.variables import TOTAL_BYTES_MAX, VALUE_BYTES_MAX
from headrace.events import RunCreated, SettingsChanged, VariablesChanged
from headrace.messages import GetVariables, SetVariable
from support.corekit import NAMESPACE, Kit, finish
from support.patchkit import patched
from support.plans import child, group, plan, task

READS = plan(task("a", inputs={"x": "${{ vars.A }}-${{ vars.b }}"}), task("b", needs=["a"]))


def ask(kit, request):
    return kit.tick(lambda m: m.request(NAMESPACE, request))


def put(kit, name, value, **options):
    options.setdefault("request_id", kit.request_id())
    options.setdefault("not_after_ms", kit.now_ms + 1_000)
    return ask(kit, SetVariable(name=name, value=value, **options))


@pytest.fixture
def kit():
    return Kit(shard=0)


def test_set_get_and_delete(kit):
    assert put(kit, "b", "2").values == {"b": "2"}
    assert put(kit, "A", "1").values == {"A": "1", "b": "2"}
    assert ask(kit, GetVariables()).values == {"A": "1", "b": "2"}
    # Names do not mind their case; the last spelling stays.
    assert put(kit, "a", "3").values == {"a": "3", "b": "2"}
    assert put(kit, "B", None).values == {"a": "3"}
    assert put(kit, "B", None).code == "not-found"
    other = kit.tick(lambda m: m.request("other", GetVariables()))
    assert (other.namespace, other.values) == ("other", {})
    kit.kill(snapshot=True)
    assert ask(kit, GetVariables()).values == {"a": "3"}


def test_what_is_refused(kit):
    for name in ("1a", "a-b", "", "github_x", "GITHUB_X", "a" * 129):
        assert put(kit, name, "x").code == "invalid-request"
    assert put(kit, "a", "x" * (VALUE_BYTES_MAX + 1)).code == "limit-exceeded"
    assert not isinstance(put(kit, "a", "x" * VALUE_BYTES_MAX), Refusal)
    rest = TOTAL_BYTES_MAX - VALUE_BYTES_MAX
    assert put(kit, "b", "x" * rest).code == "limit-exceeded"
    assert put(kit, "c", "x", not_after_ms=1).code == "too-late"
    assert put(Kit(shard=1), "a", "x").code == "invalid-request"


def test_sent_twice_it_is_done_once(kit):
    put(kit, "a", "1", request_id="x")
    put(kit, "a", "2")
    assert put(kit, "a", "1", request_id="x").values == {"a": "2"}
    log = len(kit.log)
    assert put(kit, "a", "2").values == {"a": "2"}
    changes = [e for _, e in kit.fresh if isinstance(e, VariablesChanged)]
    assert (len(kit.log), changes) == (log + 1, [])


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_run_goes_by_what_it_began_with(kit, snapshot):
    put(kit, "A", "1")
    put(kit, "B", "2")
    kit.start(READS)
    put(kit, "A", "new")
    kit.kill(snapshot=snapshot)
    kit.lose("a")
    assert kit.inputs("a") == {"x": "1-2"}
    (created,) = kit.all_events(kind=RunCreated)
    assert created.variables == {"A": "1", "B": "2"}
    kit.start(READS, "later")
    assert kit.run("later").variables is kit.machine.state.variables[NAMESPACE][1]
    assert {t.path for t in kit.tasks.values() if t.run.endswith("later")} == {"a"}


def test_a_run_that_reads_none_keeps_none(kit):
    put(kit, "A", "1")
    kit.start(plan(task("a", inputs={"x": "${{ run.id }}"})))
    assert kit.run().variables is None
    (created,) = kit.all_events(kind=RunCreated)
    assert created.variables is None


def test_declared_ones_go_before_those_of_the_namespace(kit):
    put(kit, "A", "namespace")
    put(kit, "B", "2")
    kit.start(plan(task("a", inputs=dict(READS.nodes[1].inputs)), vars={"a": "declared"}))
    assert kit.inputs("a") == {"x": "declared-2"}


def test_conditions_labels_names_and_keys_see_them(kit):
    put(kit, "DEPLOY", "true")
    kit.start(
        plan(
            group("yes", task("s"), condition="vars.DEPLOY == 'true'"),
            group("no", task("s"), condition="vars.OTHER == 'true'"),
            run_name="deploys ${{ vars.deploy }}",
        )
    )
    assert kit.statuses()["no"] == "SKIPPED"
    assert kit.dispatched() == ["yes/s"]
    assert kit.view().name == "deploys true"


def test_what_nobody_but_the_worker_knows_goes_to_the_worker(kit):
    put(kit, "A", "1")
    theirs = "${{ vars.A }}${{ vars.THEIRS }}"
    kit.start(plan(task("a", inputs={"x": "${{ vars.A }}", "y": theirs})))
    options = kit.task("a").options
    assert kit.inputs("a") == {"x": "1", "y": theirs}
    # It is told what it must not change.
    assert options.deferred["vars"] == {"A": "1"}


def test_children_and_patched_runs_pin_theirs(kit):
    inner = plan(task("in", inputs={"x": "${{ vars.A }}"}), name="inner")
    kit.start(plan(task("first"), child("sub", inner, needs=["first"])))
    put(kit, "A", "1")
    kit.complete("first")
    (other,) = [run.partition("/")[2] for run in kit.machine.state.runs if run != f"{NAMESPACE}/r"]
    assert kit.inputs("in", run=other) == {"x": "1"}
    kit.start(plan(task("a")), "plain")
    patched(kit, plan(task("a"), task("b", inputs={"x": "${{ vars.A }}"})), "plain")
    assert kit.inputs("b", run="plain") == {"x": "1"}
    put(kit, "A", "2")
    patched(kit, plan(task("a"), task("b", inputs={"x": "${{ vars.A }}"})), "plain")
    assert kit.run("plain").variables == {"A": "1"}
    assert finish(kit, "plain") == "COMPLETED"


def test_the_other_shards_hear_of_it_in_any_order_and_new_ones_too(kit):
    other = Kit(shard=1)
    kit.tick(lambda m: m.emit_shard(SettingsChanged({"layout": {"journal": 2}})))
    put(kit, "A", "1")
    put(kit, "A", "2")
    kit.tick(lambda m: m.emit_shard(SettingsChanged({"layout": {"journal": 3}})))
    sent = [out for out in kit.outgoing if out.content.kind == "variables"]
    assert {out.shard for out in sent} == {1, 2}
    for out in reversed([out for out in sent if out.shard == 1]):
        other.tick(lambda m, out=out: m.deliver(out.message, out.content))
    other.start(plan(task("a", inputs={"x": "${{ vars.A }}"})))
    assert other.inputs("a") == {"x": "2"}
