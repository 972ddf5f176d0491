"""mypy --strict and pyright strict over users' code: what is right passes, a mistake does not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

USERS = Path(__file__).parent / "users"
ROOT = Path(__file__).parents[3]
WITHIN_S = 110


def marked(name):
    lines = (USERS / name).read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if "# wrong" in line]


def mypy(name, tmp_path):
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        str(ROOT / "pyproject.toml"),
    ]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), str(USERS / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WITHIN_S)
    found = re.findall(rf"{name}:(\d+): error", done.stdout)
    assert found or not done.returncode, done.stdout + done.stderr
    return sorted({int(line) for line in found}), done.stdout


def pyright(name, tmp_path):
    # What is outside of the folder of its settings is not looked at.
    (tmp_path / name).write_text((USERS / name).read_text())
    settings = {
        "include": [name],
        "extraPaths": [str(ROOT / part) for part in ("common", "coordinator", "worker")],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
    }
    config = tmp_path / "pyrightconfig.json"
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(config)]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=WITHIN_S)
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == 1, done.stdout
    errors = [d for d in told["generalDiagnostics"] if d["severity"] == "error"]
    return sorted({d["range"]["start"]["line"] + 1 for d in errors}), done.stdout


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_right_code_passes(checker, tmp_path):
    lines, told = checker("right.py", tmp_path)
    assert lines == [], told


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_each_mistake_is_found_and_nothing_else(checker, tmp_path):
    lines, told = checker("wrong.py", tmp_path)
    assert lines == marked("wrong.py"), told
