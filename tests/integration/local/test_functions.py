"""A program with a workflow function, killed, goes on where it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parents[2] / "support" / "sdk_child.py"
WITHIN_S = 60


def life(folder, dies_at):
    return subprocess.run(
        [sys.executable, str(CHILD), str(folder), str(dies_at)],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )


@pytest.mark.integration
def test_a_killed_program_continues_with_the_same_folder(tmp_path):
    for dies_at in (1, 3):
        done = life(tmp_path, dies_at)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = life(tmp_path, -1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "30"
    ran = (tmp_path / "ran").read_text().split()
    # What was recorded ran once; what was cut off ran again.
    assert ran == ["0", "1", "1", "2", "3", "3", "4"]
    again = life(tmp_path, -1)
    assert again.stdout.strip() == "30"
    assert (tmp_path / "ran").read_text().split() == ran
