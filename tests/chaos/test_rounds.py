"""The long chaos run in small: two rounds, a report, and nothing left; also when it is stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import until

ROUNDS = Path(__file__).with_name("rounds.py")

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def start(tmp_path):
    """Start the command with all its files below one folder; it is ended with the test."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    started = []

    def begin(*arguments):
        with (tmp_path / "out").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-u", str(ROUNDS), *arguments],
                env=os.environ | {"TMPDIR": str(scratch)},
                stdout=output,
                stderr=output,
            )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    print((tmp_path / "out").read_text())


def left(folder, pid):
    """Return what is left of a command: files, namespaces, processes."""
    found = [path.name for path in (folder / "scratch").iterdir()]
    netns = Path("/run/netns")
    found += [path.name for path in netns.glob(f"hr{pid}*")] if netns.is_dir() else []
    found += [path.name for path in Path("/sys/class/net").glob(f"hr{pid}*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


async def test_two_rounds_end_with_a_report_and_nothing_broken(start, tmp_path):
    only = ("--only", "kill a coordinator", "--only", "freeze a worker")
    report = tmp_path / "report.json"
    process = start("--rounds", "2", "--seed", "4", *only, "--json", str(report))
    await until(lambda: process.poll() is not None, within_s=200, what="two rounds")
    assert process.returncode == 0
    rounds = json.loads(report.read_text())["rounds"]
    assert sorted(row["nemesis"] for row in rounds) == ["freeze a worker", "kill a coordinator"]
    for row in rounds:
        assert row["violations"] == []
        assert min(row["acknowledged"], row["runs"], row["executions"]) > 0
        assert row["submit_pause_s"] > 0
        assert row["step_pause_s"] > 0
    assert left(tmp_path, process.pid) == []


async def test_a_command_that_is_stopped_leaves_nothing(start, tmp_path):
    process = start("--rounds", "9", "--seed", "4", "--only", "freeze a worker")
    scratch = tmp_path / "scratch"
    await until(lambda: list(scratch.glob("*/record.jsonl")), within_s=100, what="the first round")
    process.send_signal(signal.SIGINT)
    await until(lambda: process.poll() is not None, within_s=60, what="the end")
    assert process.returncode == 130
    assert left(tmp_path, process.pid) == []
