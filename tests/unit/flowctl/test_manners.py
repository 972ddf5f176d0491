"""Options in the wrong place, mistyped commands, empty results, readers that go early."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "args",
    [
        ("run", "--server", "nats://x", "hello.yaml"),
        ("--server", "nats://x", "run", "hello.yaml"),
        ("--context", "prod", "run", "hello.yaml"),
        ("--context", "prod", "context", "list"),
        ("--server", "nats://x", "version"),
        ("-s", "nats://x", "validate", "hello.yaml"),
        ("-n", "other", "validate", "hello.yaml"),
        ("-o", "json", "graph", "hello.yaml"),
        ("-o", "json", "init", "x"),
        ("-s", "nats://x", "dev"),
        ("-o", "json", "worker"),
        ("logs", "x", "-o", "yaml"),
    ],
)
def test_options_that_mean_nothing_to_a_command_are_refused(flowctl, cluster, workflow, args):
    ran = flowctl(*args)
    assert (ran.code, ran.out) == (3, "")
    assert "--" in ran.err.splitlines()[-1] or "-o" in ran.err.splitlines()[-1]


def test_a_mistyped_command_is_guessed(flowctl):
    ran = flowctl("sumbit", "x.yaml")
    assert ran.code == 3
    assert "no command 'sumbit' (did you mean 'submit'?)" in ran.err


def test_nothing_found_is_said_beside_the_result(flowctl, cluster):
    cluster.info.workers.clear()
    for command in ("list", "workers"):
        ran = flowctl(command, "-o", "json")
        assert (ran.code, json.loads(ran.out)) == (0, [])
        assert ran.err.startswith("no ")


def test_the_table_of_coordinators_shows_times_for_people(flowctl, cluster):
    cluster.info.coordinators = [
        {"id": "c1", "status": "online", "since_ms": 1_700_000_000_000, "drain_asked": False}
    ]
    ran = flowctl("cluster", "status")
    assert "2023-11-14T22:13:20.000Z" in ran.out
    assert "DRAIN_ASKED" not in ran.out
    assert json.loads(flowctl("cluster", "status", "-o", "json").out)["coordinators"][0]["since_ms"]


@pytest.mark.parametrize("reader", ["true", "head -c 1"])
def test_a_reader_that_goes_is_no_failed_run(workflow, reader):
    """`| true` has gone before the first write, `| head` in the middle."""
    flowctl_ = f"{sys.executable} -c 'from headrace.flowctl import main; main()'"
    # What is written does not fit into the pipe.
    files = "hello.yaml " * 1_200
    script = f"{flowctl_} validate {files} -o json | {reader}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""
