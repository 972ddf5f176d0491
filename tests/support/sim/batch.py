"""Many worlds in child processes, where the order of sets of names is the same every time."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from support.sim.world import World

CHUNK = 50
STORY_LINES = 70


class Finding(NamedTuple):
    """A world in which something was violated."""

    seed: int
    profile: str
    violation: str


def _quiet(*, story: bool) -> None:
    logger = logging.getLogger("headrace")
    logger.propagate = False
    logger.setLevel(logging.INFO if story else logging.CRITICAL + 1)


def _run(first: int, count: int) -> list[Finding]:
    _quiet(story=False)
    found = []
    for seed in range(first, first + count):
        world = World(seed)
        violations = world.run()
        if violations:
            found.append(Finding(seed, world.profile, violations[0]))
    return found


def _tell(seed: int) -> tuple[list[str], list[str]]:
    _quiet(story=True)
    world = World(seed, story=True)
    violations = world.run()
    return violations, world.story or []


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Children that begin afresh, with a fixed hash seed: a seed is the same world everywhere."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "0"
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            yield pool
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before


def run_many(first: int, count: int, *, processes: int = 0) -> list[Finding]:
    """Live through *count* worlds; return those in which something was violated."""
    starts = range(first, first + count, CHUNK)
    sizes = [min(CHUNK, first + count - start) for start in starts]
    with _pool(processes or os.cpu_count() or 1) as pool:
        return [finding for found in pool.map(_run, starts, sizes) for finding in found]


def tell(seed: int) -> tuple[list[str], list[str]]:
    """Live through one world again; return what was violated, and its story."""
    with _pool(1) as pool:
        return pool.submit(_tell, seed).result()


def digests(seeds: Iterable[int]) -> list[str]:
    """Return a digest of each world's whole story, made in a process of its own."""
    with _pool(1) as pool:
        return [
            hashlib.blake2b("\n".join(pool.submit(_tell, seed).result()[1]).encode()).hexdigest()
            for seed in seeds
        ]


def report(finding: Finding) -> str:
    """Return what somebody needs who has to find out why."""
    violations, story = tell(finding.seed)
    return "\n".join(
        [
            f"seed {finding.seed} ({finding.profile}): {finding.violation}",
            f"again: pytest tests/simulation --sim-seed {finding.seed}",
            f"whole: PYTHONPATH=tests python -m support.sim --seed {finding.seed} --story",
            *(["…"] if len(story) > STORY_LINES else []),
            *story[-STORY_LINES:],
            *violations[1:],
        ]
    )
