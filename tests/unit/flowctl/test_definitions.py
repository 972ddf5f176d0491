"""`register`, `definitions`, and `submit` of a name."""

import json
from pathlib import Path

import pytest

from headrace.messages import SubmitRun


def write(workflow, old, new):
    path = Path(workflow)
    path.write_text(path.read_text().replace(old, new))


def test_a_registered_workflow_is_submitted_by_its_name(flowctl, cluster, workflow):
    assert flowctl("register", workflow, "-o", "name").out == "hello@1\n"
    write(workflow, "echo a", "echo c")
    shown = flowctl("register", workflow, "--version", "2.0")
    assert "2.0" in shown.out
    ran = flowctl("submit", "hello", "-i", "count=3", "-o", "json")
    assert ran.code == 0, ran.err
    newest = json.loads(flowctl("definitions", "get", "hello", "-o", "json").out)
    assert json.loads(ran.out)["plan"] == newest["digest"]
    assert json.loads(ran.out)["input"] == {"count": 3, "note": ""}
    old = flowctl("submit", "hello@1", "-o", "json")
    oldest = json.loads(flowctl("definitions", "get", "hello@1", "-o", "json").out)
    assert json.loads(old.out)["plan"] == oldest["digest"] != newest["digest"]


def test_the_inputs_of_a_registered_workflow_are_checked(flowctl, cluster, workflow):
    flowctl("register", workflow)
    ran = flowctl("submit", "hello", "-i", "cuont=3")
    assert ran.code == 3
    assert "unknown input 'cuont'" in ran.err
    assert not cluster.sent(SubmitRun)


def test_a_file_goes_before_a_name(flowctl, cluster, workflow, tmp_path):
    flowctl("register", workflow)
    (tmp_path / "hello").write_text(Path(workflow).read_text().replace("echo a", "echo file"))
    ran = json.loads(flowctl("submit", "hello", "-o", "json").out)
    kept = json.loads(flowctl("definitions", "get", "hello", "-o", "json").out)
    assert ran["plan"] != kept["digest"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("helo", "no file helo, and no definition helo in namespace default; did you mean hello?"),
        ("hello@7", "no file hello@7, and no version 7 of definition hello (registered: 1)"),
    ],
)
def test_what_is_neither_file_nor_name(flowctl, cluster, workflow, target, said):
    flowctl("register", workflow)
    ran = flowctl("submit", target)
    assert (ran.code, ran.err.strip()) == (4, f"error: {said}")


def test_a_missing_file_is_no_name(flowctl, cluster):
    ran = flowctl("submit", "missing.yaml")
    assert ran.code == 3
    assert "cannot read missing.yaml" in ran.err
    assert flowctl("submit", "hello@").code == 3


def test_the_same_version_with_another_content_is_refused(flowctl, cluster, workflow):
    assert flowctl("register", workflow, "--version", "1.0").code == 0
    assert flowctl("register", workflow, "--version", "1.0").code == 0
    write(workflow, "echo a", "echo c")
    ran = flowctl("register", workflow, "--version", "1.0")
    assert ran.code == 3
    assert "another content" in ran.err


def test_a_name_that_cannot_be_one_gets_a_suggestion(flowctl, cluster, workflow):
    write(workflow, "name: hello", "name: Build and test")
    ran = flowctl("register", workflow)
    assert ran.code == 3
    assert "--name build-and-test" in ran.err
    assert flowctl("register", workflow, "--name", "build").code == 0
    assert flowctl("definitions", "list", "-o", "name").out == "build@1\n"


def test_definitions_are_listed_and_deleted(flowctl, cluster, workflow):
    assert "nothing is registered" in flowctl("definitions", "list").err
    flowctl("register", workflow)
    flowctl("register", workflow, "--version", "2")
    listed = flowctl("definitions", "list")
    assert [line.split()[:2] for line in listed.out.splitlines()[1:]] == [
        ["hello", "2"],
        ["hello", "1"],
    ]
    assert "deleted: hello@2" in flowctl("definitions", "delete", "hello@2").err
    assert json.loads(flowctl("definitions", "list", "hello", "-o", "json").out)[0]["latest"]
    flowctl("definitions", "delete", "hello")
    assert flowctl("definitions", "get", "hello").code == 4
