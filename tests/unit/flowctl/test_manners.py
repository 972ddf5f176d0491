"""Options in the wrong place, mistyped commands, empty results, readers that go early."""

import asyncio
import json
import subprocess
import sys

import pytest

from headrace.flowctl._cmd_submit import followed
from headrace.messages import RunView


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


async def test_whom_ctrl_c_stops_waiting_for_goes_on_and_is_named(capsys):
    class Forever:
        async def wait(self, run, *, on_trouble, on_rest):
            await asyncio.Event().wait()

    run = RunView(id="r-7", workflow="w", state="RUNNING")
    waiting = asyncio.create_task(followed(Forever(), run, wait=True, watch=False))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert "run r-7 goes on; `flowctl get r-7 --watch`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--priority", "9" * 30), "a number is too large"),
        (("--label", "k=\udcff"), "a text is not UTF-8"),
    ],
)
def test_what_does_not_fit_into_a_message_is_bad_input(flowctl, cluster, workflow, options, said):
    ran = flowctl("submit", workflow, *options)
    assert (ran.code, said in ran.err) == (3, True), ran.err


def test_a_file_without_end_is_too_large(flowctl):
    ran = flowctl("validate", "/dev/zero")
    assert (ran.code, "has more than" in ran.err) == (3, True), ran.err


def test_a_library_that_is_missing_is_no_bug(flowctl, cluster, workflow):
    def broken(run):
        raise ModuleNotFoundError("No module named 'aiosqlite'", name="aiosqlite")

    cluster.after_submit = broken
    ran = flowctl("submit", workflow)
    assert ran.code == 3
    assert "pip install 'headrace[dev]' (No module named 'aiosqlite')" in ran.err
