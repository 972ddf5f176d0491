"""Artifacts of real runs: kept by a cluster and by `flowctl run`, listed, fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cluster import Dev, Machine, shared_dev

__all__ = ["shared_dev"]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FLOW = """
name: keep
jobs:
  make:
    runs-on: linux
    steps:
      - run: mkdir out && echo 42 > out/report.txt && head -c 700000 /dev/urandom > out/noise
      - id: kept
        uses: artifact/upload
        with: {name: report, path: out}
      - uses: artifact/upload
        with: {name: nothing, path: none, if-no-files-found: ignore}
  use:
    needs: make
    runs-on: linux
    steps:
      - uses: artifact/download
        with: {name: report, path: got}
      - run: grep 42 got/report.txt && test "$(stat -c %s got/noise)" = 700000
"""


async def test_of_a_cluster(shared_dev: Dev, tmp_path: Path) -> None:
    (tmp_path / "flow.yaml").write_text(FLOW)
    flow = str(tmp_path / "flow.yaml")
    ran = await shared_dev.flowctl("submit", flow, "--id", "keeps", "--wait", "-o", "json")
    assert ran.code == 0, ran.err + ran.out
    (listed,) = (await shared_dev.flowctl("artifacts", "keeps", "-o", "json")).json
    assert (listed["name"], listed["files"], listed["path"]) == ("report", 2, "make/kept")
    assert listed["size"] > 700_000
    table = (await shared_dev.flowctl("artifacts", "keeps")).out
    assert table.split()[:4] == ["NAME", "SIZE", "FILES", "STEP"]
    got = await shared_dev.flowctl("artifacts", "keeps", "--download", str(tmp_path / "got"))
    assert got.code == 0, got.err
    assert (tmp_path / "got/report/report.txt").read_text() == "42\n"
    none = await shared_dev.flowctl("artifacts", "keeps", "--name", "other")
    assert none.code == 4
    assert "no artifact other" in none.err


async def test_of_an_embedded_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    (tmp_path / "flow.yaml").write_text(FLOW)
    ran = await machine.flowctl("run", str(tmp_path / "flow.yaml"), "--id", "keeps", "-o", "json")
    assert ran.code == 0, ran.err
    folder = str(machine.folder / ".headrace/run")
    listed = await machine.flowctl("artifacts", "keeps", "--dir", folder, "-o", "name")
    assert listed.out.split() == ["report"]
    got = await machine.flowctl(
        "artifacts", "keeps", "--dir", folder, "--download", str(tmp_path / "got")
    )
    assert got.code == 0, got.err
    assert (tmp_path / "got/report/report.txt").read_text() == "42\n"
