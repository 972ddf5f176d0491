"""`submit` and `register` of files that name registered workflows: looked up once, then pinned."""

import json

import pytest

from headrace.messages import RegisterDefinition, SubmitRun
from headrace.plan import Subworkflow, decode_plan

ORDER = """\
name: order
on: {workflow_dispatch: {inputs: {id: {required: true}}}}
jobs: {a: {steps: [{run: "echo %s"}]}}
"""
CALLER = "name: caller\njobs: {a: {uses: %s, with: {id: x}}}\n"


@pytest.fixture
def file(tmp_path):
    def write(text, name="w.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def sources(data):
    return [node.source for node in decode_plan(data).nodes if isinstance(node, Subworkflow)]


def test_a_submit_pins_the_version_of_its_moment(flowctl, cluster, file):
    for number in (1, 2):
        assert flowctl("register", file(ORDER % number)).code == 0
    ran = flowctl("submit", file(CALLER % "order"), "-o", "json")
    assert ran.code == 0, ran.err
    submitted = cluster.sent(SubmitRun)[-1]
    plans = [plans[submitted.plan] for plans in cluster.plans.values() if submitted.plan in plans]
    assert sources(plans[0]) == ["order@2"]
    # Later versions change nothing of what is registered.
    assert flowctl("register", file(CALLER % "order@1", "caller.yaml")).code == 0
    assert flowctl("register", file(ORDER % 3)).code == 0
    assert sources(cluster.sent(RegisterDefinition)[-2].plan) == ["order@1"]
    shown = json.loads(flowctl("definitions", "list", "-o", "json").out)
    assert {view["name"] for view in shown} == {"order", "caller"}


def test_what_is_not_registered_is_refused_with_its_place(flowctl, cluster, file):
    assert flowctl("register", file(ORDER % 1)).code == 0
    for command in ("submit", "register"):
        ran = flowctl(command, file(CALLER % "ordr", "c.yaml"))
        assert ran.code == 3
        assert "c.yaml:2:18: cannot use 'ordr': no definition ordr" in ran.err
        assert "did you mean order?" in ran.err
    ran = flowctl("submit", file(CALLER % "order@9"))
    assert "no version 9 of definition order" in ran.err
    assert not cluster.sent(SubmitRun)


def test_a_schedule_pins_them_too(flowctl, cluster, file):
    flowctl("register", file(ORDER % 1))
    options = ("--workflow", file(CALLER % "order"), "--cron", "0 0 * * *")
    assert flowctl("schedule", "create", "s", *options).code == 0
    found = cluster.system.state.schedules["default/s"]
    assert sources(cluster.system.state.plans[found.plan]) == ["order@1"]


def test_files_are_checked_and_drawn_without_a_cluster(flowctl, file):
    path = file(CALLER % "order@2")
    checked = flowctl("validate", path)
    assert (checked.code, checked.out) == (0, f"{path}: ok\n")
    assert "order@2: looked up when it is submitted or registered" in checked.err
    assert flowctl("plan", path).code == 0
    assert "order@2" in flowctl("graph", path, "--format", "json").out
    ran = flowctl("run", path)
    assert ran.code == 3
    assert "nothing is registered without a cluster" in ran.err
