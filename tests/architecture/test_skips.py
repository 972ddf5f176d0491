"""The list of allowed skips is well-formed, and `--strict-skips` really fails a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import skips

TESTS = Path(__file__).parents[1]


def test_the_list_is_well_formed():
    assert all(entry.test and entry.reason for entry in skips.read(TESTS / "skips.toml"))


def test_the_list_names_files_that_exist():
    for entry in skips.read(TESTS / "skips.toml"):
        assert (TESTS.parent / entry.test.partition("::")[0]).is_file(), entry.test


@pytest.mark.parametrize("text", ['test = "a"', 'test = "a"\nreason = " "', 'reason = "b"'])
def test_an_entry_without_a_test_or_a_reason_is_refused(tmp_path, text):
    path = tmp_path / "skips.toml"
    path.write_text(f"[[skip]]\n{text}\n")
    with pytest.raises(ValueError, match=r"skips\.toml"):
        skips.read(path)


def test_patterns_match_whole_names_and_brackets_are_plain():
    allowed = [skips.Allowed("t.py::a", "x"), skips.Allowed("t.py::b[*]", "x")]
    skipped = ["t.py::b[1]", "t.py::a", "t.py::aa", "t.py::b", "t.py::aa"]
    assert skips.unlisted(skipped, allowed) == ["t.py::aa", "t.py::b"]


SKIPPED = {
    "skip": "import pytest\n@pytest.mark.skip\ndef test(): pass",
    "xfail": "import pytest\n@pytest.mark.xfail\ndef test(): assert False",
    "module": "import pytest\npytest.importorskip('no_such_module_at_all')\ndef test(): pass",
}


def strict(folder, processes):
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "conftest", "--strict-skips", "-n", processes, "."),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("processes", ["0", "1"])
def test_unlisted_skips_fail_the_run(tmp_path, processes):
    (tmp_path / "test_other.py").write_text("def test(): pass")
    ran = strict(tmp_path, processes)
    assert (ran.returncode, "NOT LISTED" in ran.stdout) == (0, False), ran.stdout + ran.stderr
    for kind, text in SKIPPED.items():
        (tmp_path / f"test_{kind}.py").write_text(text)
    ran = strict(tmp_path, processes)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    told = [line for line in ran.stdout.splitlines() if "NOT LISTED" in line]
    assert len(told) == len(SKIPPED), ran.stdout
    assert all(any(f"test_{kind}.py" in line for line in told) for kind in SKIPPED), told
