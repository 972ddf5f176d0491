"""`artifact/upload` and `artifact/download`, on a store of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from headrace.messages import ResultStatus
from headrace.worker.builtin.artifact import root_of
from support.worker_owner import make_task, output_of

JOB = "default/r1/job#0"


async def do(bench: Any, uses: str, step: int, *, attempt: int = 1, **inputs: Any) -> Any:
    inputs = {key.replace("_", "-"): value for key, value in inputs.items()}
    return await bench.run_one(
        make_task("default/r1", step=step, uses=uses, inputs=inputs, workspace=JOB, attempt=attempt)
    )


@pytest.fixture
async def work(bench: Any) -> Path:
    """The job's workspace, with some files."""
    made = await bench.run_one(
        make_task(
            "default/r1",
            step=90,
            uses="shell",
            inputs={"run": "mkdir -p out/deep; echo a > out/a.txt; echo b > out/deep/b; pwd"},
            workspace=JOB,
        )
    )
    return Path(output_of(made)["stdout"].strip())


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


async def test_there_and_back(bench: Any, work: Path) -> None:
    kept = output_of(await do(bench, "artifact/upload", 1, name="report", path="out"))
    assert (kept["name"], kept["files"]) == ("report", 2)
    assert len(kept["digest"]) == 64
    got = output_of(await do(bench, "artifact/download", 2, name="report", path="copy"))
    assert got == {"path": str(work / "copy"), "size": 4, "files": 2}
    assert tree(work / "copy") == ["a.txt", "deep/b"]


async def test_names_are_taken_once(bench: Any, work: Path) -> None:
    assert (await do(bench, "artifact/upload", 1, name="x", path="out")).error is None
    taken = await do(bench, "artifact/upload", 2, name="x", path="out/a.txt")
    assert (taken.error.type, taken.error.retryable) == ("exists", False)
    # An attempt before this one may have stored it and died.
    again = await do(bench, "artifact/upload", 3, name="x", path="out/a.txt", attempt=2)
    assert output_of(again)["files"] == 1
    wanted = await do(bench, "artifact/upload", 4, name="x", path="out", overwrite=True)
    assert output_of(wanted)["files"] == 2


@pytest.mark.parametrize(("rule", "fails"), [("warn", False), ("error", True), ("ignore", False)])
async def test_nothing_found(bench: Any, work: Path, rule: str, fails: bool) -> None:
    result = await do(bench, "artifact/upload", 1, path="none/*", if_no_files_found=rule)
    assert (result.status == ResultStatus.FAILED) is fails
    if not fails:
        assert output_of(result)["size"] == 0
        assert bool(result.extra is not None and result.extra.annotations) is (rule == "warn")
    missing = await do(bench, "artifact/download", 2)
    assert (missing.error.type, missing.error.retryable) == ("not-found", False)


async def test_limits_and_names(bench: Any, work: Path) -> None:
    (work / "noise").write_bytes(os.urandom(10_000))
    large = await do(bench, "artifact/upload", 1, path="noise", max_bytes=1_000)
    assert (large.error.type, large.error.retryable) == ("too-large", False)
    for step, name in enumerate(("../x", "a/b", "", ".hidden", "ä")):
        refused = await do(bench, "artifact/upload", 10 + step, name=name, path="out")
        assert refused.error.type == "invalid-input"
    assert not (bench.folder / "artifacts").exists()


@pytest.mark.parametrize(
    ("patterns", "root"),
    [
        (["out"], "out"),
        (["out/a.txt"], "out"),
        (["out/**/*.txt"], "out"),
        (["out/deep", "out/a.txt"], "out"),
        (["out", "!out/deep"], "out"),
        (["*.txt"], "."),
        (["out/deep/b", "other/c"], "."),
    ],
)
def test_what_names_are_relative_to(tmp_path: Path, patterns: list[str], root: str) -> None:
    (tmp_path / "out" / "deep").mkdir(parents=True)
    (tmp_path / "out" / "a.txt").touch()
    assert root_of(tmp_path, patterns) == (tmp_path / root).resolve()
