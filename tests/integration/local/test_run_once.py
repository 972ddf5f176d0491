"""`flowctl dev --run FILE`: everything starts, the file runs, everything stops; the code tells."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headrace.bus import free_port

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[3] / "examples"
WITHIN_S = 60


@pytest.fixture
def dev(tmp_path):
    """Start `flowctl dev`, its data and its notes below *tmp_path*; killed at the end."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "headrace.local.child", "dev"),
                *(
                    "--dir",
                    str(tmp_path / "data"),
                    "--port",
                    str(free_port()),
                    *map(str, arguments),
                ),
            ],
            env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "NO_COLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=WITHIN_S)


def workflow(tmp_path, text):
    path = tmp_path / "workflow.yaml"
    path.write_text(text)
    return path


def step(tmp_path, command):
    return workflow(
        tmp_path, f"name: x\njobs:\n  a:\n    runs-on: linux\n    steps:\n      - run: {command}\n"
    )


def until(condition):
    """Wait, in a thread's own time, until *condition* holds."""
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def group_exists(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_that_completes_is_success_and_nothing_is_left_running(tmp_path, dev):
    process = dev("--run", EXAMPLES / "hello.yaml", "--input", "who=Ada")
    out, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, err
    assert "COMPLETED" in out
    ports = json.loads((tmp_path / "data" / "ports.json").read_bytes())
    for port in (ports["nats"], ports["metrics"], ports["metrics"] + 1):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port
    assert not list((tmp_path / "state" / "headrace" / "dev").iterdir())


def test_a_failed_run_and_an_invalid_file_are_told_apart(tmp_path, dev):
    text = step(tmp_path, "exit 7").read_text().replace("linux", "[linux, gpu]")
    failed = dev("--run", workflow(tmp_path, text))
    out, err = failed.communicate(timeout=WITHIN_S)
    assert failed.returncode == 1, err
    assert "FAILED" in out
    # There is nobody else who could offer it.
    assert f"offering also what {tmp_path / 'workflow.yaml'} needs: gpu" in err
    invalid = dev("--run", workflow(tmp_path, "name: ["))
    out, err = invalid.communicate(timeout=WITHIN_S)
    assert (invalid.returncode, out) == (3, ""), err
    assert "workflow.yaml:" in err
    # Nothing was started for what could only be refused.
    assert "headrace dev:" not in err


def test_a_label_that_only_the_run_knows_is_named_while_it_waits(tmp_path, dev):
    text = step(tmp_path, "true").read_text().replace("linux", "${{ format('g{0}', 'pu') }}")
    process = dev("--run", workflow(tmp_path, text))
    said = []
    while "no worker offers gpu" not in (line := process.stderr.readline()):
        assert line, said
        said.append(line)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WITHIN_S)


def test_a_signal_ends_it_before_the_run_has_ended(tmp_path, dev):
    pid_file = tmp_path / "pid"
    process = dev(
        "--run",
        step(tmp_path, f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; sleep 600"),
    )
    until(pid_file.exists)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WITHIN_S)
    assert process.returncode == 130
    # The step was ended too: nothing goes on without its worker. (Whoever inherits the dead
    # processes may take a moment to bury them.)
    until(lambda: not group_exists(int(pid_file.read_text())))


def test_inputs_without_a_file_are_refused(dev):
    process = dev("--input", "a=b")
    _, err = process.communicate(timeout=WITHIN_S)
    assert process.returncode in (2, 3)
    assert "--run" in err
