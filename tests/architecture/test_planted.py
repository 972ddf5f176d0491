"""The planted bugs have not rotted: each can still be planted, and names tests that exist."""

import ast
import subprocess
import sys

import pytest

from architecture import planted
from support.sim.mishaps import MISHAPS

BUGS = planted.catalogue()
WANTED = {
    "no-fencing",
    "not-dispatched-again-after-takeover",
    "timers-lost-at-takeover",
    "holder-not-released",
    "result-recorded-twice",
    "reply-before-the-log",
    "purge-to-the-newest-snapshot",
}
COUNT_MIN = 15
REVEALED = {
    "loss",
    "delays",
    "copies",
    "kill-worker-at",
    "kill-worker",
    "lose-worker",
    "no-control",
    "kill-controller",
    "freeze-coordinator",
    "partition",
    "clock-forward",
    "clock-back",
    "broker-loss",
    "slow-disk",
    "full-disk",
    "snapshots",
    "rot",
}
"""Kinds of faults, in the simulation, each of which has a bug that worlds with it alone reveal."""


def named(bug):
    return bug.name


def test_what_was_promised_is_on_the_list():
    names = [bug.name for bug in BUGS]
    assert len(names) == len(set(names)) >= COUNT_MIN
    assert set(names) >= WANTED


def test_each_kind_of_fault_has_a_bug_that_it_reveals():
    assert {kind for bug in BUGS for kind in bug.fault.split(",")} >= REVEALED


@pytest.mark.parametrize("bug", BUGS, ids=named)
def test_a_bug_can_be_planted_and_is_still_python(bug):
    # Not so? The code has changed: plant the same bug in the new code, in planted.toml.
    source = (planted.ROOT / bug.file).read_text()
    changed = bug.planted(source)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))


@pytest.mark.parametrize("bug", BUGS, ids=named)
def test_a_bug_uses_names_that_exist(bug):
    """Or tests would be red for a `NameError`, which proves nothing about them."""
    changed = bug.planted((planted.ROOT / bug.file).read_text())
    linting = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-"]
    ran = subprocess.run(linting, input=changed, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("bug", BUGS, ids=named)
def test_a_bug_names_layers_that_can_be_run(bug):
    assert bug.layers
    for layer, targets in bug.layers.items():
        if layer == "simulation":
            assert 0 < int(targets[0]) <= 1_000
            assert set(bug.fault.split(",")) <= {"", *MISHAPS}
            continue
        for target in targets:
            path = target.partition("::")[0]
            assert path.startswith(f"tests/{layer}/")
            assert (planted.ROOT / path).exists(), target


@pytest.mark.parametrize("source", ["nothing\n", "x = 1\nx = 1\n"])
def test_a_bug_whose_text_is_not_there_once_is_refused(source, tmp_path):
    bug = planted.Bug("b", "", "m.py", "x = 1\n", "x = 2\n", {})
    (tmp_path / "m.py").write_text(source)
    with pytest.raises(planted.NotPlantable, match=r"b: its text is . times in m\.py"):
        bug.plant(tmp_path)
    assert (tmp_path / "m.py").read_text() == source
