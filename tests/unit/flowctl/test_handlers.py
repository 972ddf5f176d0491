"""`flowctl handlers`."""

from __future__ import annotations

import json

from headrace.language import BUILTIN_HANDLERS, NODE_TYPES


def test_the_list(flowctl):
    ran = flowctl("handlers")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "DESCRIPTION"]
    assert len(lines) == 1 + len(BUILTIN_HANDLERS) + len(NODE_TYPES)
    assert flowctl("handlers", "-o", "name").out.split()[0] == "shell"


def test_one_handler_for_people(flowctl):
    out = flowctl("handlers", "http/request").out
    for text in (
        "Inputs:",
        "Outputs:",
        "Example:",
        "exactly" not in out and "at most one of: body",
    ):
        assert text in out
    assert any(line.split()[:3] == ["url", "string", "required"] for line in out.splitlines())
    assert any(line.split()[:3] == ["timeout", "duration", "30"] for line in out.splitlines())
    assert "headrace[s3]" in flowctl("handlers", "file/transfer").out


def test_one_handler_for_programs(flowctl):
    found = json.loads(flowctl("handlers", "http", "-o", "json").out)
    assert (found["name"], found["aliases"]) == ("http/request", ["http"])
    assert found["inputs"]["properties"]["retries"]["type"] == "integer"
    assert found["inputs"]["required"] == ["url"]
    assert found["outputs"]["additionalProperties"] is False
    assert found["example"].startswith("- id: order")


def test_a_node_of_the_engine(flowctl):
    out = flowctl("handlers", "condition").out
    assert "carried out by the engine" in out
    assert "type: condition" in out


def test_an_unknown_name(flowctl):
    ran = flowctl("handlers", "http/requst")
    assert ran.code == 4
    assert "did you mean 'http/request'" in ran.err


def test_those_of_workers(flowctl, cluster):
    ran = flowctl("handlers", "--workers", "-o", "json")
    assert ran.code == 0, ran.err
    custom = [entry["name"] for entry in json.loads(ran.out) if entry["kind"] == "custom"]
    assert custom == sorted(custom)
    for name in custom:
        assert "offered by" in flowctl("handlers", name, "--workers").out
