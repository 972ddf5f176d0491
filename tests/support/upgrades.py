"""Rolling upgrades of real processes: one after the other gets another release, under load.

A release is an environment: of the same code with another feature level (a clone has no other
code), or of another tree of this repository before the installed one on the path.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from headrace.bus import connect
from headrace.coordinator.shardlog.jetstream import last_epoch
from headrace.coordinator.shardlog.levels import TEST_SWITCH
from support.chaos import APP, Load, Verdict
from support.cluster import START_S, TESTS, Cluster

ROOT = TESTS.parent
PACKAGES = ("common", "coordinator", "worker")


class Release(NamedTuple):
    """What a process is started with to be of a release."""

    name: str
    env: Mapping[str, str]


def of_level(level: int) -> Release:
    """This code, which claims to have a feature level."""
    return Release(f"level {level}", {TEST_SWITCH: str(level)})


def of_tree(name: str, tree: Path) -> Release:
    """The code below *tree*; handlers of tests are always ours."""
    path = [str(tree / package) for package in PACKAGES]
    return Release(name, {"PYTHONPATH": os.pathsep.join([*path, str(TESTS)])})


def checked_out(ref: str, folder: Path) -> Path:
    """Write the tree of a commit below *folder* and return its path."""
    tree = folder / "tree"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", ref, *PACKAGES], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    return tree


def made_of(cluster: Cluster, release: Release) -> Cluster:
    """Have every process of *cluster*, which is not started yet, be of *release*."""
    cluster.env |= release.env
    return cluster


async def roll(cluster: Cluster, release: Release, *, within_s: float = START_S) -> None:
    """Restart the workers one by one as *release*, then the coordinators, each when the one before
    works: as docs/operations.md says."""
    for program in (*cluster.workers, *cluster.coordinators):
        assert await program.stop() == 0, f"{program.name} did not end well:\n{program.said()}"
        program.set_env(release.env)
        program.start()
        await cluster.ready(within_s=within_s)


async def levels(cluster: Cluster) -> dict[int, int]:
    """Return the feature level that each journal shard's last owner has asked of the next one."""
    async with await connect([broker.url for broker in cluster.brokers], name="levels") as bus:
        return {
            shard: (await last_epoch(bus, shard))[1].feature_level
            for shard in range(cluster.shards)
        }


async def upgraded_under_load(
    cluster: Cluster, release: Release, *, runs: int, within_s: float = 60.0
) -> Verdict:
    """Roll *cluster* to *release* in the middle of a load; fail unless every run completes."""
    load = Load(cluster, runs=runs, seconds=0.05)
    load.start()
    try:
        await load.progressed(0.1)
        await roll(cluster, release, within_s=within_s)
        await load.submitted(within_s=within_s)
        verdict = await load.verdict()
        assert verdict.runs == runs - len(load.refused), load.refused[:3]
        return verdict
    finally:
        await load.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python tests/chaos/upgrade.py`; returns what to exit with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--from", dest="ref", required=True, help="a commit, branch or tag")
    parser.add_argument("--runs", type=int, default=600, help="of three steps each (600)")
    parser.add_argument("--keep", type=Path, help="logs and stores stay in this folder")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="headrace-upgrade-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        commit = subprocess.run(
            ["git", "rev-parse", "--short", given.ref],
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()
        old = of_tree(commit, checked_out(commit, Path(scratch)))
        try:
            verdict = asyncio.run(_one(folder, old, given.runs))
        except AssertionError as error:
            print(f"from {commit}: FAILED: {error}")
            return 1
    print(
        f"from {commit} to this tree: {verdict.runs} runs completed, "
        f"{verdict.executions} executions, {verdict.twice} steps ran twice"
    )
    return 0


async def _one(folder: Path, old: Release, runs: int) -> Verdict:
    made = Cluster(folder, coordinators=3, workers=2, shards=3, slots=32, apps=[APP])
    ours = of_tree("this tree", ROOT)
    cluster = made_of(made, old)
    try:
        await cluster.start()
        verdict = await upgraded_under_load(cluster, ours, runs=runs, within_s=120.0)
        ran = await cluster.flowctl("cluster", "check", env=ours.env)
        assert ran.code == 0, ran.out + ran.err
        return verdict
    finally:
        await cluster.close()


if __name__ == "__main__":
    sys.exit(main())
