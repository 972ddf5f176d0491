"""Folders of steps: removed with their process, or by the next one when that was killed."""

import subprocess
import sys

import pytest

from headrace.worker.scratch import PREFIX, Scratch, sweep

_OTHER = """
import sys
from pathlib import Path
from headrace.worker.scratch import Scratch
print(Scratch(Path(sys.argv[1])).folder("step"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process with a folder below *tmp_path*."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith(str(tmp_path / PREFIX))
    yield process
    process.kill()
    process.communicate()


def roots(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folders_are_different_and_go_with_their_owner(tmp_path):
    scratch = Scratch(tmp_path)
    first, second = scratch.folder("step"), scratch.folder("artifact")
    assert first != second
    assert first.parent == second.parent
    assert (first.name[:5], second.name[:9]) == ("step-", "artifact-")
    assert first.parent.stat().st_mode & 0o77 == 0
    scratch.close()
    assert roots(tmp_path) == []
    assert scratch.folder("step").is_dir()
    scratch.close()


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path, other):
    ours = Scratch(tmp_path)
    mine = ours.folder("step")
    (mine / "script.sh").touch()
    for name in (f"{PREFIX}no-lock-yet", f".{PREFIX}hidden", "elsewhere"):
        (tmp_path / name).mkdir()
    before = roots(tmp_path)
    assert sweep(tmp_path) == []
    assert roots(tmp_path) == before
    (theirs,) = (
        {*before}
        - {mine.parent.name, f"{PREFIX}no-lock-yet"}
        - {
            f".{PREFIX}hidden",
            "elsewhere",
        }
    )
    other.kill()
    other.wait()
    assert sweep(tmp_path) == [tmp_path / theirs]
    assert roots(tmp_path) == sorted({*before} - {theirs})
    assert (mine / "script.sh").exists()
    ours.close()


def test_the_next_process_sweeps(tmp_path, other):
    other.kill()
    other.wait()
    ours = Scratch(tmp_path)
    mine = ours.folder("step")
    assert roots(tmp_path) == [mine.parent.name]
    ours.close()


def test_a_folder_that_a_cleaner_took_is_made_again(tmp_path):
    ours = Scratch(tmp_path)
    first = ours.folder("step")
    for path in (first, first.parent / "owner.lock"):
        path.rmdir() if path.is_dir() else path.unlink()
    first.parent.rmdir()
    assert ours.folder("step").is_dir()
    ours.close()
