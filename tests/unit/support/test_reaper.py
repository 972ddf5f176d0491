"""What a run of the tests leaves behind does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import reaper

RUN = """
import subprocess, sys, time
from support import reaper
reaping = reaper.start()
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
{rest}
"""
WITHIN_S = 60


def begun(rest):
    """Return a run that has started a process, and that process."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN.format(rest=rest)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(reaper.__file__).parents[1])},
    )
    assert run.stdout is not None
    return run, int(run.stdout.readline())


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("rest", "number"),
    [("time.sleep(600)", signal.SIGKILL), ("reaper.end(reaping)", None)],
    ids=["killed", "ended"],
)
def test_what_a_run_has_started_ends_with_it(rest, number):
    run, child = begun(rest)
    with run:
        if number is not None:
            assert lives(child)
            run.send_signal(number)
        run.wait(WITHIN_S)
    deadline = time.monotonic() + WITHIN_S
    while lives(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_process_of_this_run_is_marked():
    process = subprocess.Popen(["sleep", "600"])
    try:
        assert process.pid in reaper.bearing(f"{reaper.NAME}={os.environ[reaper.NAME]}")
    finally:
        process.kill()
        process.wait(WITHIN_S)
